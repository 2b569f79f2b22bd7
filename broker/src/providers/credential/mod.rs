//! The broker's own identity towards the clouds: tokens that live minutes, got by chains of trust and kept alive.

mod acting;
pub(crate) mod api_error;
mod chain;
mod claims;
mod entra;
#[cfg(test)]
mod fuzz;
mod impersonation;
mod keeper;
mod key_file;
mod managed_identity;
mod metadata;
mod settings;
mod sts;
mod token;
pub(crate) mod wire;
mod workload_identity;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{SharedClock, Timestamp};
use crate::error::{Failure, Reason};

pub use acting::ServiceAccount;
pub use settings::{
    AzureIdentity, Cloud, CredentialSettings, EntraApplication, GOOGLE_CLOUD_SCOPE, GoogleFederation, GoogleIdentity,
    IdTokenSigner, ManagedIdentityHost,
};
pub use token::Token;
pub use wire::stays_on_host;

use keeper::Keeper;

/// Each is asked for by a store or a database of the configuration, and there are few kinds of those.
const MAX_SCOPES: usize = 16;

/// One configured credential, supervised: it obtains tokens, renews them ahead of their end, and says how it is.
pub struct Credential {
    name: Arc<str>,
    supply: Arc<Supply>,
    clock: SharedClock,
    keepers: Mutex<BTreeMap<String, Arc<Keeper>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// How tokens are obtained: a chain of links, each of which may break.
pub trait TokenSource: Send + Sync {
    /// The names of the links in order, for example `managed-identity`, `sts`, `impersonation`.
    fn chain(&self) -> Vec<&'static str>;

    fn obtain<'a>(&'a self, scope: &'a str) -> BoxFuture<'a, Result<Token, Broken>>;
}

/// Which link broke, and what the other side expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub link: &'static str,
    /// Public: says what to do, and quotes nothing that came over the network.
    pub message: String,
    /// Whether trying again later can help by itself.
    pub passing: bool,
    pub symptom: Symptom,
}

/// How it shows, where that makes a difference to whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symptom {
    /// The message says all.
    Other,
    /// The other side was asked too often.
    Throttled,
    /// The other side refuses the token of the link before.
    TokenRefused,
    /// The answer makes no sense.
    Garbled,
}

/// For operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialStatus {
    pub name: Arc<str>,
    pub health: CredentialHealth,
    pub chain: Vec<&'static str>,
    pub subject: Option<Arc<str>>,
    /// When the token in use was obtained, and when it ends.
    pub refreshed: Option<Timestamp>,
    pub expires: Option<Timestamp>,
    /// Absent after a success.
    pub broken: Option<Broken>,
    pub rebuilds: u32,
    pub failures: u64,
}

/// The later the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CredentialHealth {
    /// Nobody asked for a token yet, or the first is on its way.
    Unknown,
    Healthy,
    /// Lives on the last token, or on one that a cloud refused.
    Degraded,
    Unhealthy,
}

/// Makes the source anew after each failure, so that nothing in it can stay broken for longer than what is outside.
struct Supply {
    first: Arc<dyn TokenSource>,
    build: Build,
    rebuilds: AtomicU32,
}

type Build = Box<dyn Fn() -> Result<Arc<dyn TokenSource>, Broken> + Send + Sync>;

impl Credential {
    /// Needs no network: the first token is obtained when it is asked for, see [`Self::keep`].
    pub fn start(name: &str, settings: CredentialSettings, clock: SharedClock) -> Result<Arc<Self>, Broken> {
        let first = chain::build(&settings, &clock)?;
        let source_clock = Arc::clone(&clock);
        Ok(Self::over(name, first, Box::new(move || chain::build(&settings, &source_clock)), clock))
    }

    /// Over a source that needs no rebuilding.
    pub fn new(source: Box<dyn TokenSource>, clock: SharedClock) -> Arc<Self> {
        let source: Arc<dyn TokenSource> = source.into();
        Self::over("credential", Arc::clone(&source), Box::new(move || Ok(Arc::clone(&source))), clock)
    }

    /// A service account's own tokens, kept for what the broker asks a cloud in its name.
    pub fn over_account(account: Arc<ServiceAccount>, clock: SharedClock) -> Arc<Self> {
        let (name, source): (_, Arc<dyn TokenSource>) = (account.email().to_owned(), account);
        Self::over(&name, Arc::clone(&source), Box::new(move || Ok(Arc::clone(&source))), clock)
    }

