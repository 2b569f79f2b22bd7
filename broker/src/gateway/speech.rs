//! How a caller speaks on the port of gRPC. The request's head tells, before anything is done for it; what speaks no
//! known way is turned away in plain words.

use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use tonic::body::Body;

use super::json::Schema;

const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");

/// The plain answer to what is no call.
pub type Refusal = Box<Response<Body>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    Grpc,
    GrpcWeb(Coding),
    /// Unary calls as plain HTTP: what curl and a gateway's policy can send.
    Connect {
        codec: Codec,
        get: bool,
    },
}

/// What stands for bytes on gRPC-Web's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Binary,
    Base64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    Json,
    Proto,
}

impl Speech {
    /// As in audit records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::GrpcWeb(_) => "grpc-web",
            Self::Connect { .. } => "connect",
        }
    }

    /// gRPC itself pays for one look at one header.
    pub(super) fn of<B>(request: &Request<B>, schema: &Schema) -> Result<Self, Refusal> {
        let kind = essence(request.headers());
        if is_grpc(kind) {
            return is_callable(request).map(|()| Self::Grpc);
        }
        match *request.method() {
            Method::POST => posted(kind),
            Method::GET => got(request, schema),
            _ => Err(not_allowed("GET, POST", "calls are POST here, or GET where they only read; send one of these\n")),
        }
    }
}

fn posted(kind: &[u8]) -> Result<Speech, Refusal> {
    let is = |names: &[&str]| names.iter().any(|name| kind.eq_ignore_ascii_case(name.as_bytes()));
    if is(&["application/json"]) {
        return Ok(Speech::Connect { codec: Codec::Json, get: false });
    }
    if is(&["application/proto"]) {
        return Ok(Speech::Connect { codec: Codec::Proto, get: false });
    }
    if is(&["application/grpc-web", "application/grpc-web+proto"]) {
        return Ok(Speech::GrpcWeb(Coding::Binary));
    }
    if is(&["application/grpc-web-text", "application/grpc-web-text+proto"]) {
        return Ok(Speech::GrpcWeb(Coding::Base64));
    }
    let text = "send content-type application/json with the request as JSON, application/proto, application/grpc \
                (gRPC) or application/grpc-web (gRPC-Web); no other is spoken here\n";
    let mut response = plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    response.headers_mut().insert(ACCEPT_POST, HeaderValue::from_static("application/json, application/proto"));
    Err(response)
}

fn got<B>(request: &Request<B>, schema: &Schema) -> Result<Speech, Refusal> {
    match schema.method(request.uri().path()) {
        None => Err(plain(StatusCode::NOT_FOUND, "there is no such method; check the path\n")),
        Some(method) if !method.only_reads => {
            let text = "this method changes something or takes a secret, so it is not called by GET; send a POST\n";
            Err(not_allowed("POST", text))
        }
        Some(_) => {
            let query = request.uri().query().unwrap_or_default();
            let is_proto = query.split('&').any(|pair| pair == "encoding=proto");
            Ok(Speech::Connect { codec: if is_proto { Codec::Proto } else { Codec::Json }, get: true })
        }
    }
}

/// gRPC itself: HTTP/1 would lose the answer's trailers.
fn is_callable<B>(request: &Request<B>) -> Result<(), Refusal> {
    if request.version() != Version::HTTP_2 {
        let text = "gRPC needs HTTP/2; use a gRPC client, or send application/json\n";
        let mut response = plain(StatusCode::HTTP_VERSION_NOT_SUPPORTED, text);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return Err(response);
    }
    if request.method() != Method::POST {
        return Err(not_allowed("POST", "calls of gRPC are POST; use a gRPC client\n"));
    }
    Ok(())
}

fn is_grpc(kind: &[u8]) -> bool {
    kind.eq_ignore_ascii_case(b"application/grpc") || kind.eq_ignore_ascii_case(b"application/grpc+proto")
}

/// The content type without its parameters.
fn essence(headers: &HeaderMap) -> &[u8] {
    let bytes = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    bytes.split(|byte| *byte == b';').next().unwrap_or(bytes).trim_ascii()
}

fn not_allowed(allowed: &'static str, text: &'static str) -> Refusal {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, text);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

pub(super) fn plain(status: StatusCode, text: &'static str) -> Refusal {
    let mut response = Response::new(Body::new(http_body_util::Full::new(text.into())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Box::new(response)
}
