//! One configured issuer: its keys in force, and the task that keeps them so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};

use super::fetch::Source;
use super::key_set::KeySet;
use super::settings::{IssuerError, IssuerSettings, KeySource};
use crate::clock::{SharedClock, Timestamp};

/// Between fetches that unknown keys ask for, so that made-up tokens cannot drive the broker against an issuer.
pub(super) const COOLDOWN: Duration = Duration::from_secs(30);
/// How long a call waits for a fetch that may bring its key.
const MAX_WAIT: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_secs(1);

pub(super) struct Issuer {
    pub(super) settings: Arc<IssuerSettings>,
    source: Source,
    clock: SharedClock,
    keys: ArcSwapOption<KeysInForce>,
    progress: Mutex<Progress>,
    /// Asks the task for a fetch now.
    wanted: Notify,
    /// How many fetches have ended.
    ended: watch::Sender<u64>,
    /// Told of every change of the keys, so that open streams can be looked at again.
    changed: watch::Sender<u64>,
}

pub(super) struct KeysInForce {
    pub(super) set: Arc<KeySet>,
    /// Grows whenever the set differs from the one before.
    pub(super) generation: u64,
    fetched: Instant,
    fetched_at: Timestamp,
}

#[derive(Default)]
struct Progress {
    begun: u64,
    fetching: bool,
    /// The number of the fetch that was asked for last, from when it was asked for: it may not have begun yet.
    asked_for: u64,
    asked: Option<Instant>,
    failures: u32,
    problem: Option<String>,
}

/// For operators.
#[derive(Clone, Debug)]
pub struct IssuerStatus {
    pub name: String,
    pub url: String,
    /// Whether tokens of this issuer can be verified now.
    pub usable: bool,
    pub keys: usize,
    /// Published keys that are left aside, and why.
    pub unusable_keys: Vec<String>,
    pub fetched_at: Option<Timestamp>,
    /// Fetches that failed since the last good one.
    pub failures: u32,
    /// Why the last fetch failed; `None` after a good one.
    pub problem: Option<String>,
}

impl Issuer {
    pub(super) fn new(settings: IssuerSettings, clock: SharedClock, changed: watch::Sender<u64>) -> Self {
        Self {
            source: Source::new(&settings.url, &settings.keys),
            settings: Arc::new(settings),
            clock,
            keys: ArcSwapOption::empty(),
            // The task's first fetch is on its way from the start.
            progress: Mutex::new(Progress { asked_for: 1, ..Progress::default() }),
            wanted: Notify::new(),
            ended: watch::Sender::new(0),
            changed,
        }
    }

    /// A pinned file that is absent or bad is a mistake of today's configuration; an issuer that is down is not.
    pub(super) async fn load_pinned(&self) -> Result<(), IssuerError> {
        if let KeySource::Discovery { .. } = self.settings.keys {
            return Ok(());
        }
        self.fetch().await.map_err(|source| IssuerError::Pinned { name: self.settings.name.clone(), source })
    }

    /// `None` where there never were any, or the last good ones are too old.
    pub(super) fn keys(&self) -> Option<Arc<KeysInForce>> {
        self.keys.load_full().filter(|keys| self.are_fresh(keys))
    }

    /// Whether there are keys in force and the test holds of them.
    pub(super) fn keys_hold(&self, test: impl FnOnce(&KeysInForce) -> bool) -> bool {
        self.keys.load().as_deref().is_some_and(|keys| self.are_fresh(keys) && test(keys))
    }

    fn are_fresh(&self, keys: &KeysInForce) -> bool {
        self.age(keys) < self.settings.maximum_key_age
    }

    pub(super) fn age(&self, keys: &KeysInForce) -> Duration {
        self.clock.monotonic().saturating_duration_since(keys.fetched)
    }

    /// For a call whose key is not among those in force: joins a fetch under way, or asks for one if none was asked for
    /// lately, and waits for its end. The fetch is the task's, so a caller that goes away cannot take it along.
    pub(super) async fn ask_for_keys(&self) {
        let Some(awaited) = self.claim_fetch() else {
            return;
        };
        self.wait_for(awaited).await;
    }

