//! How a store does, as its loads tell: so that an outage costs those who read what is cached no waiting.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::names::SecretName;

/// Between two attempts to find out whether a failing store answers again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// For this long after it answered again, what went stale is refreshed in the background, a few at a time.
const RECOVERY: Duration = Duration::from_secs(30);
const REFRESHES: usize = 32;

/// Lock-free, since all readers of a store look at it while the store is out. The store counts as failing when two of
/// its secrets failed; one alone is in the way of nobody but its own readers.
#[derive(Debug)]
pub(super) struct Standing {
    base: Instant,
    /// In microseconds after `base`. Until then what is stale is served at once; `FAILING` while no end is in sight.
    steady_at: AtomicU64,
    next_attempt: AtomicU64,
    failures: AtomicU32,
    /// The secret that failed last, hashed; zero for none.
    suspect: AtomicU64,
    spread: RandomState,
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
            suspect: AtomicU64::new(0),
            spread: RandomState::new(),
            refreshes: Arc::new(Semaphore::new(REFRESHES)),
        }
    }

    /// Whether a reader should rather take what is stale than wait.
    pub(super) fn is_unsteady(&self, secret: &SecretName, now: Instant) -> bool {
        self.micros(now) < self.steady_at.load(Relaxed) || self.is_suspect(secret)
    }

    /// The right to one load in the background: while the store or this secret fails, one after each pause.
    pub(super) fn claim(&self, secret: &SecretName, now: Instant) -> Option<OwnedSemaphorePermit> {
        if self.steady_at.load(Relaxed) == FAILING || self.is_suspect(secret) {
            let (now, due) = (self.micros(now), self.next_attempt.load(Relaxed));
            let next = now.saturating_add(micros(self.pause()));
            if now < due || self.next_attempt.compare_exchange(due, next, Relaxed, Relaxed).is_err() {
                return None;
            }
        }
        Arc::clone(&self.refreshes).try_acquire_owned().ok()
    }

    pub(super) fn failed(&self, secret: &SecretName, now: Instant) {
        let hash = self.hash(secret);
        let before = self.suspect.swap(hash, Relaxed);
        let spreads = before != 0 && before != hash && self.steady_at.swap(FAILING, Relaxed) != FAILING;
        if spreads || before == 0 {
            self.failures.store(0, Relaxed);
            self.next_attempt.store(self.micros(now).saturating_add(micros(FIRST_PAUSE)), Relaxed);
        }
        self.failures.fetch_add(1, Relaxed);
    }

    pub(super) fn answered(&self, secret: &SecretName, now: Instant) {
        let failing = self.steady_at.load(Relaxed) == FAILING;
        if failing {
            self.steady_at.store(self.micros(now).saturating_add(micros(RECOVERY)), Relaxed);
        }
        if failing || self.is_suspect(secret) {
            self.suspect.store(0, Relaxed);
        }
    }

    fn is_suspect(&self, secret: &SecretName) -> bool {
        let suspect = self.suspect.load(Relaxed);
        suspect != 0 && suspect == self.hash(secret)
    }

    fn hash(&self, secret: &SecretName) -> u64 {
        self.spread.hash_one(secret) | 1
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
