//! Where what a source tells goes into the log, and what is known of how the source does.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::places::Places;
use super::told::Told;
use crate::clock::{SharedClock, Timestamp};
use crate::error::{Failure, Reason};
use crate::names::{SecretName, StoreName, VersionId};
use crate::rotation::{Fact, Log, Observation, Origin, VersionMark};
use crate::secrets::{Page, Provider};

/// Versions of a secret that are looked through for the one that an event names.
const VERSIONS: usize = 100;

/// One source's way into the log.
pub struct Intake {
    /// As configured.
    name: String,
    /// As `GetStatus` calls it.
    kind: &'static str,
    places: Places,
    providers: BTreeMap<StoreName, Arc<dyn Provider>>,
    log: Log,
    clock: SharedClock,
    account: Mutex<Account>,
}

/// How a source does.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// When it last told something.
    pub received: Option<Timestamp>,
    /// Why it does not work. It ends with the next thing told.
    pub failure: Option<Failure>,
    counts: [u64; Outcome::ALL.len()],
}

/// What became of one thing told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is on record, and was not before.
    Changed,
    Known,
    /// Of another store, or of no consequence.
    OfNoConcern,
    Unreadable,
    /// It has to be told again.
    Failed,
    /// Whoever told it is not the source.
    Refused,
}

impl Intake {
    pub fn new(
        (name, kind): (String, &'static str),
        places: Places,
        providers: BTreeMap<StoreName, Arc<dyn Provider>>,
        log: Log,
        clock: SharedClock,
    ) -> Arc<Self> {
        Arc::new(Self { name, kind, places, providers, log, clock, account: Mutex::default() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn kind(&self) -> &'static str {
        self.kind
    }

    pub fn places(&self) -> &Places {
        &self.places
    }

    pub fn account(&self) -> Account {
        self.lock().clone()
    }

    /// Returns once what was told is on record, or nothing is to be put there. A failure means that it has to be told
    /// again; nobody need tell the unreadable twice.
    pub async fn take(&self, told: Told) -> Result<Outcome, Failure> {
        let taken = self.record(told).await;
        let outcome = taken.as_ref().copied().unwrap_or(Outcome::Failed);
        let mut account = self.lock();
        account.counts[outcome as usize] += 1;
        account.received = Some(self.clock.now());
        account.failure = taken.as_ref().err().cloned();
        taken
    }

    /// The source does not come through to the broker.
    pub fn fails(&self, failure: Failure) {
        tracing::warn!(source = self.name, kind = self.kind, cause = failure.cause(), "{failure}");
        self.lock().failure = Some(failure);
    }

    /// Somebody was turned away. Until the source has told something, it is likely to be the source, not set up as
    /// configured; later it is a stranger, who shall not make the source look broken.
    pub fn refused(&self, failure: Failure) {
        tracing::info!(source = self.name, kind = self.kind, cause = failure.cause(), "turned away: {failure}");
        let mut account = self.lock();
        account.counts[Outcome::Refused as usize] += 1;
        if account.received.is_none() {
            account.failure = Some(failure);
        }
    }

    async fn record(&self, told: Told) -> Result<Outcome, Failure> {
        let source = &*self.name;
        let (secret, observation) = match told {
            Told::Fact(secret, observation) => (secret, observation),
            Told::Added { secret, version, happened } => match self.addition(&secret, version, happened).await? {
                Some(observation) => (secret, observation),
                None => return Ok(Outcome::OfNoConcern),
            },
            Told::OfNoConcern => {
                tracing::debug!(source, "an event that concerns no store of this source");
                return Ok(Outcome::OfNoConcern);
            }
            Told::Unreadable(fault) => {
                tracing::warn!(source, fault, "an event that cannot be read; nothing was changed");
                return Ok(Outcome::Unreadable);
            }
        };
        if !self.is_possible(&secret, &observation) {
            tracing::warn!(source, %secret, "an event whose names its store cannot have; nothing was changed");
            return Ok(Outcome::Unreadable);
        }
        let changed = self.log.observe(&secret, &observation).await?.changed;
        tracing::info!(source, %secret, fact = ?observation.fact, changed, "told of a secret");
        Ok(if changed { Outcome::Changed } else { Outcome::Known })
    }

    /// A vault's versions have no order but that of the seconds in which they were created, which only the vault tells.
    /// It is not asked about what is known.
    async fn addition(
        &self,
        secret: &SecretName,
        version: Arc<str>,
        happened: Option<Timestamp>,
    ) -> Result<Option<Observation>, Failure> {
        let Some(provider) = self.providers.get(secret.store()) else { return Ok(None) };
        let known = self.log.standing(secret).await?;
        let known = known.as_ref().and_then(|standing| standing.record.version(&version));
        let mark = match known.filter(|known| known.created.is_some()) {
            Some(known) => VersionMark { id: version, created: known.created, state: known.state },
            None => match provider.versions(secret, Page { size: VERSIONS, token: None }).await {
                Ok(listed) => match listed.items.iter().find(|listed| listed.id == version) {
                    Some(found) => VersionMark::from(found),
                    None if listed.next.is_some() => return Ok(None),
                    None => return Err(not_there_yet(secret)),
                },
                // It was deleted since.
                Err(failure) if failure.reason() == Reason::SecretNotFound => return Ok(None),
                Err(failure) => return Err(failure),
            },
        };
        Ok(Some(Observation { fact: Fact::VersionAdded(mark), origin: Origin::EventGrid, happened }))
    }

    fn is_possible(&self, secret: &SecretName, observation: &Observation) -> bool {
        let Some(provider) = self.providers.get(secret.store()) else { return false };
        let version = match &observation.fact {
            Fact::VersionAdded(mark) => Some(&mark.id),
            Fact::VersionEnabled(id)
            | Fact::VersionDisabled(id)
            | Fact::VersionDestroyed(id)
            | Fact::NearExpiry(id) => Some(id),
            Fact::SecretDeleted | Fact::SecretUpdated => None,
        };
        let version = version.map(|id| VersionId::Exact(Arc::clone(id)));
        provider.check_name(secret).is_ok()
            && version.is_none_or(|version| provider.check_version(secret, &version).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// Each outcome's name with how often it came about.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Outcome::ALL.into_iter().map(|outcome| (outcome.name(), self.counts[outcome as usize]))
    }
}

impl Outcome {
    const ALL: [Self; 6] =
        [Self::Changed, Self::Known, Self::OfNoConcern, Self::Unreadable, Self::Failed, Self::Refused];

    fn name(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Known => "known",
            Self::OfNoConcern => "of_no_concern",
            Self::Unreadable => "unreadable",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

fn not_there_yet(secret: &SecretName) -> Failure {
    let message = format!("{secret} is said to have a new version that its vault does not list yet; tell it again");
    Failure::new(Reason::ProviderUnavailable, message)
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.kind)
    }
}
