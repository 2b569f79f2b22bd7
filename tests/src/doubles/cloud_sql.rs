//! Cloud SQL: the Admin API's part in a login, and an instance whose own proxy lets in whom IAM lets in.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderValue, Method, Request, StatusCode};
use keyferry_broker::clock::SharedClock;
use rcgen::{DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType, date_time_ymd};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::faults::Fault;
use super::http::{Answer, Server, json as answer, serve, spoil};
use super::identity::{GoogleIdentity, PROJECT, Service, header};
use super::logins::{Attempt, Logins};
use crate::pki::Ca;
use crate::postgres::Cluster;

pub const REGION: &str = "europe-west3";
pub const INSTANCE: &str = "shop";
const LONGEST_LIFE: u64 = 3600;

/// Serves until dropped: one running PostgreSQL instance that knows IAM.
#[derive(Debug)]
pub struct CloudSql {
    cloud: Arc<Cloud>,
    api: Server,
    logins: Logins,
}

type Holders = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

struct Cloud {
    clock: SharedClock,
    ca: Ca,
    service: Service,
    /// Whose token it is, where the token admits to the API, and to logging in.
    callers: Holders,
    logins: Holders,
    members: Mutex<BTreeSet<String>>,
    /// The login token that a certificate holds.
    certificates: Mutex<HashMap<Vec<u8>, String>>,
    settings: Mutex<Value>,
    /// Certificates go to another key than the one that was sent.
    swaps_keys: Mutex<bool>,
}

impl CloudSql {
    /// On an address of its own, as connectors know no port but 3307. Without a cluster, nobody gets in.
    pub async fn start(google: &GoogleIdentity, cluster: Option<&Cluster>, clock: SharedClock) -> Self {
        const API: [&str; 2] =
            ["https://www.googleapis.com/auth/sqlservice.admin", "https://www.googleapis.com/auth/cloud-platform"];
        let proxy = listen_somewhere().await;
        let host = proxy.local_addr().unwrap().ip();
        let ca = Ca::new("the instance's CA");
        let settings = json!({
            "kind": "sql#connectSettings", "region": REGION, "databaseVersion": "POSTGRES_15",
            "backendType": "SECOND_GEN", "serverCaMode": "GOOGLE_MANAGED_INTERNAL_CA",
            "serverCaCert": { "kind": "sql#sslCert", "cert": ca.pem() },
            "ipAddresses": [{ "type": "PRIMARY", "ipAddress": host.to_string() }],
        });
        // Its name is the instance's; the address is there for clients that check one.
        let identity = ca.issue(|params| {
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, format!("{PROJECT}:{INSTANCE}"));
            params.subject_alt_names = vec![SanType::IpAddress(host)];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![CertificateDer::from(identity.der.clone())],
                PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap(),
            )
            .unwrap();
        let cloud = Arc::new(Cloud {
            clock,
            ca,
            service: Service::default(),
            callers: Box::new(google.holders(&API)),
            logins: Box::new(google.holders(&["https://www.googleapis.com/auth/sqlservice.login"])),
            members: Mutex::default(),
            certificates: Mutex::default(),
            settings: Mutex::new(settings),
            swaps_keys: Mutex::default(),
        });
        let judging = Arc::clone(&cloud);
        let logins = Logins::serve(proxy, tls, Arc::new(move |attempt| judging.judge(attempt)), cluster);
        let serving = Arc::clone(&cloud);
        let handler = move |request: Request<Bytes>| {
            let cloud = Arc::clone(&serving);
            async move { cloud.serve(&request).await }.boxed()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { cloud, api: serve(listener, None, Arc::new(handler)), logins }
    }

    /// The Admin API.
    pub fn url(&self) -> String {
        format!("http://{}", self.api.address())
    }

    pub fn connection_name(&self) -> String {
        format!("{PROJECT}:{REGION}:{INSTANCE}")
    }

    /// Where the instance is.
    pub fn address(&self) -> SocketAddr {
        self.logins.address()
    }

    pub fn ca(&self) -> &Ca {
        &self.cloud.ca
    }

    /// Requests to the Admin API, and what befalls them.
    pub fn service(&self) -> &Service {
        &self.cloud.service
    }

    /// roles/cloudsql.client and roles/cloudsql.instanceUser.
    pub fn grant(&self, email: &str) {
        self.cloud.members.lock().unwrap().insert(format!("serviceAccount:{email}"));
    }

    pub fn revoke(&self, email: &str) {
        self.cloud.members.lock().unwrap().remove(&format!("serviceAccount:{email}"));
    }

    /// What is said of the instance from now on.
    pub fn change_settings(&self, change: impl FnOnce(&mut Value)) {
        change(&mut self.cloud.settings.lock().unwrap());
    }

    pub fn swap_keys(&self) {
        *self.cloud.swaps_keys.lock().unwrap() = true;
    }
}

impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cloud").field(&self.ca).finish()
    }
}

