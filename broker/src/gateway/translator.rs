//! Other ways to speak become gRPC on the way in, and gRPC becomes them on the way out. In between lies everything that
//! a call passes through, so no way to speak has a way of its own to a handler.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::Status;
use tonic::body::Body;

use super::frame::HEAD;
use super::json::{Schema, SchemaError};
use super::origins::Origins;
use super::speech::{Coding, Refusal, Speech};
use super::{connect, grpc_web};
use crate::error::Failure;
use crate::rpc::Method;

#[derive(Debug)]
pub struct Translator {
    schema: Schema,
    origins: Origins,
    message_bytes: usize,
}

/// What the head of a request said.
#[derive(Debug)]
pub struct Heard {
    pub speech: Speech,
    /// The browser's page that asks, which may.
    origin: Option<HeaderValue>,
}

impl Translator {
    pub fn new(origins: Vec<String>, message_bytes: usize) -> Result<Self, SchemaError> {
        Ok(Self { schema: Schema::new()?, origins: Origins::new(origins), message_bytes })
    }

    pub fn hear<B>(&self, request: &Request<B>) -> Result<Heard, Refusal> {
        let speech = Speech::of(request, &self.schema);
        if matches!(speech, Ok(Speech::Grpc)) {
            // No browser sends this content type unless a preflight allowed it.
            return Ok(Heard { speech: Speech::Grpc, origin: None });
        }
        let origin = self.origins.admit(request)?;
        Ok(Heard { speech: speech?, origin })
    }

    /// How large a request's body may be. What is to be translated is bounded where that is done.
    pub fn body_bytes(&self, speech: Speech, method: &Method) -> usize {
        match speech {
            Speech::Grpc | Speech::GrpcWeb(Coding::Binary) => HEAD + method.request_bytes(self.message_bytes),
            Speech::GrpcWeb(Coding::Base64) | Speech::Connect { .. } => usize::MAX,
        }
    }

    /// What `method` is asked, as gRPC asks it. Whoever calls this knows the caller. What only others need is boxed, so
    /// that a call of gRPC carries none of it.
    pub async fn request(
        &self,
        speech: Speech,
        method: &Method,
        request: Request<Body>,
    ) -> Result<Request<Body>, Failure> {
        let most = method.request_bytes(self.message_bytes);
        let mut request = match speech {
            Speech::Grpc => return Ok(request),
            Speech::GrpcWeb(Coding::Binary) => request,
            Speech::GrpcWeb(Coding::Base64) => Box::pin(grpc_web::decoded(request, most)).await?,
            Speech::Connect { codec, get } => {
                let asked = connect::Asked { codec, get, most };
                Box::pin(connect::request(&self.schema, asked, method, request)).await?
            }
        };
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Ok(request)
    }

    /// What gRPC answers, as the caller hears it. `body` is kept until the answer has been taken.
    pub async fn answer<B>(&self, heard: Heard, method: Option<&Method>, answer: Response<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes, Error = Status> + Send + Unpin + 'static,
    {
        let mut response = match heard.speech {
            Speech::Grpc => return answer.map(Body::new),
            Speech::GrpcWeb(coding) => grpc_web::answer(coding, answer),
            Speech::Connect { codec, .. } => Box::pin(connect::answer(&self.schema, codec, method, answer)).await,
        };
        self.origins.allow(heard.origin, response.headers_mut());
        response
    }
}

impl Speech {
    /// How long the caller wants to wait.
    pub fn timeout(self, headers: &HeaderMap) -> Result<Option<Duration>, Failure> {
        match self {
            Self::Grpc | Self::GrpcWeb(_) => crate::transport::grpc_timeout(headers),
            Self::Connect { .. } => connect::timeout(headers),
        }
    }
}
