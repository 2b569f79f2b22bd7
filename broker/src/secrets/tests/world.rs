//! A store that answers when it is told to, and a clock that stands still.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::error::{Failure, Reason};
use crate::names::{NameError, SecretName, StoreName, VersionId};
use crate::secrets::{
    CacheSettings, Demand, Fetched, Freshness, Guarded, Labels, Listing, Page, Provider, Read, SecretBytes, SecretInfo,
    Secrets, Switched, VersionInfo, VersionState, Ward, Word,
};
use crate::state::{Epoch, Position, Revision};

pub(super) const FRESHNESS: Freshness = Freshness {
    latest: Duration::from_mins(5),
    pinned: Duration::from_mins(30),
    labels: Duration::from_mins(5),
    stale: Duration::from_hours(1),
};

/// Stands in for the rotation log's.
pub(super) fn at(revision: u64) -> Position {
    Position { epoch: Epoch::parse(&"1".repeat(32)).unwrap(), revision: Revision::new(revision) }
}

pub(super) struct World {
    pub(super) secrets: Secrets,
    pub(super) store: Arc<Scripted>,
    pub(super) clock: Arc<ManualClock>,
    revision: AtomicU64,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(FRESHNESS)
    }

    pub(super) fn with(freshness: Freshness) -> Self {
        Self::made(freshness, 64 << 20, None)
    }

    pub(super) fn sized(size: u64) -> Self {
        Self::made(FRESHNESS, size, None)
    }

    /// Rotations add versions to [`db`].
    pub(super) fn rotated(ward: Arc<dyn Ward>) -> Self {
        Self::made(FRESHNESS, 64 << 20, Some(Guarded { secrets: [db()].into(), ward }))
    }

    fn made(freshness: Freshness, size: u64, guarded: Option<Guarded>) -> Self {
        let (store, clock) = (Arc::new(Scripted::default()), ManualClock::new());
        let name = StoreName::from_id("main").unwrap();
        let settings = CacheSettings { size, stores: [(name.clone(), freshness)].into() };
        let provider: Arc<dyn Provider> = Arc::clone(&store) as _;
        let shared: crate::clock::SharedClock = Arc::clone(&clock) as _;
        let secrets = Secrets::new([(name, provider)].into(), &settings, guarded, &shared);
        Self { secrets, store, clock, revision: AtomicU64::new(0) }
    }

    pub(super) async fn latest(&self) -> Result<Read, Failure> {
        self.secrets.read(&db(), &VersionId::Latest, Demand::default()).await
    }

    pub(super) async fn demand(&self, demand: Demand<'_>) -> Result<Read, Failure> {
        self.secrets.read(&db(), &VersionId::Latest, demand).await
    }

    pub(super) async fn version(&self, id: &str) -> Result<Read, Failure> {
        self.secrets.read(&db(), &VersionId::exact(id).unwrap(), Demand::default()).await
    }

    pub(super) async fn add(&self) -> Revision {
        self.secrets.add_to(db(), SecretBytes::new(Vec::new()), None).await.unwrap();
        self.told()
    }

    /// What happened last was told, as the rotation log does it.
    pub(super) fn told(&self) -> Revision {
        let position = at(self.revision.fetch_add(1, SeqCst) + 1);
        self.secrets.reach(position);
        position.revision
    }

    /// A read that goes on by itself.
    pub(super) fn begin(&self, demand: Demand<'static>) -> tokio::task::JoinHandle<Result<Read, Failure>> {
        let secrets = self.secrets.clone();
        tokio::spawn(async move { secrets.read(&db(), &VersionId::Latest, demand).await })
    }
}

pub(super) fn db() -> SecretName {
    SecretName::parse("stores/main/secrets/db").unwrap()
}

/// While a rotation has a version that is not current yet.
pub(super) fn withholding(current: &str) -> Word {
    Word { current: Some(current.into()), withholds: true }
}

pub(super) fn id(read: &Result<Read, Failure>) -> Result<&str, Reason> {
    read.as_ref().map(|read| &*read.fetched.version.id).map_err(Failure::reason)
}

/// Lets the other tasks run until it holds.
pub(super) async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("what was waited for did not come about");
}

/// Lets the other tasks run until none of them can go on, for claims that something does not happen.
pub(super) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Versions are numbered from 1; the payload is the number.
#[derive(Default)]
pub(super) struct Scripted {
    script: Mutex<Script>,
}

#[derive(Default)]
pub(super) struct Script {
    pub(super) versions: BTreeMap<SecretName, Vec<VersionState>>,
    /// By how many versions `latest` lags.
    pub(super) lag: usize,
    pub(super) failure: Option<Reason>,
    /// Whether calls wait to be let go.
    pub(super) holds: bool,
    /// Whether a fetch tells what was there when it arrived, or what is there when it is answered.
    pub(super) looks_late: bool,
    pub(super) expires: Option<Timestamp>,
    /// How long payloads are at least.
    pub(super) padding: usize,
    pub(super) held: Vec<oneshot::Sender<Option<Reason>>>,
    pub(super) fetches: usize,
    pub(super) describes: usize,
    pub(super) under_way: usize,
    pub(super) most_under_way: usize,
}

impl Scripted {
    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    pub(super) fn put(&self, secret: &SecretName, count: usize) {
        self.script().versions.insert(secret.clone(), vec![VersionState::Enabled; count]);
    }

    pub(super) fn fetches(&self) -> usize {
        self.script().fetches
    }

    pub(super) fn held(&self) -> usize {
        self.script().held.len()
    }

    /// Answers a call that waits, or fails it.
    pub(super) fn release(&self, index: usize, failure: Option<Reason>) {
        let _ = self.script().held.remove(index).send(failure);
    }

