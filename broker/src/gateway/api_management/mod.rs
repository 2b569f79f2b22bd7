//! Named values of API Management that come out of Key Vault, refreshed when their secret has a new current version.
//!
//! Nothing is handed over that could get lost: the replica that leads compares what is current with what the gateway is
//! on record to run, and refreshes where they differ. A refresh that nobody lived to acknowledge is made again.

mod management;
mod settings;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use self::management::Management;
pub use self::settings::{GatewaySettings, Source};
use crate::clock::SharedClock;
use crate::error::{Detail, Failure, Reason};
use crate::names::SecretName;
use crate::providers::credential::{Broken, Credential};
use crate::providers::guard::Jitter;
use crate::rotation::Log;
use crate::rotation::subscribers::{Gateway, SubscriberName, Subscribers, Way};
use crate::rotation::watch::{Filter, FilterError};
use crate::state::Leadership;
use crate::status::ReasonExt as _;

/// Between two comparisons, however much happens.
const PAUSE: Duration = Duration::from_millis(250);
/// Without anything having happened.
const INTERVAL: Duration = Duration::from_secs(60);
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(300);

/// Keeps one gateway up to date.
pub struct Refresher {
    named_values: BTreeMap<String, Source>,
    gateway: Gateway,
    management: Management,
    around: Around,
    account: Arc<Account>,
}

/// What a refresher works with.
#[derive(Clone, Debug)]
pub struct Around {
    pub subscribers: Subscribers,
    pub log: Log,
    pub leadership: Leadership,
    pub clock: SharedClock,
}

/// How the refreshing goes, for metrics.
#[derive(Debug)]
pub struct Account {
    pub gateway: String,
    counts: Mutex<Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub refreshed: u64,
    pub failed: u64,
    /// Secrets of which the gateway does not run the current version, as far as this replica has tried.
    pub behind: u64,
}

/// What one term of leading has come to.
#[derive(Default)]
struct Term {
    /// By the ids of named values.
    tries: BTreeMap<String, Try>,
    /// Azure wants to be left alone until then.
    quiet: Option<Instant>,
    jitter: Jitter,
}

#[derive(Default)]
struct Try {
    /// The version that was current before the refresh: it has that or a newer one.
    refreshed: Option<Arc<str>>,
    failures: u32,
    next: Option<Instant>,
}

impl GatewaySettings {
    /// As others see it among the subscribers.
    pub fn gateway(&self, name: SubscriberName) -> Result<Gateway, FilterError> {
        let names: Vec<_> = self.named_values.values().map(|source| source.secret.to_string()).collect();
        let filter = Filter::new(&names, Vec::new(), BTreeMap::new())?;
        Ok(Gateway::new(name, Way::ApiManagement, filter))
    }
}

impl Refresher {
    pub fn new(
        settings: GatewaySettings,
        gateway: Gateway,
        credential: Arc<Credential>,
        around: Around,
    ) -> Result<Self, Broken> {
        let management = Management::new(&settings, credential)?;
        let account = Arc::new(Account { gateway: gateway.name().to_owned(), counts: Mutex::default() });
        Ok(Self { named_values: settings.named_values, gateway, management, around, account })
    }

    pub fn account(&self) -> Arc<Account> {
        Arc::clone(&self.account)
    }

    pub async fn run(self) {
        let mut leadership = self.around.leadership.clone();
        loop {
            let fence = leadership.elected().await;
            tokio::select! {
                never = self.lead() => match never {},
                () = leadership.deposed(fence) => {}
            }
            self.account.lock().behind = 0;
        }
    }

    async fn lead(&self) -> Infallible {
        let mut head = self.around.log.watcher();
        let mut term = Term::default();
        loop {
            head.borrow_and_update();
            let wait = match self.compare(&mut term).await {
                Ok(Some(due)) => due.saturating_duration_since(self.around.clock.monotonic()).min(INTERVAL),
                Ok(None) => INTERVAL,
                Err(failure) => {
                    let gateway = self.gateway.name();
                    let cause = failure.cause();
                    tracing::warn!(gateway, cause, "what a gateway runs cannot be told for now: {failure}");
                    FIRST_DELAY
                }
            };
            sleep(PAUSE).await;
            // Out of time: whatever is due by then is tried.
            let _ = timeout(wait, head.changed()).await;
        }
    }

