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
        if !self.is_possible(&told) {
            tracing::warn!(source, "an event whose names its store cannot have; nothing was changed");
            return Ok(Outcome::Unreadable);
        }
        let observed: Vec<_> = match told {
            Told::Fact(secrets, observation) => secrets.into_iter().zip(std::iter::repeat(observation)).collect(),
            Told::Added { secrets, version, happened } => self.additions(secrets, &version, happened).await?,
            Told::OfNoConcern => Vec::new(),
            Told::Unreadable(fault) => {
                tracing::warn!(source, fault, "an event that cannot be read; nothing was changed");
                return Ok(Outcome::Unreadable);
            }
        };
        if observed.is_empty() {
            tracing::debug!(source, "an event that concerns no store of this source");
            return Ok(Outcome::OfNoConcern);
        }
        let mut outcome = Outcome::Known;
        for (secret, observation) in observed {
            let changed = self.log.observe(&secret, &observation).await?.changed;
            tracing::info!(source, %secret, fact = ?observation.fact, changed, "told of a secret");
            if changed {
                outcome = Outcome::Changed;
            }
        }
        Ok(outcome)
    }

    async fn additions(
        &self,
        secrets: Vec<SecretName>,
        version: &Arc<str>,
        happened: Option<Timestamp>,
    ) -> Result<Vec<(SecretName, Observation)>, Failure> {
        let mut additions = Vec::new();
        for secret in secrets {
            let mark = self.addition(&secret, version).await?;
            additions.extend(mark.map(|mark| {
                let fact = Fact::VersionAdded(mark);
                (secret, Observation { fact, origin: Origin::EventGrid, happened })
            }));
        }
        Ok(additions)
    }

    /// A vault's versions have no order but that of the seconds in which they were created, which only the vault tells.
    /// It is not asked about what is known.
    async fn addition(&self, secret: &SecretName, version: &Arc<str>) -> Result<Option<VersionMark>, Failure> {
        let Some(provider) = self.providers.get(secret.store()) else { return Ok(None) };
        let known = self.log.standing(secret).await?;
        let known = known.as_ref().and_then(|standing| standing.record.version(version));
        if let Some(known) = known.filter(|known| known.created.is_some()) {
            return Ok(Some(VersionMark { id: Arc::clone(version), created: known.created, state: known.state }));
        }
        match provider.versions(secret, Page { size: VERSIONS, token: None }).await {
            Ok(listed) => match listed.items.iter().find(|listed| listed.id == *version) {
                Some(found) => Ok(Some(VersionMark::from(found))),
                // There are newer ones in plenty.
                None if listed.next.is_some() => Ok(None),
                None => Err(not_there_yet(secret)),
            },
            // It was deleted since.
            Err(failure) if failure.reason() == Reason::SecretNotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Whether all that it speaks of could be called so in its store: nothing else may reach one.
    fn is_possible(&self, told: &Told) -> bool {
        let (secrets, version) = told.subjects();
        let version = version.map(|id| VersionId::Exact(Arc::clone(id)));
        secrets.iter().all(|secret| {
            self.providers.get(secret.store()).is_some_and(|provider| {
                let version = version.as_ref();
                provider.check_name(secret).is_ok()
                    && version.is_none_or(|version| provider.check_version(secret, version).is_ok())
            })
        })
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
