//! A status of gRPC as Connect tells it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::gateway::json::{Schema, write_text};
use crate::gateway::wiped::Wiped;

/// `{"code": …, "message": …, "details": [{"type": …, "value": …, "debug": …}]}`
pub(super) fn json(schema: &Schema, status: &Status) -> Bytes {
    let mut out = Wiped::with_capacity(512);
    out.put(b"{\"code\":\"");
    out.put(name(status.code()).as_bytes());
    out.put(b"\",\"message\":");
    text(status.message(), &mut out);
    let details = tonic_types::pb::Status::decode(status.details()).map(|status| status.details).unwrap_or_default();
    for (place, detail) in details.iter().enumerate() {
        let kind = detail.type_url.rsplit('/').next().unwrap_or_default();
        out.put(if place == 0 { b",\"details\":[{\"type\":" } else { b",{\"type\":" });
        text(kind, &mut out);
        out.put(b",\"value\":");
        text(&STANDARD_NO_PAD.encode(&detail.value), &mut out);
        let mut debug = Wiped::with_capacity(256);
        let shown = schema.message_named(kind).map(|message| schema.write(message, &detail.value, &mut debug));
        if let Some(Ok(())) = shown {
            out.put(b",\"debug\":");
            out.put(debug.as_slice());
        }
        out.put(b"}");
    }
    out.put(if details.is_empty() { b"}" } else { b"]}" });
    out.into_bytes()
}

/// For those who read nothing else of an answer: HTTP's own ways to say when to come back, and with what.
pub(super) fn add_headers(status: &Status, headers: &mut HeaderMap) {
    if let Some(delay) = status.get_details_retry_info().and_then(|info| info.retry_delay) {
        let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status.code() == Code::Unauthenticated {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
}

pub(super) fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // The client closed the request; HTTP has no number of its own for it.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok | Code::Unknown => "unknown",
        Code::Cancelled => "canceled",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// Writing into memory does not fail.
fn text(text: &str, out: &mut Wiped) {
    let _ = write_text(text, out);
}
