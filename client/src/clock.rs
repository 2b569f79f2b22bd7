//! The one place that asks what day it is. All waiting is on Tokio's clock.

use std::time::{Duration, SystemTime};

#[expect(clippy::disallowed_methods, reason = "ends of tokens and credentials are told by the calendar")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// How long it is until then; zero when it has passed.
pub(crate) fn until(time: SystemTime) -> Duration {
    time.duration_since(now()).unwrap_or_default()
}
