//! What is made of a store's secrets and used at every mint: read again in turn, the last good one kept.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::users::Account;
use crate::clock::SharedClock;
use crate::error::{Failure, Reason};
use crate::names::{SecretName, VersionId};
use crate::secrets::{Fetched, Provider};

/// While something is wrong.
const RETRY: Duration = Duration::from_secs(5);

/// A secret that no caller reads: the broker works with it.
#[derive(Clone)]
pub struct OwnSecret {
    pub store: Arc<dyn Provider>,
    pub name: SecretName,
}

/// The last good value and how reading went since.
pub(super) struct Kept<T> {
    state: watch::Sender<State<T>>,
    /// How long the last good one serves while nothing can be confirmed.
    longest: Duration,
    clock: SharedClock,
}

struct State<T> {
    value: Option<Arc<T>>,
    confirmed: Option<Instant>,
    tried: bool,
    account: Account,
}

/// What one reading came to.
pub(super) struct Reading<T> {
    /// `None` keeps what was there.
    pub(super) value: Option<T>,
    pub(super) failure: Option<Failure>,
    /// Whether the store answered, so that what is kept is known to be what it should be.
    pub(super) confirmed: bool,
    /// Whether what was there must not be used any more.
    pub(super) withdrawn: bool,
}

/// Why a secret was not read.
pub(super) struct Unread {
    pub(super) failure: Failure,
    /// The store has said that somebody took it out of use.
    pub(super) withdrawn: bool,
}

impl From<Failure> for Unread {
    fn from(failure: Failure) -> Self {
        Self { failure, withdrawn: false }
    }
}

impl OwnSecret {
    pub(super) async fn fetch(&self, version: &VersionId) -> Result<Fetched, Unread> {
        self.store.fetch(&self.name, version).await.map_err(|failure| {
            let withdrawn = matches!(
                failure.reason(),
                Reason::SecretNotFound | Reason::VersionNotFound | Reason::VersionDisabled | Reason::VersionDestroyed
            );
            Unread { failure: self.unreadable(failure), withdrawn }
        })
    }

    /// A store that is out stays that; what is wrong with the secret itself is the broker's affair, not the caller's.
    pub(super) fn unreadable(&self, failure: Failure) -> Failure {
        #[allow(clippy::wildcard_enum_match_arm, reason = "whatever else a store says passes by itself")]
        let reason = match failure.reason() {
            Reason::SecretNotFound
            | Reason::VersionNotFound
            | Reason::VersionDisabled
            | Reason::VersionDestroyed
            | Reason::InvalidName => Reason::ProviderCredential,
            reason => reason,
        };
        let message = format!("{}, which the broker works with, cannot be read: {failure}", self.name);
        Failure::new(reason, message).retry_after(RETRY).caused_by(failure)
    }

    /// `fault` ends a sentence that begins with the secret's name.
    pub(super) fn unusable(&self, fault: &str) -> Failure {
        Failure::new(Reason::ProviderCredential, format!("{} {fault}", self.name))
    }
}

impl fmt::Debug for OwnSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.name, f)
    }
}

impl<T> Kept<T> {
    pub(super) fn new(longest: Duration, clock: SharedClock) -> Self {
        let state = State { value: None, confirmed: None, tried: false, account: Account::default() };
        Self { state: watch::Sender::new(state), longest, clock }
    }

    /// Waits where nothing has been tried yet; the caller's deadline bounds it.
    pub(super) async fn get(&self) -> Result<Arc<T>, Failure> {
        if let Some(outcome) = self.settled(&self.state.borrow()) {
            return outcome;
        }
        let mut states = self.state.subscribe();
        let tried = states.wait_for(|state| state.tried).await;
        tried.ok().and_then(|state| self.settled(&state)).unwrap_or_else(|| Err(never_read()))
    }

    /// Whatever was read last, however long ago.
    pub(super) fn last(&self) -> Option<Arc<T>> {
        self.state.borrow().value.clone()
    }

    pub(super) fn account(&self) -> Account {
        self.state.borrow().account.clone()
    }

    /// Says what is wrong once, however often it is tried.
    pub(super) fn settle(&self, reading: Reading<T>, secret: &SecretName) {
        let (now, monotonic) = (self.clock.now(), self.clock.monotonic());
        self.state.send_modify(|state| {
            let told = state.account.failure.as_ref().map(Failure::message);
            if let Some(failure) = reading.failure.as_ref().filter(|failure| told != Some(failure.message())) {
                let cause = failure.cause();
                tracing::warn!(%secret, error = %failure, cause, "a secret that the broker works with cannot be renewed");
            }
            state.tried = true;
            if reading.withdrawn {
                state.value = None;
            }
            if let Some(value) = reading.value {
                state.value = Some(Arc::new(value));
            }
            if reading.confirmed {
                state.confirmed = Some(monotonic);
            }
            if reading.failure.is_none() {
                state.account.success = Some(now);
            }
            state.account.failure = reading.failure;
        });
    }

    /// Until it is to be read again.
    pub(super) async fn pause(&self, interval: Duration) {
        let troubled = self.state.borrow().account.failure.is_some();
        tokio::time::sleep(if troubled { RETRY.min(interval) } else { interval }).await;
    }

    fn settled(&self, state: &State<T>) -> Option<Result<Arc<T>, Failure>> {
        if !state.tried {
            return None;
        }
        let is_fresh = |at: Instant| self.clock.monotonic().saturating_duration_since(at) <= self.longest;
        let value = state.value.as_ref().filter(|_| state.confirmed.is_some_and(is_fresh));
        Some(match value {
            Some(value) => Ok(Arc::clone(value)),
            None => Err(state.account.failure.clone().unwrap_or_else(never_read)),
        })
    }
}

impl<T> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("account", &self.account()).finish_non_exhaustive()
    }
}

fn never_read() -> Failure {
    let message = "a secret that the broker works with has not been read yet; try again in a moment";
    Failure::new(Reason::ProviderUnavailable, message).retry_after(Duration::from_secs(1))
}
