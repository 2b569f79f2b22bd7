//! The configuration file, read once into types. A key is declared in one place, which reads it, names its variable,
//! checks it and describes it; one pass over those declarations finds every error, or writes the reference.

mod cache;
mod credentials;
mod databases;
mod document;
mod environment;
mod envoy;
mod events;
mod files;
#[cfg(test)]
mod fuzz;
mod gateways;
mod given;
mod identity;
mod issuer;
mod issuers;
mod kind;
mod limits;
mod listen;
mod policy;
mod problem;
mod quota;
mod reader;
mod reference;
mod rotations;
mod section;
mod state;
mod stores;
mod surroundings;
mod tls;
mod url;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::admission::QuotaSettings;
use crate::databases::{DatabaseSettings, LeaseSettings, SigningSettings};
use crate::gateway::api_management::GatewaySettings;
use crate::gateway::sds::{Resource, ResourceName};
use crate::identity::token::IssuerSettings;
use crate::names::{DatabaseName, StoreName};
use crate::providers::credential::CredentialSettings;
use crate::rotation::settings::RotationSettings;
use crate::rotation::sources::EventSettings;
use crate::rotation::subscribers::SubscriberName;
use crate::secrets::CacheSettings;
use crate::transport::{Limits, TlsSettings};
use crate::{audit, telemetry};

pub use environment::environment;
pub use identity::IdentitySettings;
pub(crate) use kind::parse_duration;
pub use listen::ListenSettings;
pub use policy::PolicySettings;
pub use problem::{Place, Problem, Problems};
pub use reference::reference;
pub use stores::{AzureStore, GcpStore, LocalStore, StoreSettings};
pub use surroundings::NodeSettings;

use document::Document;
use environment::Environment;
use reader::{Reader, UsedFile};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub node: NodeSettings,
    pub listen: ListenSettings,
    pub tls: TlsSettings,
    pub limits: Limits,
    pub audit: audit::Settings,
    pub policy: PolicySettings,
    pub identity: IdentitySettings,
    /// By the name that a caller's id carries.
    pub issuers: BTreeMap<String, IssuerSettings>,
    pub quota: QuotaSettings,
    /// By the name that a store's `credential` has.
    pub credentials: BTreeMap<String, CredentialSettings>,
    pub stores: BTreeMap<StoreName, StoreSettings>,
    pub events: BTreeMap<String, EventSettings>,
    pub state: crate::state::Settings,
    pub cache: CacheSettings,
    /// The broker as an issuer itself.
    pub issuer: Option<SigningSettings>,
    pub databases: BTreeMap<DatabaseName, DatabaseSettings>,
    pub leases: LeaseSettings,
    /// By the NAME of `[rotations.NAME]`.
    pub rotations: BTreeMap<String, RotationSettings>,
    /// What Envoys may fetch, by the name that they ask for it by.
    pub envoy: BTreeMap<ResourceName, Resource>,
    pub gateways: BTreeMap<SubscriberName, GatewaySettings>,
    pub telemetry: telemetry::Settings,
    files: Vec<UsedFile>,
    path: Arc<str>,
}

impl Config {
    /// `host` names this node where the configuration does not.
    pub fn load(
        path: &Path,
        variables: impl IntoIterator<Item = (String, String)>,
        host: &str,
    ) -> Result<Self, Problems> {
        let text = files::read(path)?;
        Self::parse(&text, path, variables, host)
    }

    /// Reads `text` as the content of `path`, whose directory the paths in it start from.
    pub fn parse(
        text: &str,
        path: &Path,
        variables: impl IntoIterator<Item = (String, String)>,
        host: &str,
    ) -> Result<Self, Problems> {
        let (document, root) = Document::parse(text);
        let mut reader = Reader::new(document, &root, Environment::new(variables), path);
        let mut config = Self::read(&mut reader, host);
        (config.files, config.path) = reader.finish()?;
        Ok(config)
    }

    /// What is wrong with the files that the configuration names, as far as looking at them tells.
    pub fn check_files(&self) -> Vec<Problem> {
        files::check(&self.files, &self.path)
    }

    fn read(reader: &mut Reader<'_>, host: &str) -> Self {
        let mut credential_names = credentials::Names::default();
        let (stores, freshness, databases, issuer);
        let node = surroundings::node(reader, host);
        let listen = listen::read(reader);
        Self {
            node,
            tls: tls::read(reader),
            limits: limits::read(reader),
            identity: identity::read(reader),
            issuers: issuers::read(reader),
            policy: policy::read(reader),
            quota: quota::read(reader),
            credentials: credentials::read(reader, &mut credential_names),
            stores: {
                (stores, freshness) = stores::read(reader, &credential_names);
                stores.clone()
            },
            events: events::read(reader, &stores, &credential_names, listen.web.is_some()),
            cache: CacheSettings { size: cache::read(reader), stores: freshness },
            state: state::read(reader),
            databases: {
                issuer = issuer::read(reader, &listen);
                databases = databases::read(reader, &credential_names);
                issuer::check(reader, issuer.as_ref(), &databases);
                databases.clone()
            },
            listen: listen.clone(),
            leases: databases::leases(reader),
            rotations: rotations::read(
                reader,
                &rotations::Surroundings { stores: &stores, databases: &databases, issuer: issuer.as_ref() },
            ),
            envoy: envoy::read(reader, &stores),
            gateways: gateways::read(reader, &stores, &credential_names),
            issuer,
            audit: surroundings::audit(reader),
            telemetry: surroundings::telemetry(reader),
            files: Vec::new(),
            path: Arc::default(),
        }
    }
}
