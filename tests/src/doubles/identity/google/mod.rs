//! Google's side: metadata server, token exchange, impersonation, the token endpoint for keys, and an OIDC issuer.

mod access;
mod impersonation;
mod metadata;
mod oauth;
mod sts;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderValue, Request, StatusCode, header};
use keyferry_broker::clock::SharedClock;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use self::access::Directory;
use super::keys::{Keys, SigningKey};
use super::service::Service;
use crate::doubles::faults::Fault;
use crate::doubles::http::{Answer, Server, json as answer, serve, spoil};

pub const PROJECT: &str = "keyferry-test";
pub(super) const PROJECT_NUMBER: &str = "123456789012";

/// All services answer at one address; their paths tell them apart.
#[derive(Debug)]
pub struct GoogleIdentity {
    google: Arc<Google>,
    _server: Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoogleService {
    Metadata,
    Sts,
    IamCredentials,
    /// The token endpoint for keys and refresh tokens.
    OAuth,
    /// Discovery and keys of the issuer of ID tokens.
    Discovery,
}

/// A provider of a workload identity pool, which trusts one issuer.
#[derive(Clone, Debug)]
pub struct PoolProvider {
    pub pool: String,
    pub id: String,
    pub issuer: String,
    /// Empty stands for the provider's own name.
    pub allowed_audiences: Vec<String>,
    /// A claim and the value that it must have.
    pub condition: Option<(String, String)>,
    pub disabled: bool,
}

#[derive(Debug)]
struct Google {
    url: String,
    clock: SharedClock,
    keys: Keys,
    services: [Service; 5],
    directory: Mutex<Directory>,
}

impl GoogleIdentity {
    pub async fn start(clock: SharedClock) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let google = Arc::new(Google {
            url: format!("http://{}", listener.local_addr().unwrap()),
            clock,
            keys: Keys::default(),
            services: Default::default(),
            directory: Mutex::default(),
        });
        let serving = Arc::clone(&google);
        let handler = move |request: Request<Bytes>| {
            let google = Arc::clone(&serving);
            async move { google.serve(&request).await }.boxed()
        };
        Self { google, _server: serve(listener, None, Arc::new(handler)) }
    }

    /// The base of every endpoint, and the issuer of ID tokens.
    pub fn url(&self) -> &str {
        &self.google.url
    }

    pub fn service(&self, service: GoogleService) -> &Service {
        self.google.service(service)
    }

    /// Returns the account's unique id, which is the subject of its ID tokens.
    pub fn add_service_account(&self, email: &str) -> String {
        self.google.directory.lock().unwrap().add_account(email)
    }

    /// Runs this machine as the account; as none with `None`.
    pub fn attach(&self, email: Option<&str>) {
        self.google.directory.lock().unwrap().attached = email.map(str::to_owned);
    }

    pub fn add_provider(&self, provider: PoolProvider) {
        self.google.directory.lock().unwrap().providers.push(provider);
    }

    pub fn change_provider(&self, id: &str, change: impl FnOnce(&mut PoolProvider)) {
        let mut directory = self.google.directory.lock().unwrap();
        change(directory.providers.iter_mut().find(|provider| provider.id == id).unwrap());
    }

    /// The role that lets `member`, for example `principal://…` or `serviceAccount:…`, have the account's tokens.
    pub fn grant_token_creator(&self, email: &str, member: &str) {
        self.google.directory.lock().unwrap().account(email).token_creators.insert(member.to_owned());
    }

    pub fn revoke_token_creator(&self, email: &str, member: &str) {
        self.google.directory.lock().unwrap().account(email).token_creators.remove(member);
    }

    /// A key file of the account.
    pub fn create_key(&self, email: &str) -> Value {
        let key = SigningKey::generate();
        let mut directory = self.google.directory.lock().unwrap();
        let account = directory.account(email);
        account.keys.push(key.public());
        json!({
            "type": "service_account", "project_id": PROJECT, "private_key_id": key.id(),
            "private_key": key.private_pem(), "client_email": email, "client_id": account.id,
            "token_uri": format!("{}/token", self.google.url), "universe_domain": "googleapis.com",
        })
    }

    /// The key files of the account are worth nothing any more.
    pub fn delete_keys(&self, email: &str) {
        self.google.directory.lock().unwrap().account(email).keys.clear();
    }

    /// A file as `gcloud auth application-default login` leaves it.
    pub fn sign_in_user(&self, email: &str) -> Value {
        self.google.directory.lock().unwrap().sign_in_user(email)
    }

    /// Withdraws the key that signed ID tokens so far.
    pub fn rotate_keys(&self) {
        self.google.keys.rotate();
    }

    /// Whom a living access token with the scope for cloud APIs belongs to.
    pub fn principal(&self, access_token: &str) -> Option<String> {
        self.google.principal(access_token)
    }

