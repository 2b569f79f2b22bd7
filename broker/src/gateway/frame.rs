//! A message of gRPC: a flag and a length, then its bytes.

use bytes::Bytes;
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use tonic::body::Body;
use tonic::{Code, Status};

use super::wiped::Wiped;
use crate::error::{Failure, Reason};

pub(super) const HEAD: usize = 5;

/// What a whole body holds, after room for the head of a frame.
pub(super) async fn collect(mut body: Body, most: usize) -> Result<Wiped, Failure> {
    let announced = body.size_hint().lower();
    if announced > most as u64 {
        return Err(too_large());
    }
    let mut whole = begin(usize::try_from(announced).unwrap_or(0));
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|status| broken_off(&status))?.into_data() else { continue };
        if whole.len() - HEAD + data.len() > most {
            return Err(too_large());
        }
        whole.put(&data);
    }
    Ok(whole)
}

pub(super) fn begin(capacity: usize) -> Wiped {
    let mut frame = Wiped::with_capacity(HEAD + capacity);
    frame.put(&[0; HEAD]);
    frame
}

/// Writes the head of the frame whose message follows it.
pub(super) fn finish(mut frame: Wiped) -> Bytes {
    let length = u32::try_from(frame.len() - HEAD).unwrap_or(u32::MAX);
    frame.as_mut_slice()[1..HEAD].copy_from_slice(&length.to_be_bytes());
    frame.into_bytes()
}

pub(super) fn body(frame: Bytes) -> Body {
    Body::new(Full::new(frame))
}

pub(super) fn too_large() -> Failure {
    let message = "the message is larger than [limits] message_bytes allows; send less at a time";
    Failure::new(Reason::MessageTooLarge, message)
}

/// A body that came too late says so itself.
fn broken_off(status: &Status) -> Failure {
    if status.code() == Code::DeadlineExceeded {
        return Failure::new(Reason::DeadlineExceeded, status.message());
    }
    Failure::new(Reason::InvalidArgument, "the request's body broke off; send all of it")
}