    /// Refreshes what is due, and tells when something is due next. Fails where the state does.
    async fn compare(&self, term: &mut Term) -> Result<Option<Instant>, Failure> {
        let Self { gateway, around: Around { subscribers, log, .. }, .. } = self;
        let subscriber = subscribers.enrol(gateway).await?;
        let (mut behind, mut due) = (0, None);
        for (secret, named_values) in self.by_secret() {
            let standing = log.standing(secret).await?;
            let Some(current) = standing.as_ref().and_then(|stored| stored.record.current()) else { continue };
            let runs = subscriber.runs.get(secret);
            if runs.is_some_and(|runs| runs.version.as_ref() == Some(&current.id)) {
                continue;
            }
            behind += 1;
            self.account.lock().behind = behind;
            let mut is_refreshed = true;
            for (id, source) in &named_values {
                match self.attempt(id, source, &current.id, term).await {
                    Ok(has_it) => is_refreshed &= has_it,
                    Err(failure) => {
                        is_refreshed = false;
                        let (version, why) = (&current.id, failure.message());
                        let refused = runs.and_then(|runs| runs.refused.as_ref());
                        if refused.is_none_or(|known| (&known.version, &*known.why) != (version, why)) {
                            subscribers.acknowledge_for(gateway, secret, version, Some(why)).await?;
                        }
                    }
                }
            }
            if is_refreshed {
                subscribers.acknowledge_for(gateway, secret, &current.id, None).await?;
                behind -= 1;
            } else {
                due = named_values.iter().filter_map(|(id, _)| term.due(id)).chain(due).min();
            }
        }
        self.account.lock().behind = behind;
        Ok(due)
    }

    /// A secret is acknowledged once all that show it were refreshed.
    fn by_secret(&self) -> BTreeMap<&SecretName, Vec<(&str, &Source)>> {
        let mut by_secret: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (id, source) in &self.named_values {
            by_secret.entry(&source.secret).or_default().push((id.as_str(), source));
        }
        by_secret
    }

    /// Whether the named value has the version; a failure only where it was tried just now.
    async fn attempt(&self, id: &str, source: &Source, version: &Arc<str>, term: &mut Term) -> Result<bool, Failure> {
        if term.tries.get(id).is_some_and(|tried| tried.refreshed.as_ref() == Some(version)) {
            return Ok(true);
        }
        if term.due(id).max(term.quiet).is_some_and(|due| self.around.clock.monotonic() < due) {
            return Ok(false);
        }
        let (gateway, secret) = (self.gateway.name(), &source.secret);
        let refreshed = self.management.refresh(id, source).await;
        let tried = term.tries.entry(id.to_owned()).or_default();
        let Err(failure) = refreshed else {
            self.account.lock().refreshed += 1;
            tracing::info!(gateway, named_value = id, %secret, %version, "a named value was refreshed");
            *tried = Try { refreshed: Some(Arc::clone(version)), ..Try::default() };
            return Ok(true);
        };
        self.account.lock().failed += 1;
        tried.failures += 1;
        if tried.failures.is_power_of_two() {
            let (reason, cause) = (failure.reason().name(), failure.cause());
            tracing::warn!(gateway, named_value = id, %secret, reason, cause,
                "a named value could not be refreshed, and is tried again: {failure}");
        }
        let asked = if let Detail::RetryAfter(delay) = failure.detail() { *delay } else { Duration::ZERO };
        let delay = FIRST_DELAY.saturating_mul(1 << (tried.failures - 1).min(10)).min(LONGEST_DELAY);
        let next = self.around.clock.monotonic() + term.jitter.around(delay).max(asked);
        tried.next = Some(next);
        if failure.reason() == Reason::ProviderThrottled {
            term.quiet = Some(next);
        }
        Err(failure)
    }
}

impl Term {
    /// When a named value that failed is tried again.
    fn due(&self, id: &str) -> Option<Instant> {
        self.tries.get(id)?.next.max(self.quiet)
    }
}

impl Account {
    pub fn counts(&self) -> Counts {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Refresher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refresher").field("gateway", &self.gateway).finish_non_exhaustive()
    }
}
