//! A request's body, read only once its sender is known, and no more of it than an event can be.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

use super::answer::{self, Answer};

/// Event Grid sends batches of at most 1 MB.
const MOST_BYTES: usize = 1024 * 1024;

pub(super) async fn read(body: Incoming, within: Duration) -> Result<Bytes, Answer> {
    // One that says so itself need not be read to be refused.
    if body.size_hint().lower() > MOST_BYTES as u64 {
        return Err(too_large());
    }
    match timeout(within, Limited::new(body, MOST_BYTES).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(answer::text(StatusCode::BAD_REQUEST, "the body broke off; send it again")),
        Err(_) => Err(answer::text(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time; send it again")),
    }
}

fn too_large() -> Answer {
    answer::text(StatusCode::PAYLOAD_TOO_LARGE, "a body of more than 1 MiB is not read; send fewer events at a time")
}
