//! Microsoft's side: Entra's token endpoint and keys, and the two ways in which a machine has a managed identity.

mod assertion;
mod managed;
mod token;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderValue, Request, StatusCode, header};
use keyferry_broker::clock::SharedClock;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::keys::{Keys, random_hex, random_id};
use super::presented::Presented;
use super::service::Service;
use crate::doubles::faults::Fault;
use crate::doubles::http::{Answer, Server, json as answer, serve, spoil};
use crate::pki::Ca;
use crate::tls;

pub const TENANT: &str = "5f1c1f0e-3a52-4c7e-8f0e-0d1f4b8f1a22";

/// What every tenant has: tokens for it need no registration.
const KEY_VAULT: &str = "https://vault.azure.net";

/// All services answer at one address; their paths tell them apart. It has one tenant.
#[derive(Debug)]
pub struct EntraIdentity {
    entra: Arc<Entra>,
    _server: Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntraService {
    Token,
    /// Discovery and keys.
    Discovery,
    /// The metadata service of virtual machines.
    Imds,
    AppService,
}

/// Whose assertions an application accepts; all three must match to the letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederatedCredential {
    pub issuer: String,
    pub subject: String,
    pub audience: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedIdentity {
    pub client_id: String,
    /// The subject of its tokens.
    pub object_id: String,
}

#[derive(Debug)]
struct Entra {
    url: String,
    clock: SharedClock,
    keys: Keys,
    services: [Service; 4],
    directory: Mutex<Directory>,
    identity_header: String,
}

#[derive(Debug, Default)]
struct Directory {
    applications: Vec<Application>,
    resources: BTreeSet<String>,
    /// Of this machine: the system's own one first.
    assigned: Vec<ManagedIdentity>,
}

#[derive(Clone, Debug)]
struct Application {
    client_id: String,
    object_id: String,
    trusted: Vec<FederatedCredential>,
}

impl EntraIdentity {
    pub async fn start(clock: SharedClock) -> Self {
        Self::start_at(clock, None).await
    }

    /// Over HTTPS at 127.0.0.1, which is the only authority that Microsoft's clients talk to.
    pub async fn start_with_tls(clock: SharedClock, ca: &Ca) -> Self {
        Self::start_at(clock, Some(ca)).await
    }

    async fn start_at(clock: SharedClock, ca: Option<&Ca>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if ca.is_some() { "https" } else { "http" };
        let directory = Directory { resources: [KEY_VAULT.to_owned()].into(), ..Directory::default() };
        let entra = Arc::new(Entra {
            url: format!("{scheme}://{}", listener.local_addr().unwrap()),
            clock,
            keys: Keys::default(),
            services: Default::default(),
            directory: Mutex::new(directory),
            identity_header: random_hex(16),
        });
        let serving = Arc::clone(&entra);
        let handler = move |request: Request<Bytes>| {
            let entra = Arc::clone(&serving);
            async move { entra.serve(&request).await }.boxed()
        };
        let tls = ca.map(|ca| tls::server(&ca.server("localhost")));
        Self { entra, _server: serve(listener, tls, Arc::new(handler)) }
    }

    /// The authority, and the base of IMDS.
    pub fn url(&self) -> &str {
        &self.entra.url
    }

    /// Who says so in the tokens that it issues.
    pub fn issuer(&self) -> String {
        self.entra.issuer()
    }

    /// As App Service gives it in `IDENTITY_ENDPOINT`.
    pub fn identity_endpoint(&self) -> String {
        format!("{}{APP_SERVICE}", self.entra.url)
    }

    /// As App Service gives it in `IDENTITY_HEADER`.
    pub fn identity_header(&self) -> &str {
        &self.entra.identity_header
    }

    pub fn service(&self, service: EntraService) -> &Service {
        self.entra.service(service)
    }

    /// Registers an application and returns its client id.
    pub fn add_application(&self) -> String {
        let application = Application { client_id: random_id(), object_id: random_id(), trusted: Vec::new() };
        let client_id = application.client_id.clone();
        self.entra.directory.lock().unwrap().applications.push(application);
        client_id
    }

    /// Replaces the federated credentials of an application.
    pub fn trust(&self, client_id: &str, trusted: &[FederatedCredential]) {
        let mut directory = self.entra.directory.lock().unwrap();
        let application = directory.applications.iter_mut().find(|application| application.client_id == client_id);
        application.unwrap().trusted = trusted.to_vec();
    }

    /// An application id URI that tokens may be asked for.
    pub fn add_resource(&self, uri: &str) {
        self.entra.directory.lock().unwrap().resources.insert(uri.to_owned());
    }

    /// Gives this machine an identity; the first one is the system's own.
    pub fn assign(&self) -> ManagedIdentity {
        let identity = ManagedIdentity { client_id: random_id(), object_id: random_id() };
        self.entra.directory.lock().unwrap().assigned.push(identity.clone());
        identity
    }

