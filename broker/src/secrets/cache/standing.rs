//! How a store does, as its loads tell: so that an outage costs those who read what is cached no waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Between two attempts to find out whether a failing store answers again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// For this long after it answered again, what went stale is refreshed in the background, a few at a time.
const RECOVERY: Duration = Duration::from_secs(30);
const REFRESHES: usize = 32;

/// Lock-free, since all readers of a store look at it while the store is out.
#[derive(Debug)]
pub(super) struct Standing {
    base: Instant,
    /// In microseconds after `base`. Until then what is stale is served at once; `FAILING` while no end is in sight.
    steady_at: AtomicU64,
    next_attempt: AtomicU64,
    failures: AtomicU32,
    refreshes: Arc<Semaphore>,
}

const FAILING: u64 = u64::MAX;

impl Standing {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            base: now,
            steady_at: AtomicU64::new(0),
            next_attempt: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            refreshes: Arc::new(Semaphore::new(REFRESHES)),
        }
    }

    /// Whether a reader should rather take what is stale than wait.
    pub(super) fn is_unsteady(&self, now: Instant) -> bool {
        self.micros(now) < self.steady_at.load(Relaxed)
    }

    /// The right to one load in the background: while the store fails, one after each pause.
    pub(super) fn claim(&self, now: Instant) -> Option<OwnedSemaphorePermit> {
        if self.steady_at.load(Relaxed) == FAILING {
            let (now, due) = (self.micros(now), self.next_attempt.load(Relaxed));
            let next = now.saturating_add(micros(self.pause()));
            if now < due || self.next_attempt.compare_exchange(due, next, Relaxed, Relaxed).is_err() {
                return None;
            }
        }
        Arc::clone(&self.refreshes).try_acquire_owned().ok()
    }

    pub(super) fn failed(&self, now: Instant) {
        self.failures.fetch_add(1, Relaxed);
        if self.steady_at.swap(FAILING, Relaxed) != FAILING {
            self.next_attempt.store(self.micros(now).saturating_add(micros(FIRST_PAUSE)), Relaxed);
        }
    }

    pub(super) fn answered(&self, now: Instant) {
        if self.steady_at.load(Relaxed) == FAILING {
            self.failures.store(0, Relaxed);
            self.steady_at.store(self.micros(now).saturating_add(micros(RECOVERY)), Relaxed);
        }
    }

    fn pause(&self) -> Duration {
        let doublings = self.failures.load(Relaxed).saturating_sub(1).min(8);
        FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE)
    }

    fn micros(&self, now: Instant) -> u64 {
        micros(now.saturating_duration_since(self.base))
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX - 1)
}
