//! Times and durations, between the contract's types and ours.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Failure, Reason};

pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let nanos = i32::try_from(time.as_micros() % 1_000_000 * 1_000).unwrap_or_default();
    prost_types::Timestamp { seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), nanos }
}

/// A span that a caller sent: not negative.
pub(super) fn duration(field: &'static str, span: &prost_types::Duration) -> Result<Duration, Failure> {
    // Looked at before it is converted: the conversion negates, and the least number has no opposite.
    let seconds = u64::try_from(span.seconds).ok();
    let nanos = u32::try_from(span.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    seconds.zip(nanos).map(|(seconds, nanos)| Duration::new(seconds, nanos)).ok_or_else(|| {
        Failure::bad_field(Reason::InvalidArgument, field, "is negative or out of range; write 0s or more")
    })
}
