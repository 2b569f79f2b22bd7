//! A clock that moves when told to.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use keyferry_broker::clock::{Clock, SystemClock, Timestamp};

#[derive(Debug)]
pub struct ManualClock {
    start: (Timestamp, Instant),
    moved: Mutex<Moved>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    elapsed: Duration,
    /// Wall time alone, as when an operator or NTP sets it.
    set_forward: Duration,
    set_back: Duration,
}

impl ManualClock {
    /// Starts at the real time, so that certificates made just now are valid.
    pub fn new() -> Self {
        Self { start: (SystemClock.now(), SystemClock.monotonic()), moved: Mutex::default() }
    }

    pub fn advance(&self, span: Duration) {
        self.moved.lock().unwrap().elapsed += span;
    }

    pub fn set_forward(&self, span: Duration) {
        self.moved.lock().unwrap().set_forward += span;
    }

    pub fn set_back(&self, span: Duration) {
        self.moved.lock().unwrap().set_back += span;
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let moved = *self.moved.lock().unwrap();
        let forward = self.start.0.plus(moved.elapsed).plus(moved.set_forward);
        let back = u64::try_from(moved.set_back.as_micros()).unwrap();
        Timestamp::from_micros(forward.as_micros().saturating_sub(back))
    }

    fn monotonic(&self) -> Instant {
        self.start.1 + self.moved.lock().unwrap().elapsed
    }
}
