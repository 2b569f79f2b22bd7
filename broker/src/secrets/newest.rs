//! Which version is known to be the newest of its secret, since a provider's `latest` may lag by minutes or hours.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::provider::{Fetched, Provider, VersionInfo};
use crate::clock::Timestamp;
use crate::error::{Failure, Reason};
use crate::names::{SecretName, VersionId};

const MAX_SECRETS: u64 = 100_000;
/// Longer than any lag that a provider admits to.
const LAG: Duration = Duration::from_hours(24);

/// A version that was said to be the newest: by an addition, an event, or a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest {
    pub id: Arc<str>,
    pub created: Option<Timestamp>,
}

impl Newest {
    /// The newer of what was confirmed and what was read.
    pub(super) fn of(confirmed: Option<Self>, read: Option<Self>) -> Option<Self> {
        match (confirmed, read) {
            (Some(confirmed), Some(read)) if read.is_newer_than(&confirmed) => Some(read),
            (confirmed, read) => confirmed.or(read),
        }
    }

    fn is_newer_than(&self, other: &Self) -> bool {
        self.order(other) == Some(Ordering::Greater)
    }

    pub(crate) fn is_older_than(&self, other: &Self) -> bool {
        self.order(other) == Some(Ordering::Less)
    }

    /// Google numbers its versions. Azure's ids are random, but it tells the second in which a version was added; two
    /// of one second are in no order.
    fn order(&self, other: &Self) -> Option<Ordering> {
        match (self.number(), other.number()) {
            (Some(own), Some(others)) => Some(own.cmp(&others)),
            _ => self.created.zip(other.created).map(|(own, others)| own.cmp(&others)),
        }
    }

    fn number(&self) -> Option<u64> {
        self.id.parse().ok()
    }
}

impl From<&VersionInfo> for Newest {
    fn from(version: &VersionInfo) -> Self {
        Self { id: Arc::clone(&version.id), created: version.created }
    }
}

/// What was confirmed, kept apart from the values: these may be evicted, and the promise holds all the same.
pub(super) struct Confirmed(Cache<SecretName, Newest, foldhash::fast::RandomState>);

impl Confirmed {
    pub(super) fn new() -> Self {
        // The last confirmations are those that a provider can lag behind.
        let cache = Cache::builder().max_capacity(MAX_SECRETS).eviction_policy(EvictionPolicy::lru()).time_to_live(LAG);
        Self(cache.build_with_hasher(foldhash::fast::RandomState::default()))
    }

    /// Confirmations may arrive in another order than they were made in. Where nothing else decides, the later one is
    /// the newer.
    pub(super) fn confirm(&self, secret: &SecretName, added: Newest) {
        self.replace(secret, added, |added, known| added.order(known) != Some(Ordering::Less));
    }

    /// What was read may have been cached while another was confirmed.
    pub(super) fn recall(&self, secret: &SecretName, read: Newest) {
        self.replace(secret, read, Newest::is_newer_than);
    }

    fn replace(&self, secret: &SecretName, next: Newest, is_next: fn(&Newest, &Newest) -> bool) {
        self.0.entry_by_ref(secret).and_compute_with(|known| match known {
            Some(known) if !is_next(&next, known.value()) => Op::Nop,
            _ => Op::Put(next),
        });
    }

    pub(super) fn of(&self, secret: &SecretName) -> Option<Newest> {
        self.0.get(secret)
    }
}

/// What `latest` means: the provider's word, unless it is known to lag; then the version is fetched by its number.
pub(super) async fn fetch_latest(
    provider: &dyn Provider,
    secret: &SecretName,
    known: Option<Newest>,
) -> Result<Fetched, Failure> {
    let latest = provider.fetch(secret, &VersionId::Latest).await;
    let Some(known) = known.filter(|known| lags(&latest, known)) else { return latest };
    match (latest, provider.fetch(secret, &VersionId::Exact(known.id)).await) {
        // The secret was deleted and made anew.
        (latest, Err(gone)) if gone.reason() == Reason::VersionNotFound => latest,
        // The provider has answered: no failure to answer may take that answer's place.
        (Err(refusal), Err(_)) => Err(refusal),
        (_, numbered) => numbered,
    }
}

/// Where nothing orders the two, the provider's word stands.
fn lags(latest: &Result<Fetched, Failure>, known: &Newest) -> bool {
    match latest {
        Ok(fetched) => known.is_newer_than(&Newest::from(&fetched.version)),
        // It may speak of an older version that was taken out of use.
        Err(failure) => {
            matches!(failure.reason(), Reason::VersionDisabled | Reason::VersionDestroyed | Reason::VersionNotFound)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest(id: &str, created: Option<u64>) -> Newest {
        Newest { id: id.into(), created: created.map(Timestamp::from_secs) }
    }

    #[test]
    fn numbers_order_versions_then_times() {
        for (one, other, order) in [
            (newest("10", Some(1)), newest("9", Some(2)), Some(Ordering::Greater)),
            (newest("a", Some(2)), newest("b", Some(1)), Some(Ordering::Greater)),
            (newest("a", Some(1)), newest("b", Some(1)), Some(Ordering::Equal)),
            (newest("a", None), newest("b", Some(1)), None),
        ] {
            assert_eq!(one.order(&other), order);
            assert_eq!(other.order(&one), order.map(Ordering::reverse));
        }
    }

    #[test]
    fn a_confirmation_breaks_a_tie_and_a_read_does_not() {
        let (confirmed, secret) = (Confirmed::new(), SecretName::parse("stores/a/secrets/b").unwrap());
        for created in [None, Some(1)] {
            confirmed.confirm(&secret, newest("a", created));
            confirmed.confirm(&secret, newest("b", created));
            confirmed.recall(&secret, newest("a", created));
            assert_eq!(confirmed.of(&secret), Some(newest("b", created)));
        }
    }

    #[test]
    fn a_late_confirmation_of_an_older_version_changes_nothing() {
        let (confirmed, secret) = (Confirmed::new(), SecretName::parse("stores/a/secrets/b").unwrap());
        for id in ["6", "5"] {
            confirmed.confirm(&secret, newest(id, None));
        }
        assert_eq!(confirmed.of(&secret), Some(newest("6", None)));
    }
}
