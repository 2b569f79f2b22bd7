//! How much one caller may do: a token bucket per class of calls, and a guard against scraping.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::kept::Kept;
use crate::clock::SharedClock;
use crate::error::{Failure, Reason};
use crate::names::SecretName;

/// Callers remembered at a time. One that was forgotten begins with a full bucket, which a stranger would too.
const MAX_CALLERS: usize = 65_536;

/// Limits of each replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaSettings {
    pub read: Bucket,
    pub mint: Bucket,
    pub change: Bucket,
    pub operate: Bucket,
    /// Streams that a caller may hold open.
    pub streams: usize,
    /// A caller that touches more secrets than this within the window is taken for a scraper.
    pub distinct_secrets: u32,
    pub distinct_window: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Calls per second.
    pub rate: u32,
    /// Calls at once, after a pause.
    pub burst: u32,
}

/// What a call counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuotaClass {
    None,
    Read,
    Change,
    Mint,
    Operate,
}

/// What a caller could do at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    pub bucket: Bucket,
    pub calls_left: u64,
}

#[derive(Debug)]
pub struct Quota {
    settings: QuotaSettings,
    callers: Kept<Arc<str>, Arc<Usage>>,
    hasher: foldhash::fast::RandomState,
    clock: SharedClock,
    epoch: Instant,
}

/// One caller's use, lock-free but for the guard.
#[derive(Debug, Default)]
struct Usage {
    /// Per class: the moment, in nanoseconds since the epoch, at which the bucket will be full again.
    full_at: [AtomicU64; 4],
    touched: Mutex<Touched>,
}

/// Hashes of secrets' names, each with the second of its last touch.
#[derive(Debug, Default)]
struct Touched(HashMap<u64, u32, foldhash::fast::RandomState>);

impl Quota {
    pub fn new(settings: QuotaSettings, clock: SharedClock) -> Self {
        let idle = settings.distinct_window.max(Duration::from_secs(60));
        Self {
            settings,
            callers: Kept::new(MAX_CALLERS, idle),
            hasher: foldhash::fast::RandomState::default(),
            epoch: clock.monotonic(),
            clock,
        }
    }

    /// Takes one call out of the caller's bucket and, for a secret, remembers that it was touched.
    pub fn take(&self, caller: &Arc<str>, class: QuotaClass, secret: Option<&SecretName>) -> Result<(), Failure> {
        let Some((place, bucket)) = self.bucket(class) else { return Ok(()) };
        let now = self.clock.monotonic().saturating_duration_since(self.epoch);
        let usage = self.callers.get_or_insert(caller, Arc::default, now);
        if let Err(wait) = usage.spend(place, bucket, now) {
            let limit = format!("{} {} calls a second, {} at once", bucket.rate, class.as_str(), bucket.burst);
            let message = format!("{caller} has used up its quota of {limit}; wait as long as RetryInfo says");
            return Err(Failure::new(Reason::QuotaExceeded, message).quota(caller.to_string(), limit, wait));
        }
        match secret {
            Some(secret) => self.touch(caller, &usage, secret, now),
            None => Ok(()),
        }
    }

    /// What is left to the caller, without using any of it; `None` for calls that are not metered.
    pub fn allowance(&self, caller: &str, class: QuotaClass) -> Option<Allowance> {
        let (place, bucket) = self.bucket(class)?;
        let now = self.clock.monotonic().saturating_duration_since(self.epoch);
        let calls_left = match self.callers.get(caller, now) {
            Some(usage) => usage.left(place, bucket, now),
            None => u64::from(bucket.burst.max(1)),
        };
        Some(Allowance { bucket, calls_left })
    }

    /// How many callers are remembered.
    pub fn callers(&self) -> usize {
        self.callers.len()
    }

    fn touch(&self, caller: &Arc<str>, usage: &Usage, secret: &SecretName, now: Duration) -> Result<(), Failure> {
        let hash = self.hasher.hash_one(secret.as_str());
        let mut touched = usage.touched.lock().unwrap_or_else(PoisonError::into_inner);
        let Err(wait) = touched.add(hash, now, &self.settings) else { return Ok(()) };
        let (most, window) = (self.settings.distinct_secrets, self.settings.distinct_window);
        let limit = format!("{most} different secrets in {window:?}");
        let message = format!(
            "{caller} has touched {limit}, as many as [quota] distinct_secrets allows; those it has touched it may \
             still read"
        );
        Err(Failure::new(Reason::DistinctSecretsExceeded, message).quota(caller.to_string(), limit, wait))
    }

    fn bucket(&self, class: QuotaClass) -> Option<(usize, Bucket)> {
        match class {
            QuotaClass::None => None,
            QuotaClass::Read => Some((0, self.settings.read)),
            QuotaClass::Change => Some((1, self.settings.change)),
            QuotaClass::Mint => Some((2, self.settings.mint)),
            QuotaClass::Operate => Some((3, self.settings.operate)),
        }
    }
}

impl QuotaClass {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "unmetered",
            Self::Read => "read",
            Self::Change => "change",
            Self::Mint => "mint",
            Self::Operate => "operate",
        }
    }
}

impl Usage {
    /// The generic cell rate algorithm: one number per bucket instead of a count and a time.
    fn spend(&self, place: usize, bucket: Bucket, now: Duration) -> Result<(), Duration> {
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let one = 1_000_000_000 / u64::from(bucket.rate.max(1));
        let (now, most) = (nanos(now), one.saturating_mul(u64::from(bucket.burst.max(1))));
        let outcome = self.full_at[place].fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let next = full_at.max(now).saturating_add(one);
            (next - now <= most).then_some(next)
        });
        outcome.map(drop).map_err(|full_at| {
            let next = full_at.max(now).saturating_add(one);
            Duration::from_nanos((next - now).saturating_sub(most))
        })
    }
}

impl Usage {
    fn left(&self, place: usize, bucket: Bucket, now: Duration) -> u64 {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let one = 1_000_000_000 / u64::from(bucket.rate.max(1));
        let owed = self.full_at[place].load(Ordering::Relaxed).saturating_sub(now);
        one.saturating_mul(u64::from(bucket.burst.max(1))).saturating_sub(owed) / one.max(1)
    }
}

impl Touched {
    fn add(&mut self, secret: u64, now: Duration, settings: &QuotaSettings) -> Result<(), Duration> {
        let second = |span: Duration| u32::try_from(span.as_secs()).unwrap_or(u32::MAX);
        let (now, window) = (second(now), second(settings.distinct_window));
        let most = usize::try_from(settings.distinct_secrets).unwrap_or(usize::MAX);
        if let Some(last) = self.0.get_mut(&secret) {
            *last = now;
            return Ok(());
        }
        if self.0.len() >= most {
            self.0.retain(|_, last| now.saturating_sub(*last) < window);
        }
        if self.0.len() >= most {
            let oldest = self.0.values().min().copied().unwrap_or(now);
            return Err(Duration::from_secs(u64::from((oldest + window).saturating_sub(now).max(1))));
        }
        self.0.insert(secret, now);
        Ok(())
    }
}
