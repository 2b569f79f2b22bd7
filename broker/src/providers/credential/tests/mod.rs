#![allow(clippy::unwrap_used, clippy::panic)]

mod chains;
mod double;
mod keeping;
mod misconfigured;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::{Clock, SharedClock, Timestamp};

/// Follows the runtime's clock, which tests pause; its wall time can be set.
#[derive(Debug)]
struct TestClock {
    begun: tokio::time::Instant,
    set_by: AtomicI64,
}

const BEGUN: u64 = 1_800_000_000;

impl TestClock {
    fn new() -> Arc<Self> {
        Arc::new(Self { begun: tokio::time::Instant::now(), set_by: AtomicI64::new(0) })
    }

    fn shared(self: &Arc<Self>) -> SharedClock {
        Arc::clone(self) as SharedClock
    }

    fn set_wall_by(&self, seconds: i64) {
        self.set_by.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let base = BEGUN.checked_add_signed(self.set_by.load(Ordering::SeqCst)).unwrap();
        Timestamp::from_secs(base).plus(self.begun.elapsed())
    }

    fn monotonic(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

const HOUR: Duration = Duration::from_secs(3600);
