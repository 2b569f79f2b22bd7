use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tonic::body::Body;
use tonic::{Code, Status};

use super::error;
use crate::gateway::frame::HEAD;
use crate::gateway::json::{Malformed, Schema};
use crate::gateway::speech::Codec;
use crate::gateway::wiped::Wiped;
use crate::rpc::Method;

/// The whole answer of a unary call is there as soon as its head is: its handler has made it and put it on record.
pub(in crate::gateway) async fn answer<B>(
    schema: &Schema,
    codec: Codec,
    method: Option<&Method>,
    answer: Response<B>,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes, Error = Status> + Send + Unpin + 'static,
{
    let (head, mut body) = answer.into_parts();
    let outcome = match Status::from_header_map(&head.headers) {
        Some(status) if status.code() != Code::Ok => Err(status),
        Some(_) | None => message(&mut body).await,
    };
    let told = outcome.and_then(|message| {
        told(schema, codec, method, message)
            .map_err(|Malformed| Status::internal("the answer cannot be told in JSON; report this"))
    });
    let mut response = match told {
        Ok(told) => {
            let kind = match codec {
                Codec::Json => "application/json",
                Codec::Proto => "application/proto",
            };
            whole(StatusCode::OK, kind, told, body)
        }
        Err(status) => {
            let mut response =
                whole(error::http_status(status.code()), "application/json", error::json(schema, &status), body);
            error::add_headers(&status, response.headers_mut());
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The frame of the one message, or what came instead.
async fn message<B>(body: &mut B) -> Result<Wiped, Status>
where
    B: http_body::Body<Data = Bytes, Error = Status> + Unpin,
{
    let mut message = Wiped::with_capacity(usize::try_from(body.size_hint().lower()).unwrap_or(0));
    let mut status = None;
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => message.put(&data),
            Err(other) => status = other.trailers_ref().and_then(Status::from_header_map),
        }
    }
    match status {
        Some(status) if status.code() == Code::Ok => Ok(message),
        Some(status) => Err(status),
        None => Err(Status::internal("the answer has no status; report this")),
    }
}

fn told(schema: &Schema, codec: Codec, method: Option<&Method>, frame: Wiped) -> Result<Bytes, Malformed> {
    let length = frame.as_slice().get(1..HEAD).and_then(|length| length.try_into().ok()).map(u32::from_be_bytes);
    if frame.as_slice().first() != Some(&0)
        || length.and_then(|length| usize::try_from(length).ok()) != frame.len().checked_sub(HEAD)
    {
        return Err(Malformed);
    }
    if codec == Codec::Proto {
        return Ok(frame.into_bytes().slice(HEAD..));
    }
    let types = method.and_then(|method| schema.method(method.path)).ok_or(Malformed)?;
    // Base64, and names of fields.
    let mut json = Wiped::with_capacity(frame.len() / 3 * 4 + 1024);
    schema.write(types.output, &frame.as_slice()[HEAD..], &mut json)?;
    Ok(json.into_bytes())
}

fn whole<B>(status: StatusCode, kind: &'static str, bytes: Bytes, answer: B) -> Response<Body>
where
    B: http_body::Body<Data = Bytes, Error = Status> + Send + Unpin + 'static,
{
    let mut response = Response::new(Body::new(Whole { bytes: Some(bytes), _answer: answer }));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Keeps the answer that it was made from, and with it the call's place, until it has been taken.
struct Whole<B> {
    bytes: Option<Bytes>,
    _answer: B,
}

impl<B: Unpin> http_body::Body for Whole<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
