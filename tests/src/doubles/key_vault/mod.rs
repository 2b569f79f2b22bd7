//! Azure Key Vault's secrets on the wire: HTTPS, the challenge, versions, soft delete.

mod refusal;
mod rest;
mod secrets;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::TcpListener;

use self::secrets::Secrets;
use super::faults::Faults;
use super::http::{Server, serve};
use crate::pki::Ca;

pub const HOST: &str = "myvault.vault.azure.net";
pub const SCOPE: &str = "https://vault.azure.net/.default";

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Anything, without a token.
    Challenge,
    Get,
    Set,
    Update,
    Delete,
    List,
    ListVersions,
    GetDeleted,
    ListDeleted,
    Recover,
    Purge,
}

/// A vault that serves until it is dropped.
#[derive(Debug)]
pub struct KeyVault {
    backend: Arc<Backend>,
    server: Server,
}

struct Backend {
    secrets: Mutex<Secrets>,
    tokens: Mutex<Vec<Verifier>>,
    resource: Mutex<String>,
    denial: Mutex<Option<(Vec<Operation>, &'static str)>>,
    counts: Mutex<BTreeMap<Operation, usize>>,
    faults: Faults,
    /// What faults befall; everything without it.
    faulty: Mutex<Option<Operation>>,
    /// Where a list's next page is said to be.
    pages_at: Mutex<String>,
}

type Verifier = Box<dyn Fn(&str) -> bool + Send>;

impl KeyVault {
    /// With a certificate of `ca` for [`HOST`], whatever address it gets.
    pub async fn start(ca: &Ca) -> Self {
        let backend = Arc::new(Backend {
            secrets: Mutex::default(),
            tokens: Mutex::default(),
            resource: Mutex::new("https://vault.azure.net".to_owned()),
            denial: Mutex::default(),
            counts: Mutex::default(),
            faults: Faults::default(),
            faulty: Mutex::default(),
            pages_at: Mutex::new(format!("https://{HOST}:443")),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = serve(listener, Some(tls(ca)), rest::handler(Arc::clone(&backend)));
        Self { backend, server }
    }

    pub fn vault_url(&self) -> String {
        format!("https://{HOST}")
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn accept_token(&self, token: &str) {
        let token = token.to_owned();
        self.accept(move |presented| presented == token);
    }

    /// Takes every token of which `verify` says so.
    pub fn accept(&self, verify: impl Fn(&str) -> bool + Send + 'static) {
        self.backend.tokens.lock().unwrap().push(Box::new(verify));
    }

    pub fn withdraw_tokens(&self) {
        self.backend.tokens.lock().unwrap().clear();
    }

    /// The resource that the challenge demands a token for.
    pub fn challenge_for(&self, resource: &str) {
        resource.clone_into(&mut self.backend.resource.lock().unwrap());
    }

    /// From now on these are forbidden, for the reason that the code names.
    pub fn deny(&self, operations: &[Operation], code: &'static str) {
        *self.backend.denial.lock().unwrap() = Some((operations.to_vec(), code));
    }

    /// Adds a version, creating the secret, and returns the version's id.
    pub fn put(&self, name: &str, value: &str, tags: &[(&str, &str)]) -> String {
        let tags: BTreeMap<_, _> = tags.iter().copied().collect();
        let body = json!({ "value": value, "tags": tags });
        let set = self.backend.secrets.lock().unwrap().set(name, &body).unwrap();
        set["id"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
    }

    /// The newest version's, as whoever may read it gets it.
    pub fn value(&self, name: &str) -> Option<String> {
        let bundle = self.backend.secrets.lock().unwrap().get(name, None).ok()?;
        bundle["value"].as_str().map(str::to_owned)
    }

    /// Changes attributes and the rest of the newest version, as `PATCH` does.
    pub fn update(&self, name: &str, change: &serde_json::Value) {
        self.backend.secrets.lock().unwrap().update(name, None, change).unwrap();
    }

    pub fn delete(&self, name: &str) {
        self.backend.secrets.lock().unwrap().delete(name).unwrap();
    }

    pub fn faults(&self) -> &Faults {
        &self.backend.faults
    }

    /// From now on faults befall this operation only.
    pub fn spoil_only(&self, operation: Operation) {
        *self.backend.faulty.lock().unwrap() = Some(operation);
    }

    /// From now on lists go on at this origin.
    pub fn lead_pages_to(&self, origin: &str) {
        origin.clone_into(&mut self.backend.pages_at.lock().unwrap());
    }

    /// Requests of this kind so far, whatever became of them.
    pub fn count(&self, operation: Operation) -> usize {
        self.backend.counts.lock().unwrap().get(&operation).copied().unwrap_or_default()
    }

    /// All requests so far.
    pub fn requests(&self) -> usize {
        self.backend.counts.lock().unwrap().values().sum()
    }
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").field("counts", &self.counts).finish_non_exhaustive()
    }
}

fn tls(ca: &Ca) -> ServerConfig {
    let issued = ca.server(HOST);
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_no_client_auth().with_single_cert(vec![CertificateDer::from(issued.der)], key).unwrap()
}