    /// What the machine would be given for this resource.
    pub fn token_for(&self, identity: &ManagedIdentity, resource: &str) -> String {
        self.entra.managed_token(EntraService::Imds, identity, resource)
    }

    pub fn unassign_all(&self) {
        self.entra.directory.lock().unwrap().assigned.clear();
    }

    pub fn rotate_keys(&self) {
        self.entra.keys.rotate();
    }

    /// The object id that a good token for `resource` belongs to.
    pub fn principal(&self, token: &str, resource: &str) -> Option<String> {
        self.entra.principal(token, resource)
    }

    /// The same, for a double of that resource to ask.
    pub fn principals(&self, resource: &'static str) -> impl Fn(&str) -> Option<String> + Send + Sync + 'static {
        let entra = Arc::clone(&self.entra);
        move |token| entra.principal(token, resource)
    }
}

const APP_SERVICE: &str = "/msi/token";
const IMDS: &str = "/metadata/identity/oauth2/token";

impl Entra {
    fn service(&self, service: EntraService) -> &Service {
        &self.services[service as usize]
    }

    /// Version 1 of the tokens, which Key Vault and managed identities have.
    fn issuer(&self) -> String {
        format!("{}/{TENANT}/", self.url)
    }

    fn principal(&self, token: &str, resource: &str) -> Option<String> {
        let presented = Presented::parse(token)?;
        presented.verify_by(&self.keys.published(), self.clock.now()).ok()?;
        presented.is_for(&[resource]).then(|| presented.claim("oid").to_owned())
    }

    async fn serve(&self, request: &Request<Bytes>) -> Answer {
        let Some(service) = EntraService::of(request.uri().path()) else {
            return answer(StatusCode::NOT_FOUND, &json!({ "error": "not_found" }));
        };
        let fault = self.service(service).asked();
        match fault {
            Some(Fault::Status(code)) => self.fails(service, StatusCode::from_u16(code).unwrap()),
            Some(Fault::Throttle { retry_after }) => {
                let mut throttled = self.fails(service, StatusCode::TOO_MANY_REQUESTS);
                let retry_after = retry_after.map(|after| HeaderValue::from(after.as_secs()));
                throttled.headers_mut().extend(retry_after.map(|after| (header::RETRY_AFTER, after)));
                throttled
            }
            // Nothing is done for a request that is never answered.
            Some(Fault::BlackHole) => std::future::pending().await,
            fault => spoil(self.answer(service, request).await, fault).await,
        }
    }

    async fn answer(&self, service: EntraService, request: &Request<Bytes>) -> Answer {
        match service {
            EntraService::Token => self.token(request).await,
            EntraService::Discovery => self.discovery(request.uri().path()),
            EntraService::Imds => self.imds(request),
            EntraService::AppService => self.app_service(request),
        }
    }

    fn discovery(&self, path: &str) -> Answer {
        match path.trim_start_matches('/').split_once('/') {
            Some((TENANT, "discovery/v2.0/keys")) => answer(StatusCode::OK, &self.keys.published()),
            Some((TENANT, rest)) if rest.starts_with("v2.0/") => {
                answer(StatusCode::OK, &self.configuration(&format!("{}/{TENANT}/v2.0", self.url)))
            }
            Some((TENANT, _)) => answer(StatusCode::OK, &self.configuration(&self.issuer())),
            Some((tenant, _)) => self.refusal(&token::Refused::unknown_tenant(tenant)),
            None => answer(StatusCode::NOT_FOUND, &json!({ "error": "not_found" })),
        }
    }

    fn configuration(&self, issuer: &str) -> Value {
        let tenant = format!("{}/{TENANT}", self.url);
        json!({
            "issuer": issuer, "jwks_uri": format!("{tenant}/discovery/v2.0/keys"),
            "token_endpoint": format!("{tenant}/oauth2/v2.0/token"),
            "authorization_endpoint": format!("{tenant}/oauth2/v2.0/authorize"),
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
            "response_types_supported": ["code", "id_token"], "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
        })
    }

    /// In the form that the service's own errors have.
    fn fails(&self, service: EntraService, status: StatusCode) -> Answer {
        let said = "The double was told to fail.";
        match service {
            EntraService::Token | EntraService::Discovery => {
                let (error, code) = if status.is_client_error() {
                    ("invalid_request", 900_000)
                } else {
                    ("temporarily_unavailable", 90_033)
                };
                self.refusal(&token::Refused { status, error, code, said: said.to_owned() })
            }
            EntraService::Imds => managed::imds_refusal(status, "unknown_error", said),
            EntraService::AppService => managed::app_service_refusal(status, said),
        }
    }
}

impl EntraService {
    fn of(path: &str) -> Option<Self> {
        match path {
            IMDS => Some(Self::Imds),
            APP_SERVICE => Some(Self::AppService),
            path if path.ends_with("/oauth2/v2.0/token") => Some(Self::Token),
            path if path.ends_with("/.well-known/openid-configuration") || path.ends_with("/discovery/v2.0/keys") => {
                Some(Self::Discovery)
            }
            _ => None,
        }
    }
}
