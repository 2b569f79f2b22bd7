use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, Request};
use tonic::body::Body;

use super::query::Query;
use crate::error::{Failure, Reason};
use crate::gateway::frame;
use crate::gateway::json::{MessageId, Schema};
use crate::gateway::speech::Codec;
use crate::gateway::wiped::Wiped;
use crate::rpc::Method;

const VERSION: &str = "connect-protocol-version";
const TIMEOUT: &str = "connect-timeout-ms";

#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct Asked {
    pub(in crate::gateway) codec: Codec,
    pub(in crate::gateway) get: bool,
    /// Bytes of a message.
    pub(in crate::gateway) most: usize,
}

pub(in crate::gateway) async fn request(
    schema: &Schema,
    Asked { codec, get, most }: Asked,
    method: &Method,
    request: Request<Body>,
) -> Result<Request<Body>, Failure> {
    if method.streams {
        let message = "this method answers with a stream, which JSON over HTTP has no room for; use gRPC or gRPC-Web";
        return Err(Failure::new(Reason::Unimplemented, message));
    }
    let types = schema.method(method.path).ok_or_else(|| {
        Failure::new(Reason::Unimplemented, "this method is not spoken in JSON; use gRPC or gRPC-Web")
    })?;
    let (mut head, body) = request.into_parts();
    check_version(&head.headers)?;
    check_encoding(&head.headers)?;
    let mut sent = if get {
        Query::parse(head.uri.query().unwrap_or_default())?.message(most)?
    } else {
        frame::collect(body, most).await?
    };
    let message = match codec {
        Codec::Proto => sent,
        Codec::Json => from_json(schema, types.input, &mut sent)?,
    };
    // gRPC's own headers mean nothing here, and must not come to mean something.
    for name in [CONTENT_TYPE.as_str(), CONTENT_ENCODING.as_str(), "content-length", "grpc-encoding", "grpc-timeout"] {
        head.headers.remove(name);
    }
    head.method = http::Method::POST;
    Ok(Request::from_parts(head, frame::body(frame::finish(message))))
}

fn from_json(schema: &Schema, input: MessageId, sent: &mut Wiped) -> Result<Wiped, Failure> {
    let json = &mut sent.as_mut_slice()[frame::HEAD..];
    let out = frame::begin(json.len());
    schema.read(input, json, out)
}

fn check_version(headers: &HeaderMap) -> Result<(), Failure> {
    match headers.get(VERSION) {
        Some(version) if version != "1" => {
            Err(Failure::bad_field(Reason::InvalidArgument, VERSION, "is not 1; send 1, or leave it out"))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_encoding(headers: &HeaderMap) -> Result<(), Failure> {
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => Err(compressed()),
        Some(_) | None => Ok(()),
    }
}

pub(super) fn compressed() -> Failure {
    Failure::new(Reason::Unimplemented, "compressed messages are not accepted; send it uncompressed")
}

/// One to ten digits, in milliseconds.
pub(in crate::gateway) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Failure> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| (1..=10).contains(&text.len()));
    let milliseconds =
        digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())).and_then(|text| text.parse().ok());
    milliseconds
        .map(|milliseconds| Some(Duration::from_millis(milliseconds)))
        .ok_or_else(|| Failure::bad_field(Reason::InvalidArgument, TIMEOUT, "is not 1 to 10 digits"))
}
