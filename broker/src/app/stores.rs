//! The stores, each with what stands between it and its cloud.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyferry_proto::v1::StoreKind;
use thiserror::Error;

use crate::clock::SharedClock;
use crate::config::StoreSettings;
use crate::names::StoreName;
use crate::providers::azure::{self, AzureStore};
use crate::providers::credential::{Broken, Credential, CredentialSettings};
use crate::providers::gcp::{self, GcpStore};
use crate::providers::guard::{Guard, GuardSettings};
use crate::providers::local::{KeyError, LocalKey, LocalStore, OpenError};
use crate::secrets::Provider;

/// By their names in the configuration.
pub type Credentials = BTreeMap<String, Arc<Credential>>;

/// Of the stores that a cloud keeps.
pub type Guards = BTreeMap<StoreName, Arc<Guard>>;

/// What `GetStatus` says of a store beyond its health.
#[derive(Clone, Debug)]
pub struct StoreSummary {
    pub kind: StoreKind,
    /// The project, the project and location, or the vault's URL.
    pub location: String,
    pub credential: Option<String>,
}

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("the key of {0} cannot be used")]
    Key(StoreName, #[source] KeyError),
    #[error("{0} cannot be opened")]
    Local(StoreName, #[source] OpenError),
    #[error("{0} cannot be opened")]
    Gcp(StoreName, #[source] gcp::OpenError),
    #[error("{0} cannot be opened")]
    Azure(StoreName, #[source] azure::OpenError),
    #[error("[credentials.{0}] cannot be used")]
    Credential(String, #[source] Broken),
    #[error("{0} names the credential {1:?}, which is not declared; add [credentials.{1}]")]
    NoCredential(StoreName, String),
}

pub(super) struct Stores {
    pub(super) providers: BTreeMap<StoreName, Arc<dyn Provider>>,
    pub(super) summaries: BTreeMap<StoreName, StoreSummary>,
    pub(super) guards: Guards,
    pub(super) credentials: Credentials,
}

/// Asks no cloud anything yet, but begins to obtain the tokens that the first calls will need.
pub(super) async fn open(
    stores: BTreeMap<StoreName, StoreSettings>,
    credentials: BTreeMap<String, CredentialSettings>,
    clock: &SharedClock,
) -> Result<Stores, StoreError> {
    let summaries = stores.iter().map(|(name, store)| (name.clone(), StoreSummary::of(store))).collect();
    let (mut providers, mut guards) = (BTreeMap::new(), Guards::new());
    let credentials = open_credentials(credentials, clock)?;
    for (name, settings) in stores {
        let mut guard = |settings: &GuardSettings| {
            let guard = Guard::new(name.as_str().into(), settings.clone(), Arc::clone(clock));
            Arc::clone(guards.entry(name.clone()).or_insert(guard))
        };
        let credential = |credential: &str| {
            let found = credentials.get(credential).cloned();
            found.ok_or_else(|| StoreError::NoCredential(name.clone(), credential.to_owned()))
        };
        let provider: Arc<dyn Provider> = match settings {
            StoreSettings::Local(local) => {
                let key = LocalKey::read_file(&local.key_file).map_err(|error| StoreError::Key(name.clone(), error))?;
                let store = LocalStore::open(name.clone(), &local.file, &key, Arc::clone(clock));
                Arc::new(store.map_err(|error| StoreError::Local(name.clone(), error))?)
            }
            StoreSettings::Gcp(gcp) => {
                let (credential, guard) = (credential(&gcp.credential)?, guard(&gcp.guard));
                let store = GcpStore::open(name.clone(), &gcp, credential, guard).await;
                Arc::new(store.map_err(|error| StoreError::Gcp(name.clone(), error))?)
            }
            StoreSettings::Azure(azure) => {
                let (credential, guard) = (credential(&azure.credential)?, guard(&azure.guard));
                let store = AzureStore::open(name.clone(), &azure, credential, guard, Arc::clone(clock));
                Arc::new(store.map_err(|error| StoreError::Azure(name.clone(), error))?)
            }
        };
        providers.insert(name, provider);
    }
    Ok(Stores { providers, summaries, guards, credentials })
}

fn open_credentials(
    settings: BTreeMap<String, CredentialSettings>,
    clock: &SharedClock,
) -> Result<Credentials, StoreError> {
    let mut credentials = Credentials::new();
    for (name, settings) in settings {
        let started = Credential::start(&name, settings, Arc::clone(clock));
        let credential = started.map_err(|broken| StoreError::Credential(name.clone(), broken))?;
        credentials.insert(name, credential);
    }
    Ok(credentials)
}

impl StoreSummary {
    fn of(store: &StoreSettings) -> Self {
        match store {
            StoreSettings::Local(_) => Self { kind: StoreKind::Local, location: String::new(), credential: None },
            StoreSettings::Gcp(gcp) => Self {
                kind: StoreKind::Gcp,
                location: gcp.location.as_ref().map_or_else(
                    || gcp.project.clone(),
                    |location| format!("projects/{}/locations/{location}", gcp.project),
                ),
                credential: Some(gcp.credential.clone()),
            },
            StoreSettings::Azure(azure) => Self {
                kind: StoreKind::Azure,
                location: azure.vault_url.clone(),
                credential: Some(azure.credential.clone()),
            },
        }
    }
}