    async fn pass(&self) -> Result<(), Failure> {
        let held = {
            let mut script = self.script();
            if let Some(reason) = script.failure {
                return Err(Failure::new(reason, "scripted"));
            }
            script.under_way += 1;
            script.most_under_way = script.most_under_way.max(script.under_way);
            script.holds.then(|| {
                let (release, held) = oneshot::channel();
                script.held.push(release);
                held
            })
        };
        let failure = match held {
            Some(held) => held.await.unwrap_or(Some(Reason::Internal)),
            None => None,
        };
        self.script().under_way -= 1;
        failure.map_or(Ok(()), |reason| Err(Failure::new(reason, "scripted")))
    }

    fn answer(&self, secret: &SecretName, version: &VersionId) -> Result<Fetched, Failure> {
        let script = self.script();
        let no_secret = || Failure::new(Reason::SecretNotFound, "scripted");
        let versions = script.versions.get(secret).filter(|versions| !versions.is_empty()).ok_or_else(no_secret)?;
        let number = match version {
            VersionId::Latest => versions.len().saturating_sub(script.lag).max(1),
            VersionId::Exact(id) => id.parse().unwrap_or(0),
        };
        match number.checked_sub(1).and_then(|index| versions.get(index)) {
            None => Err(Failure::new(Reason::VersionNotFound, "scripted")),
            Some(VersionState::Enabled) => Ok(Fetched {
                version: VersionInfo { expires: script.expires, ..info(number, VersionState::Enabled) },
                payload: SecretBytes::new(format!("{number:0>width$}", width = script.padding).into_bytes()),
                crc32c: 0,
            }),
            Some(VersionState::Disabled) => Err(Failure::new(Reason::VersionDisabled, "scripted")),
            Some(VersionState::Destroyed) => Err(Failure::new(Reason::VersionDestroyed, "scripted")),
        }
    }
}

fn info(number: usize, state: VersionState) -> VersionInfo {
    let id = number.to_string().into();
    VersionInfo { id, state, created: None, not_before: None, expires: None, content_type: None }
}

impl Provider for Scripted {
    fn check_name(&self, _: &SecretName) -> Result<(), NameError> {
        Ok(())
    }

    fn check_version(&self, _: &SecretName, _: &VersionId) -> Result<(), Failure> {
        Ok(())
    }

    fn check_payload(&self, _: &[u8]) -> Result<(), Failure> {
        Ok(())
    }

    fn check_creation(&self, _: &SecretName) -> Result<(), Failure> {
        Ok(())
    }

    fn fetch<'a>(&'a self, secret: &'a SecretName, version: &'a VersionId) -> BoxFuture<'a, Result<Fetched, Failure>> {
        Box::pin(async move {
            let looks_late = {
                let mut script = self.script();
                script.fetches += 1;
                script.looks_late
            };
            let early = self.answer(secret, version);
            self.pass().await?;
            if looks_late { self.answer(secret, version) } else { early }
        })
    }

    fn describe<'a>(&'a self, secret: &'a SecretName) -> BoxFuture<'a, Result<SecretInfo, Failure>> {
        Box::pin(async move {
            self.script().describes += 1;
            self.pass().await?;
            if !self.script().versions.contains_key(secret) {
                return Err(Failure::new(Reason::SecretNotFound, "scripted"));
            }
            Ok(SecretInfo { name: secret.clone(), labels: Labels::default(), created: None })
        })
    }

    fn list(&self, _: Page) -> BoxFuture<'_, Result<Listing<SecretInfo>, Failure>> {
        Box::pin(async { Err(Failure::new(Reason::Unimplemented, "scripted")) })
    }

    fn versions<'a>(&'a self, _: &'a SecretName, _: Page) -> BoxFuture<'a, Result<Listing<VersionInfo>, Failure>> {
        Box::pin(async { Err(Failure::new(Reason::Unimplemented, "scripted")) })
    }

    /// Made at once, and told when the call is let go.
    fn add<'a>(
        &'a self,
        secret: &'a SecretName,
        _: SecretBytes,
        _: Option<Labels>,
    ) -> BoxFuture<'a, Result<VersionInfo, Failure>> {
        Box::pin(async move {
            let number = {
                let mut script = self.script();
                let versions = script.versions.entry(secret.clone()).or_default();
                versions.push(VersionState::Enabled);
                versions.len()
            };
            self.pass().await?;
            Ok(info(number, VersionState::Enabled))
        })
    }

    fn set_enabled<'a>(
        &'a self,
        secret: &'a SecretName,
        version: &'a VersionId,
        enabled: bool,
    ) -> BoxFuture<'a, Result<Switched, Failure>> {
        Box::pin(async move {
            let state = if enabled { VersionState::Enabled } else { VersionState::Disabled };
            let number: usize = version.as_str().parse().unwrap();
            let before = {
                let mut script = self.script();
                std::mem::replace(&mut script.versions.get_mut(secret).unwrap()[number - 1], state)
            };
            self.pass().await?;
            Ok(Switched { version: info(number, state), changed: before != state })
        })
    }
}

#[derive(Debug)]
pub(super) struct ManualClock {
    base: Instant,
    passed: AtomicU64,
}

impl ManualClock {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { base: SystemClock.monotonic(), passed: AtomicU64::new(0) })
    }

    pub(super) fn advance(&self, span: Duration) {
        self.passed.fetch_add(u64::try_from(span.as_micros()).unwrap(), SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_800_000_000_000_000 + self.passed.load(SeqCst))
    }

    fn monotonic(&self) -> Instant {
        self.base + Duration::from_micros(self.passed.load(SeqCst))
    }
}