    /// The same, for a double of an API to ask.
    pub fn principals(&self) -> impl Fn(&str) -> Option<String> + Send + Sync + 'static {
        let google = Arc::clone(&self.google);
        move |access_token| google.principal(access_token)
    }

    /// Whom a living token with one of these scopes belongs to, for a double of an API to ask.
    pub fn holders(&self, scopes: &'static [&'static str]) -> impl Fn(&str) -> Option<String> + Send + Sync + 'static {
        let google = Arc::clone(&self.google);
        move |access_token| {
            let access = google.access(access_token)?;
            scopes.iter().any(|scope| access.covers(scope)).then_some(access.principal)
        }
    }

    /// No access token issued so far is good any more.
    pub fn revoke_all(&self) {
        self.google.directory.lock().unwrap().tokens.clear();
    }
}

impl PoolProvider {
    pub fn new(pool: &str, id: &str, issuer: &str) -> Self {
        Self {
            pool: pool.to_owned(),
            id: id.to_owned(),
            issuer: issuer.to_owned(),
            allowed_audiences: Vec::new(),
            condition: None,
            disabled: false,
        }
    }

    /// The name that the token exchange goes by.
    pub fn audience(&self) -> String {
        format!("//iam.googleapis.com/{}/providers/{}", self.pool_name(), self.id)
    }

    /// How IAM calls the holder of a token with this subject.
    pub fn principal(&self, subject: &str) -> String {
        format!("principal://iam.googleapis.com/{}/subject/{subject}", self.pool_name())
    }

    fn pool_name(&self) -> String {
        format!("projects/{PROJECT_NUMBER}/locations/global/workloadIdentityPools/{}", self.pool)
    }
}

impl Google {
    fn service(&self, service: GoogleService) -> &Service {
        &self.services[service as usize]
    }

    fn principal(&self, access_token: &str) -> Option<String> {
        let access = self.access(access_token)?;
        access.covers(access::CLOUD_PLATFORM).then_some(access.principal)
    }

    async fn serve(&self, request: &Request<Bytes>) -> Answer {
        let Some(service) = GoogleService::of(request.uri().path()) else {
            return answer(StatusCode::NOT_FOUND, &json!({ "error": { "code": 404, "status": "NOT_FOUND" } }));
        };
        let fault = self.service(service).asked();
        match fault {
            Some(Fault::Status(code)) => service.fails(StatusCode::from_u16(code).unwrap()),
            Some(Fault::Throttle { retry_after }) => {
                let mut throttled = service.fails(StatusCode::TOO_MANY_REQUESTS);
                let retry_after = retry_after.map(|after| HeaderValue::from(after.as_secs()));
                throttled.headers_mut().extend(retry_after.map(|after| (header::RETRY_AFTER, after)));
                throttled
            }
            // Nothing is done for a request that is never answered.
            Some(Fault::BlackHole) => std::future::pending().await,
            fault => spoil(self.answer(service, request).await, fault).await,
        }
    }

    async fn answer(&self, service: GoogleService, request: &Request<Bytes>) -> Answer {
        match service {
            GoogleService::Metadata => self.metadata(request),
            GoogleService::Sts => self.exchange(request).await,
            GoogleService::IamCredentials => self.impersonate(request),
            GoogleService::OAuth if request.uri().path() == TOKEN_INFO => self.token_info(request),
            GoogleService::OAuth => self.grant(request),
            GoogleService::Discovery if request.uri().path() == KEYS => answer(StatusCode::OK, &self.keys.published()),
            GoogleService::Discovery => answer(StatusCode::OK, &self.configuration()),
        }
    }

    fn configuration(&self) -> Value {
        json!({
            "issuer": self.url, "jwks_uri": format!("{}{KEYS}", self.url), "response_types_supported": ["id_token"],
            "token_endpoint": format!("{}/token", self.url), "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        })
    }
}

const TOKEN_INFO: &str = "/tokeninfo";
const KEYS: &str = "/oauth2/v3/certs";

impl GoogleService {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/" => Some(Self::Metadata),
            "/v1/token" => Some(Self::Sts),
            "/token" | TOKEN_INFO => Some(Self::OAuth),
            "/.well-known/openid-configuration" | KEYS => Some(Self::Discovery),
            path if path.starts_with("/computeMetadata/") => Some(Self::Metadata),
            path if path.starts_with("/v1/projects/") => Some(Self::IamCredentials),
            _ => None,
        }
    }

    /// In the form that the service's own errors have.
    fn fails(self, status: StatusCode) -> Answer {
        match self {
            Self::Metadata | Self::Discovery => metadata::page(status, "the double was told to fail"),
            Self::Sts | Self::OAuth => {
                let error = if status.is_server_error() { "internal_failure" } else { "invalid_request" };
                oauth::refusal(status, error, "The double was told to fail.")
            }
            Self::IamCredentials => {
                let word = match status.as_u16() {
                    400 => "INVALID_ARGUMENT",
                    401 => "UNAUTHENTICATED",
                    403 => "PERMISSION_DENIED",
                    404 => "NOT_FOUND",
                    429 => "RESOURCE_EXHAUSTED",
                    503 => "UNAVAILABLE",
                    _ => "INTERNAL",
                };
                impersonation::refusal(status, word, "The double was told to fail.", None)
            }
        }
    }
}