    fn over(name: &str, first: Arc<dyn TokenSource>, build: Build, clock: SharedClock) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            supply: Arc::new(Supply { first, build, rebuilds: AtomicU32::new(0) }),
            clock,
            keepers: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// A token that still lives. Waits for the first one, and no longer than a caller would.
    pub async fn token(&self, scope: &str) -> Result<Token, Failure> {
        let outcome = self.keeper(scope)?.token().await;
        outcome.map_err(|broken| {
            let message =
                format!("the broker's credential {:?} broke at {}: {}", self.name, broken.link, broken.message);
            Failure::new(Reason::ProviderCredential, message)
        })
    }

    /// A token asked for now, past the one that is kept. Whether it is a new one is up to the cloud: a managed
    /// identity's is the same for everybody until it nears its end.
    pub async fn ask(&self, scope: &str) -> Result<Token, Failure> {
        let asked = tokio::time::timeout(keeper::MAX_ATTEMPT, self.supply.first.obtain(scope)).await;
        let outcome = asked.unwrap_or_else(|_| {
            let link = self.supply.first.chain().first().copied().unwrap_or_default();
            Err(Broken::passing(link, "the chain takes too long; check the network to its links"))
        });
        outcome.map_err(|broken| {
            broken.failure(&format!("the broker's credential {:?}", self.name), Reason::ProviderCredential)
        })
    }

    /// Keeps a token for the scope from now on, so that the first call finds one.
    pub fn keep(&self, scope: &str) -> Result<(), Failure> {
        self.keeper(scope).map(drop)
    }

    /// The cloud refused this token though it should live: the next call obtains another.
    pub fn refused(&self, scope: &str, token: &Token) {
        if let Some(keeper) = self.keepers().get(scope) {
            keeper.refused(token);
        }
    }

    /// The state of the scope that is worst off.
    pub fn status(&self) -> CredentialStatus {
        let keepers: Vec<_> = self.keepers().values().map(|keeper| keeper.state()).collect();
        let worst = keepers.iter().rev().max_by_key(|state| state.health(&*self.clock));
        let held = worst.and_then(|state| state.held.as_ref());
        CredentialStatus {
            name: Arc::clone(&self.name),
            health: worst.map_or(CredentialHealth::Unknown, |state| state.health(&*self.clock)),
            chain: self.supply.first.chain(),
            subject: held.and_then(|held| held.token.subject.clone()),
            refreshed: held.map(|held| held.obtained_at),
            expires: held.map(|held| held.token.expires),
            broken: worst.and_then(|state| state.broken.clone()),
            rebuilds: self.supply.rebuilds.load(Ordering::Relaxed),
            failures: keepers.iter().map(|state| state.failures).sum(),
        }
    }

    /// Ends the renewing; tokens that were given out live on.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn keeper(&self, scope: &str) -> Result<Arc<Keeper>, Failure> {
        let mut keepers = self.keepers();
        if let Some(keeper) = keepers.get(scope) {
            return Ok(Arc::clone(keeper));
        }
        if keepers.len() == MAX_SCOPES {
            let message = format!("credential {:?} serves {MAX_SCOPES} scopes already; spread its uses", self.name);
            return Err(Failure::new(Reason::ProviderCredential, message));
        }
        let keeper = Keeper::new(Arc::clone(&self.name), scope, Arc::clone(&self.clock));
        keepers.insert(scope.to_owned(), Arc::clone(&keeper));
        let (kept, supply, stop) = (Arc::clone(&keeper), Arc::clone(&self.supply), self.stop.clone());
        self.tasks.spawn(async move {
            stop.run_until_cancelled(kept.keep(supply)).await;
        });
        Ok(keeper)
    }

    fn keepers(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Keeper>>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Credential").field(&self.name).finish()
    }
}

impl Drop for Credential {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Supply {
    fn rebuild(&self) -> Result<Arc<dyn TokenSource>, Broken> {
        self.rebuilds.fetch_add(1, Ordering::Relaxed);
        (self.build)()
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.link, self.message)
    }
}

impl std::error::Error for Broken {}

impl Broken {
    /// Somebody has to change something.
    pub(crate) fn lasting(link: &'static str, message: impl Into<String>) -> Self {
        Self { link, message: message.into(), passing: false, symptom: Symptom::Other }
    }

    pub(crate) fn passing(link: &'static str, message: impl Into<String>) -> Self {
        Self { passing: true, ..Self::lasting(link, message) }
    }

    /// For the caller of something that this stopped; `lasting` is what it is while nobody changes anything.
    pub(crate) fn failure(&self, what: &str, lasting: Reason) -> Failure {
        let reason = match (self.symptom, self.passing) {
            (Symptom::Throttled, _) => Reason::ProviderThrottled,
            (Symptom::Garbled, _) | (Symptom::Other, true) => Reason::ProviderUnavailable,
            (Symptom::TokenRefused, _) => Reason::ProviderCredential,
            (Symptom::Other, false) => lasting,
        };
        Failure::new(reason, format!("{what} broke at {}: {}", self.link, self.message))
    }
}