impl Cloud {
    async fn serve(&self, request: &Request<Bytes>) -> Answer {
        let fault = self.service.asked();
        match fault {
            Some(Fault::Status(code)) => refusal(StatusCode::from_u16(code).unwrap(), "doubled", "told to fail"),
            Some(Fault::Throttle { retry_after }) => {
                let mut throttled = refusal(StatusCode::TOO_MANY_REQUESTS, "rateLimitExceeded", "Quota exceeded.");
                let retry_after = retry_after.map(|after| HeaderValue::from(after.as_secs()));
                throttled.headers_mut().extend(retry_after.map(|after| (http::header::RETRY_AFTER, after)));
                throttled
            }
            // Nothing is done for a request that is never answered.
            Some(Fault::BlackHole) => std::future::pending().await,
            fault => spoil(self.answer(request), fault).await,
        }
    }

    fn answer(&self, request: &Request<Bytes>) -> Answer {
        let bearer = header(request, "authorization").strip_prefix("Bearer ").unwrap_or_default();
        let Some(caller) = (self.callers)(bearer) else {
            return refusal(StatusCode::UNAUTHORIZED, "authError", "Request had invalid authentication credentials.");
        };
        let denied = || refusal(StatusCode::FORBIDDEN, "notAuthorized", "The client is not authorized.");
        let instance = format!("/sql/v1beta4/projects/{PROJECT}/instances/{INSTANCE}");
        let Some(method) = request.uri().path().strip_prefix(&instance) else {
            // Google tells nobody which instances there are.
            return denied();
        };
        if !self.members.lock().unwrap().contains(&caller) {
            return denied();
        }
        match (request.method(), method) {
            (&Method::GET, "/connectSettings") => answer(StatusCode::OK, &self.settings.lock().unwrap()),
            (&Method::POST, ":generateEphemeralCert") => self.certify(request),
            _ => refusal(StatusCode::NOT_FOUND, "notFound", "Method not found."),
        }
    }

    fn certify(&self, request: &Request<Bytes>) -> Answer {
        let invalid = |said: &str| refusal(StatusCode::BAD_REQUEST, "invalid", said);
        let Ok(body) = serde_json::from_slice::<Value>(request.body()) else {
            return invalid("Invalid JSON payload received.");
        };
        let login = body["access_token"].as_str().unwrap_or_default();
        if !login.is_empty() && (self.logins)(login).is_none() {
            return invalid("The access token is not a valid login token.");
        }
        let asked = body["validDuration"].as_str().and_then(|text| text.strip_suffix('s')?.parse().ok());
        let life = Duration::from_secs(asked.unwrap_or(LONGEST_LIFE).min(LONGEST_LIFE));
        let now = Duration::from_secs(self.clock.now().as_secs());
        let epoch = date_time_ymd(1970, 1, 1);
        let own;
        let key = if *self.swaps_keys.lock().unwrap() {
            own = rcgen::KeyPair::generate().unwrap().public_key_pem();
            own.as_str()
        } else {
            body["public_key"].as_str().unwrap_or_default()
        };
        let signed = self.ca.sign(key, |params| {
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, "Google Cloud SQL Client");
            params.not_before = epoch + now.saturating_sub(Duration::from_secs(60));
            params.not_after = epoch + now + life;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        });
        let Some(der) = signed else { return invalid("Invalid public key.") };
        let pem =
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", wrapped(&STANDARD.encode(&der)));
        self.certificates.lock().unwrap().insert(der, login.to_owned());
        answer(StatusCode::OK, &json!({ "ephemeralCert": { "kind": "sql#sslCert", "cert": pem } }))
    }

    /// IAM's word on a login: the token is the password, or it is in the certificate.
    fn judge(&self, attempt: &Attempt) -> Result<(), String> {
        let held;
        let token = match (&attempt.certificate, &attempt.password) {
            (Some(certificate), _) => {
                held = self.certificates.lock().unwrap().get(certificate).cloned().unwrap_or_default();
                &held
            }
            (None, Some(password)) => password,
            (None, None) => return Err("no credential".to_owned()),
        };
        let refused = || format!("Cloud SQL IAM authentication failed for user \"{}\"", attempt.user);
        let member = (self.logins)(token).ok_or_else(refused)?;
        let email = member.strip_prefix("serviceAccount:").ok_or_else(refused)?;
        let is_user = email.strip_suffix(".gserviceaccount.com") == Some(attempt.user.as_str());
        let granted = self.members.lock().unwrap().contains(&member);
        if is_user && granted { Ok(()) } else { Err(refused()) }
    }
}

fn refusal(status: StatusCode, reason: &str, said: &str) -> Answer {
    let detail = json!({ "message": said, "domain": "global", "reason": reason });
    answer(status, &json!({ "error": { "code": status.as_u16(), "message": said, "errors": [detail] } }))
}

fn wrapped(text: &str) -> String {
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    lines.join("\n")
}

/// Every address of 127/8 is this host's.
async fn listen_somewhere() -> TcpListener {
    use std::sync::atomic::{AtomicU8, Ordering};
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [high, low] = std::process::id().to_be_bytes()[2..] else { unreachable!() };
    loop {
        let last = NEXT.fetch_add(1, Ordering::Relaxed);
        if let Ok(listener) = TcpListener::bind(SocketAddr::from(([127, high, low, last], 3307))).await {
            return listener;
        }
    }
}
