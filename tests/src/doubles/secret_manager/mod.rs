//! Google Cloud Secret Manager on the wire: REST and gRPC over the same secrets, global and regional.

mod grpc;
mod messages;
mod method;
mod name;
mod refusal;
mod rest;
mod vault;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;

use self::messages::{
    AddSecretVersionRequest, Automatic, CreateSecretRequest, NamedRequest, Replication, Secret, SecretPayload,
};
pub use self::method::Method;
pub use self::name::{PROJECT, PROJECT_NUMBER};
use self::refusal::Refusal;
pub use self::vault::Lag;
use self::vault::Vault;
use super::faults::{Fault, Faults};
use super::http::{Server, serve};

/// A Secret Manager that serves until it is dropped.
#[derive(Debug)]
pub struct SecretManager {
    backend: Arc<Backend>,
    rest: Server,
    grpc: grpc::Server,
}

type Verifier = Box<dyn Fn(&str) -> bool + Send>;

/// What both transports serve from.
#[derive(Default)]
struct Backend {
    vault: Mutex<Vault>,
    /// What the bearer of a token may call. Any other token is none.
    grants: Mutex<HashMap<String, Vec<Method>>>,
    verifiers: Mutex<Vec<(Verifier, Vec<Method>)>>,
    counts: Mutex<BTreeMap<Method, usize>>,
    faults: Faults,
    /// What faults befall; everything without it.
    faulty: Mutex<Option<Method>>,
    /// Additions that were refused as unavailable and are yet to be carried out; absent while none is put off.
    late: Mutex<Option<Vec<rest::Asked>>>,
}

impl SecretManager {
    pub async fn start() -> Self {
        let backend = Arc::new(Backend::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rest = serve(listener, None, rest::handler(Arc::clone(&backend)));
        let grpc = grpc::Server::start(Arc::clone(&backend)).await;
        Self { backend, rest, grpc }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.rest.address())
    }

    /// Host and port, for gRPC without TLS.
    pub fn grpc_endpoint(&self) -> String {
        self.grpc.address().to_string()
    }

    /// From now on the bearer of `token` may call these, and nothing else.
    pub fn grant(&self, token: &str, methods: &[Method]) {
        self.backend.grants.lock().unwrap().insert(token.to_owned(), methods.to_vec());
    }

    /// The same for every token of which `verify` says so.
    pub fn grant_where(&self, verify: impl Fn(&str) -> bool + Send + 'static, methods: &[Method]) {
        self.backend.verifiers.lock().unwrap().push((Box::new(verify), methods.to_vec()));
    }

    pub fn revoke(&self, token: &str) {
        self.backend.grants.lock().unwrap().remove(token);
    }

    pub fn create_secret(&self, location: Option<&str>, id: &str, labels: &[(&str, &str)]) {
        let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let replication = location.is_none().then_some(Replication { automatic: Some(Automatic {}) });
        let request = CreateSecretRequest {
            parent: parent(location),
            secret_id: id.to_owned(),
            secret: Some(Secret { replication, labels, ..Secret::default() }),
        };
        self.backend.vault.lock().unwrap().create_secret(&request).unwrap();
    }

    pub fn add_version(&self, location: Option<&str>, id: &str, payload: &[u8]) {
        let request = AddSecretVersionRequest {
            parent: format!("{}/secrets/{id}", parent(location)),
            payload: Some(SecretPayload { data: payload.to_vec(), data_crc32c: None }),
        };
        self.backend.vault.lock().unwrap().add_version(&request).unwrap();
    }

    pub fn destroy_version(&self, location: Option<&str>, id: &str, version: usize) {
        let name = format!("{}/secrets/{id}/versions/{version}", parent(location));
        let request = NamedRequest { name, etag: String::new() };
        self.backend.vault.lock().unwrap().destroy_version(&request).unwrap();
    }

    pub fn disable_version(&self, location: Option<&str>, id: &str, version: usize) {
        let name = format!("{}/secrets/{id}/versions/{version}", parent(location));
        let request = NamedRequest { name, etag: String::new() };
        self.backend.vault.lock().unwrap().disable_version(&request).unwrap();
    }

    pub fn delete_secret(&self, location: Option<&str>, id: &str) {
        let request = NamedRequest { name: format!("{}/secrets/{id}", parent(location)), etag: String::new() };
        self.backend.vault.lock().unwrap().delete_secret(&request).unwrap();
    }

    pub fn set_lag(&self, lag: Lag) {
        self.backend.vault.lock().unwrap().set_lag(lag);
    }

    pub fn faults(&self) -> &Faults {
        &self.backend.faults
    }

    /// From now on faults befall this method only.
    pub fn spoil_only(&self, method: Method) {
        *self.backend.faulty.lock().unwrap() = Some(method);
    }

    /// From now on additions are answered by 503.
    pub fn put_off_additions(&self) {
        *self.backend.late.lock().unwrap() = Some(Vec::new());
    }

    /// No longer. What is returned carries out those that were put off.
    pub fn take_additions(&self) -> impl FnOnce() + use<> {
        let (backend, late) = (Arc::clone(&self.backend), self.backend.late.lock().unwrap().take().unwrap_or_default());
        move || late.into_iter().for_each(|asked| drop(asked.run(&backend, None).unwrap()))
    }

    /// Requests of this method so far, whatever became of them.
    pub fn count(&self, method: Method) -> usize {
        self.backend.counts.lock().unwrap().get(&method).copied().unwrap_or_default()
    }

    /// All requests so far.
    pub fn requests(&self) -> usize {
        self.backend.counts.lock().unwrap().values().sum()
    }
}

impl Backend {
    /// Counts the request, and says who may make it. `token` is the bearer's, where there is one.
    fn admit(&self, method: Method, token: Option<&str>, resource: &str) -> Result<Option<Fault>, Refusal> {
        *self.counts.lock().unwrap().entry(method).or_default() += 1;
        let spared = self.faulty.lock().unwrap().is_some_and(|faulty| faulty != method);
        let fault = if spared { None } else { self.faults.next() };
        if let Some(refusal) = fault.and_then(Refusal::of) {
            return Err(refusal);
        }
        match token.and_then(|token| self.granted(token)) {
            None => Err(Refusal::unauthenticated()),
            Some(methods) if methods.contains(&method) => Ok(fault),
            Some(_) => Err(Refusal::denied(method.permission(), resource)),
        }
    }

    fn granted(&self, token: &str) -> Option<Vec<Method>> {
        if let Some(methods) = self.grants.lock().unwrap().get(token) {
            return Some(methods.clone());
        }
        let verifiers = self.verifiers.lock().unwrap();
        verifiers.iter().find(|(verify, _)| verify(token)).map(|(_, methods)| methods.clone())
    }
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").field("counts", &self.counts).finish_non_exhaustive()
    }
}

fn parent(location: Option<&str>) -> String {
    match location {
        None => format!("projects/{PROJECT}"),
        Some(location) => format!("projects/{PROJECT}/locations/{location}"),
    }
}
