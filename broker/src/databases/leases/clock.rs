//! Time as leases count it: it never goes back, and never slower than it passes.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::clock::{SharedClock, Timestamp};

/// A wall clock that is set back extends no lease; one that is set forth ends leases early, which is the safe side.
#[derive(Debug)]
pub(super) struct LeaseClock {
    clock: SharedClock,
    latest: Mutex<(Timestamp, Instant)>,
}

impl LeaseClock {
    pub(super) fn new(clock: SharedClock) -> Self {
        let latest = Mutex::new((clock.now(), clock.monotonic()));
        Self { clock, latest }
    }

    pub(super) fn now(&self) -> Timestamp {
        let (wall, passed) = (self.clock.now(), self.clock.monotonic());
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let now = wall.max(latest.0.plus(passed.saturating_duration_since(latest.1)));
        *latest = (now, passed.max(latest.1));
        now
    }

    /// It is at least so late: a record says so.
    pub(super) fn not_before(&self, time: Timestamp) {
        let now = self.now().max(time);
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).0 = now;
    }
}