    /// Fetches now, whatever was asked for before.
    pub(super) async fn refresh(&self) {
        let awaited = self.progress().begun + 1;
        self.wanted.notify_one();
        self.wait_for(awaited).await;
    }

    async fn wait_for(&self, awaited: u64) {
        let mut ended = self.ended.subscribe();
        // Neither outcome says anything: the keys in force do.
        let _ = tokio::time::timeout(MAX_WAIT, ended.wait_for(|count| *count >= awaited)).await;
    }

    fn claim_fetch(&self) -> Option<u64> {
        let mut progress = self.progress();
        if progress.asked_for > progress.begun {
            return Some(progress.asked_for);
        }
        if progress.fetching {
            return Some(progress.begun);
        }
        let now = self.clock.monotonic();
        if progress.asked.is_some_and(|asked| now.saturating_duration_since(asked) < COOLDOWN) {
            return None;
        }
        progress.asked = Some(now);
        progress.asked_for = progress.begun + 1;
        self.wanted.notify_one();
        Some(progress.asked_for)
    }

    /// Never returns; its owner aborts it.
    pub(super) async fn keep_fresh(self: Arc<Self>) {
        loop {
            self.begin();
            let outcome = self.fetch().await;
            self.end(outcome);
            tokio::select! {
                () = self.wanted.notified() => {}
                () = tokio::time::sleep(self.pause()) => {}
            }
        }
    }

    fn begin(&self) {
        let mut progress = self.progress();
        progress.begun += 1;
        progress.fetching = true;
    }

    fn end(&self, outcome: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
        let mut progress = self.progress();
        progress.fetching = false;
        match outcome {
            Ok(()) => {
                progress.failures = 0;
                progress.problem = None;
            }
            Err(error) => {
                progress.failures = progress.failures.saturating_add(1);
                let problem = chain(&*error);
                tracing::warn!(
                    issuer = self.settings.name,
                    failures = progress.failures,
                    problem,
                    "an issuer's keys were not refreshed"
                );
                progress.problem = Some(problem);
            }
        }
        self.ended.send_replace(progress.begun);
    }

    /// The last good keys stay in force where the new ones are not good.
    async fn fetch(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let document = self.source.key_set().await?;
        let set = Arc::new(KeySet::parse(&document, &self.settings.algorithms)?);
        let before = self.keys.load_full();
        let unchanged = before.as_ref().filter(|keys| keys.set.fingerprint() == set.fingerprint());
        let generation = match (unchanged, &before) {
            (Some(keys), _) => keys.generation,
            (None, Some(keys)) => keys.generation + 1,
            (None, None) => 1,
        };
        let changed = unchanged.is_none();
        let (fetched, fetched_at) = (self.clock.monotonic(), self.clock.now());
        self.keys.store(Some(Arc::new(KeysInForce { set, generation, fetched, fetched_at })));
        if changed {
            tracing::info!(issuer = self.settings.name, generation, "an issuer's keys changed");
            self.changed.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    fn pause(&self) -> Duration {
        let failures = self.progress().failures;
        if failures == 0 {
            return self.settings.refresh_interval;
        }
        let doublings = failures.saturating_sub(1).min(16);
        FIRST_RETRY.saturating_mul(1 << doublings).min(self.settings.refresh_interval)
    }

    pub(super) fn status(&self) -> IssuerStatus {
        let keys = self.keys.load_full();
        let progress = self.progress();
        IssuerStatus {
            name: self.settings.name.clone(),
            url: self.settings.url.clone(),
            usable: keys.as_ref().is_some_and(|keys| self.are_fresh(keys)),
            keys: keys.as_ref().map_or(0, |keys| keys.set.len()),
            unusable_keys: keys.as_ref().map_or_else(Vec::new, |keys| keys.set.unusable().to_vec()),
            fetched_at: keys.as_ref().map(|keys| keys.fetched_at),
            failures: progress.failures,
            problem: progress.problem.clone(),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
