//! Reads and changes secrets for callers who hold a permit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::SecretBytes;
use super::provider::{Fetched, Labels, Listing, Page, Provider, SecretInfo, VersionInfo};
use crate::admission::{Permit, Resource};
use crate::clock::{SharedClock, Timestamp};
use crate::error::{Failure, Reason};
use crate::names::{SecretName, StoreName, VersionId};

/// All configured stores.
#[derive(Clone)]
pub struct Secrets {
    stores: Arc<BTreeMap<StoreName, Arc<dyn Provider>>>,
    clock: SharedClock,
}

/// What a reader demands beyond the name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    pub max_age: Option<Duration>,
    pub min_revision: u64,
}

/// A secret that was read. Its payload leaves only against an audit receipt.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "holds a secret")]
pub struct Read {
    pub secret: SecretName,
    pub fetched: Fetched,
    pub source: Source,
    pub loaded: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Cache,
    Provider,
    Stale,
}

impl Source {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "CACHE",
            Self::Provider => "PROVIDER",
            Self::Stale => "STALE",
        }
    }
}

impl Secrets {
    pub fn new(stores: BTreeMap<StoreName, Arc<dyn Provider>>, clock: SharedClock) -> Self {
        Self { stores: Arc::new(stores), clock }
    }

    /// A secret's labels for policy to look at, before anything is permitted; `None` where it does not exist.
    pub async fn labels(&self, secret: &SecretName) -> Result<Option<Labels>, Failure> {
        let Ok(provider) = self.provider(secret) else {
            return Ok(None);
        };
        match provider.describe(secret).await {
            Ok(info) => Ok(Some(info.labels)),
            Err(failure) if failure.reason() == Reason::SecretNotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    pub async fn get(&self, permit: &Permit, version: &VersionId, demand: Demand) -> Result<Read, Failure> {
        let secret = permitted_secret(permit)?;
        let provider = self.provider(secret)?;
        if demand.min_revision > 0 {
            let message =
                "this broker keeps no rotation log yet, so it has reached no revision; leave min_revision out";
            return Err(Failure::new(Reason::RevisionNotReached, message));
        }
        let fetched = provider.fetch(secret, version).await.map_err(in_our_words(secret))?;
        Ok(Read { secret: secret.clone(), fetched, source: Source::Provider, loaded: self.clock.now() })
    }

    pub async fn list(&self, permit: &Permit, page: Page) -> Result<Listing<SecretInfo>, Failure> {
        match permit.resource() {
            Resource::Store(store) => self.store(store)?.list(page).await,
            Resource::Secret(..) | Resource::Broker => Err(misfit()),
        }
    }

    pub async fn versions(&self, permit: &Permit, page: Page) -> Result<Listing<VersionInfo>, Failure> {
        let secret = permitted_secret(permit)?;
        self.provider(secret)?.versions(secret, page).await.map_err(in_our_words(secret))
    }

    pub async fn describe(&self, permit: &Permit) -> Result<SecretInfo, Failure> {
        let secret = permitted_secret(permit)?;
        self.provider(secret)?.describe(secret).await.map_err(in_our_words(secret))
    }

    pub async fn version(&self, permit: &Permit, id: &str) -> Result<VersionInfo, Failure> {
        let secret = permitted_secret(permit)?;
        let mut page = Page { size: 1000, token: None };
        loop {
            let listing = self.provider(secret)?.versions(secret, page).await.map_err(in_our_words(secret))?;
            if let Some(found) = listing.items.into_iter().find(|version| &*version.id == id) {
                return Ok(found);
            }
            let Some(next) = listing.next else {
                let message = format!("{secret} has no version {id}; ListSecretVersions shows those it has");
                return Err(Failure::new(Reason::VersionNotFound, message));
            };
            page = Page { size: 1000, token: Some(next) };
        }
    }

    pub async fn add(
        &self,
        permit: &Permit,
        payload: SecretBytes,
        creation: Option<Labels>,
    ) -> Result<VersionInfo, Failure> {
        let secret = permitted_secret(permit)?;
        self.provider(secret)?.add(secret, payload, creation).await.map_err(in_our_words(secret))
    }

    pub async fn set_enabled(
        &self,
        permit: &Permit,
        version: &VersionId,
        enabled: bool,
    ) -> Result<VersionInfo, Failure> {
        let secret = permitted_secret(permit)?;
        self.provider(secret)?.set_enabled(secret, version, enabled).await.map_err(in_our_words(secret))
    }

    fn provider(&self, secret: &SecretName) -> Result<&Arc<dyn Provider>, Failure> {
        let provider = self.stores.get(secret.store()).ok_or_else(|| no_such_secret(secret))?;
        provider
            .check_name(secret)
            .map_err(|error| Failure::bad_field(Reason::InvalidName, "name", error.to_string()))?;
        Ok(provider)
    }

    fn store(&self, store: &StoreName) -> Result<&Arc<dyn Provider>, Failure> {
        self.stores.get(store).ok_or_else(|| no_store(store.as_str()))
    }
}

/// What whoever may ask hears of a secret that is not there, or that its labels hide from them.
pub fn no_such_secret(secret: &SecretName) -> Failure {
    Failure::new(Reason::SecretNotFound, format!("{secret} does not exist; ListSecrets shows what there is for you"))
}

/// Every store says it alike, so that hidden and absent cannot be told apart by the words.
fn in_our_words(secret: &SecretName) -> impl FnOnce(Failure) -> Failure {
    move |failure| if failure.reason() == Reason::SecretNotFound { no_such_secret(secret) } else { failure }
}

fn no_store(store: &str) -> Failure {
    let message =
        format!("{store} is not configured at this broker; check the name, or add [stores] to its configuration");
    Failure::new(Reason::SecretNotFound, message)
}

fn permitted_secret(permit: &Permit) -> Result<&SecretName, Failure> {
    match permit.resource() {
        Resource::Secret(secret, _) => Ok(secret),
        Resource::Store(_) | Resource::Broker => Err(misfit()),
    }
}

fn misfit() -> Failure {
    Failure::new(Reason::Internal, "the permit is for another kind of resource; report this")
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.stores.keys()).finish()
    }
}
