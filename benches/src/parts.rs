//! Parts of the broker, each alone and made as the broker makes it.
#![allow(clippy::panic, reason = "a benchmark may stop at the first surprise")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs;
use std::future::{Ready, ready};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use keyferry_broker::admission::{
    Action, Bucket, Circumstances, Gate, Permit, PolicyStore, Quota, QuotaClass, QuotaSettings, Resource,
};
use keyferry_broker::audit::{self, Decision, Mode, Record, Settings};
use keyferry_broker::clock::{Clock as _, SharedClock, SystemClock};
use keyferry_broker::digest::Digest;
use keyferry_broker::error::{Failure, Reason};
use keyferry_broker::identity::token::TokenVerifier;
use keyferry_broker::identity::{Authenticator, Caller, CertificateName};
use keyferry_broker::names::{NameError, SecretName, StoreName, VersionId};
use keyferry_broker::rotation::{self, Fact, Observation, Origin, Position, VersionMark};
use keyferry_broker::secrets::{
    CacheSettings, Fetched, Freshness, Labels, Listing, Page, Provider, SecretBytes, SecretInfo, Secrets, Switched,
    VersionInfo, VersionState,
};
use keyferry_broker::state::{Embedded, EmbeddedSettings, State};
use keyferry_broker::transport::{Connection, Drain, Tls, serve};
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::{GetSecretRequest, GetSecretResponse, ReadSource};
use keyferry_tests::broker::{endpoint, load, prepare};
use keyferry_tests::issuer::Issuer;
use keyferry_tests::pki::{Ca, Issued};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

pub const SECRET: &str = "stores/main/secrets/orders-db-password";

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// What a successful read leaves behind.
pub fn record() -> Record {
    Record {
        request_id: 7,
        trace_id: 11,
        peer: Some(([127, 0, 0, 1], 54321).into()),
        caller: Some("x509/spiffe://prod.example/orders".into()),
        certificate: Some(Digest::of(b"certificate")),
        method: "keyferry.v1.SecretService/GetSecret",
        action: Action::GetSecret.as_str(),
        resource: Some(SECRET.into()),
        version: Some("3".into()),
        decision: Decision::Allow,
        policy: Some(Digest::of(b"policy")),
        outcome: "OK",
        source: "CACHE",
        latency: Duration::from_micros(180),
        ..Record::default()
    }
}

/// `count - 1` policies that speak of other workloads, and one of ours.
pub fn policy_text(count: usize) -> String {
    let mut text = String::new();
    for number in 1..=count {
        let path = if number == count { "/client".to_owned() } else { format!("/other-{number}") };
        write!(
            text,
            r#"@id("p{number}")
            permit (principal, action in [Keyferry::Action::"Read"], resource is Keyferry::Secret)
            when {{ principal has certificate && principal.certificate has spiffe
                && principal.certificate.spiffe.path == "{path}"
                && resource.hasTag("env") && resource.getTag("env") == "prod" }};
            "#
        )
        .unwrap();
    }
    text
}

pub fn resource() -> Resource {
    labelled(SecretName::parse(SECRET).unwrap())
}

pub fn labelled(secret: SecretName) -> Resource {
    Resource::Secret(secret, Arc::new([("env".to_owned(), "prod".to_owned())].into()))
}

/// What a read of 1 KiB answers.
pub fn answer() -> GetSecretResponse {
    let time = prost_types::Timestamp { seconds: 1_800_000_000, nanos: 123_456_789 };
    GetSecretResponse {
        name: format!("{SECRET}/versions/3"),
        payload: vec![0xa5; 1024].into(),
        payload_crc32c: 0xdead_beef,
        source: ReadSource::Cache.into(),
        load_time: Some(time),
        revision: 7,
        epoch: "0123456789abcdef0123456789abcdef".to_owned(),
        fresh_until_time: Some(time),
        create_time: Some(time),
        ..GetSecretResponse::default()
    }
}

/// The log of audit records in that directory.
pub fn audit_log(directory: &Path) -> audit::Log {
    let settings = Settings {
        directory: directory.join("audit"),
        mode: Mode::Written,
        sync_interval: Duration::from_millis(100),
        checkpoint_interval: Duration::from_secs(10),
        roll_at: 256 * 1024 * 1024,
        signing_key: directory.join("signing.key"),
    };
    audit::Log::open(settings, "bench", Arc::new(SystemClock)).unwrap().0
}

/// A rotation log that just heard of one change, and the position before it.
pub struct Changed {
    log: rotation::Log,
    before: Position,
    _runtime: Runtime,
    _directory: TempDir,
}

impl Changed {
    #[expect(clippy::new_without_default, reason = "it opens a state and waits for it")]
    pub fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let settings = EmbeddedSettings {
            file: directory.path().join("state.redb"),
            history_age: Duration::from_secs(3600),
            history_changes: 200_000,
        };
        let clock: SharedClock = Arc::new(SystemClock);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let state = State::new(Arc::new(Embedded::open(&settings, "bench", Arc::clone(&clock)).unwrap()));
        let log = rotation::Log::new(state, Arc::clone(&clock), 1_000);
        let secrets = Secrets::new(BTreeMap::new(), &CacheSettings::default(), None, &clock);
        runtime.spawn(log.clone().follow(secrets));
        runtime.block_on(log.reached());
        let before = log.head().unwrap();
        let mark = VersionMark { id: "3".into(), created: None, state: VersionState::Enabled };
        let added = Observation { fact: Fact::VersionAdded(mark), origin: Origin::PubSub, happened: None };
        runtime.block_on(async {
            let mut watcher = log.watcher();
            watcher.mark_unchanged();
            let secret = SecretName::parse(SECRET).unwrap();
            let (observed, heard) = tokio::join!(log.observe(&secret, &added), watcher.changed());
            observed.unwrap();
            heard.unwrap();
        });
        Self { log, before, _runtime: runtime, _directory: directory }
    }

    /// What each of its watchers does when it is woken.
    pub fn fan_out(&self, watchers: usize) {
        for _ in 0..watchers {
            assert_eq!(std::hint::black_box(self.log.after(self.before, 100)).unwrap().len(), 1);
        }
    }
}

impl std::fmt::Debug for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changed").field("before", &self.before).finish_non_exhaustive()
    }
}

/// One store behind a cache of that size.
pub fn secrets(size: u64) -> Secrets {
    let (name, clock): (_, SharedClock) = (StoreName::from_id("main").unwrap(), Arc::new(SystemClock));
    let hour = Duration::from_hours(1);
    let freshness = Freshness { latest: hour, pinned: hour, labels: hour, stale: hour };
    let settings = CacheSettings { size, stores: [(name.clone(), freshness)].into() };
    let provider: Arc<dyn Provider> = Arc::new(OneSecret);
    Secrets::new([(name, provider)].into(), &settings, None, &clock)
}

pub fn circumstances() -> Circumstances {
    Circumstances { now: SystemClock.now(), peer: IpAddr::V4(Ipv4Addr::LOCALHOST) }
}

impl std::fmt::Debug for Arrived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrived").finish_non_exhaustive()
    }
}

/// A client with certificate and token on an open connection, and what its calls meet first.
pub struct Arrived {
    connection: Arc<Connection>,
    client: Issued,
    issuer: Issuer,
    pub bearer: String,
    headers: HeaderMap,
    pub authenticator: Authenticator,
    pub gate: Gate,
    /// Owns the tasks of the token verifier.
    pub runtime: Runtime,
}

impl Arrived {
    /// Callers come from the authenticator alone, and connections from the acceptor: so one is made the way all are.
    #[expect(clippy::new_without_default, reason = "it starts a server")]
    pub fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let (ca, issuer) = (Ca::new("bench CA"), Issuer::new("bench"));
        prepare(directory.path(), &ca, &Issuer::configuration());
        issuer.write_keys(directory.path());
        fs::write(directory.path().join("policy/test.cedar"), policy_text(100)).unwrap();
        let config = load(directory.path());

        let clock = Arc::new(SystemClock);
        let policies = PolicyStore::open(config.policy.directory, clock.clone()).unwrap();
        // No bench waits for its caller's quota.
        let read = Bucket { rate: 1_000_000_000, burst: u32::MAX };
        let quota = QuotaSettings { read, distinct_secrets: u32::MAX, ..config.quota };
        let gate = Gate::new(policies, Quota::new(quota, clock.clone()));
        let tls = Tls::load(&config.tls, clock.clone()).unwrap();
        let runtime = runtime();
        let issuers = config.issuers.into_values().collect();
        let tokens = runtime.block_on(TokenVerifier::start(issuers, clock)).unwrap();

        let client = ca.client("client");
        let bearer = issuer.bound_token("client", &client.der);
        let mut headers = HeaderMap::new();
        headers.insert(http::header::AUTHORIZATION, format!("Bearer {bearer}").parse().unwrap());
        let connection = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let channel = endpoint(listener.local_addr().unwrap().port(), client.client_tls(&ca)).connect_lazy();
            let (seen, mut connections) = mpsc::channel(1);
            let server = async { serve(listener, tls, &config.limits, Tap(seen), Drain::new()).await };
            // Its answer is empty; what counts is the connection that it came on.
            let mut caller = SecretServiceClient::new(channel);
            tokio::select! {
                biased;
                connection = connections.recv() => connection.unwrap(),
                _ = caller.get_secret(GetSecretRequest::default()) => connections.recv().await.unwrap(),
                _ = server => panic!("the server ended by itself"),
            }
        });
        let authenticator = Authenticator::new(vec![CertificateName::Spiffe], tokens);
        Self { connection, client, issuer, bearer, headers, authenticator, gate, runtime }
    }

    /// Another good token of the same client's.
    pub fn token(&self, id: &str) -> String {
        let mut claims = Issuer::binding(&self.client.der);
        claims["jti"] = id.into();
        self.issuer.token("client", &claims)
    }

    pub fn caller(&self) -> Caller {
        at_once(self.authenticator.authenticate(&self.connection, &self.headers)).unwrap().unwrap()
    }

    pub fn admit(&self, resource: Resource) -> Permit {
        self.gate.admit(&self.caller(), Action::GetSecret, QuotaClass::Read, resource, circumstances()).unwrap()
    }
}

/// Without a runtime, whose own cost would be a good part of what is measured.
pub fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("what is warm waits for nothing"),
    }
}

/// A store that has the same 1 KiB under every name.
struct OneSecret;

impl Provider for OneSecret {
    fn check_name(&self, _: &SecretName) -> Result<(), NameError> {
        Ok(())
    }

    fn check_version(&self, _: &SecretName, _: &VersionId) -> Result<(), Failure> {
        Ok(())
    }

    fn check_payload(&self, _: &[u8]) -> Result<(), Failure> {
        Ok(())
    }

    fn check_creation(&self, _: &SecretName) -> Result<(), Failure> {
        Ok(())
    }

    fn fetch<'a>(&'a self, _: &'a SecretName, _: &'a VersionId) -> BoxFuture<'a, Result<Fetched, Failure>> {
        Box::pin(async {
            let payload = SecretBytes::new(vec![0xa5; 1024]);
            let version = VersionInfo {
                id: "3".into(),
                state: VersionState::Enabled,
                created: None,
                not_before: None,
                expires: None,
                content_type: None,
            };
            Ok(Fetched { version, payload, crc32c: 0 })
        })
    }

    fn describe<'a>(&'a self, _: &'a SecretName) -> BoxFuture<'a, Result<SecretInfo, Failure>> {
        Box::pin(ready(Err(not_here())))
    }

    fn list(&self, _: Page) -> BoxFuture<'_, Result<Listing<SecretInfo>, Failure>> {
        Box::pin(ready(Err(not_here())))
    }

    fn versions<'a>(&'a self, _: &'a SecretName, _: Page) -> BoxFuture<'a, Result<Listing<VersionInfo>, Failure>> {
        Box::pin(ready(Err(not_here())))
    }

    fn add<'a>(
        &'a self,
        _: &'a SecretName,
        _: SecretBytes,
        _: Option<Labels>,
    ) -> BoxFuture<'a, Result<VersionInfo, Failure>> {
        Box::pin(ready(Err(not_here())))
    }

    fn set_enabled<'a>(
        &'a self,
        _: &'a SecretName,
        _: &'a VersionId,
        _: bool,
    ) -> BoxFuture<'a, Result<Switched, Failure>> {
        Box::pin(ready(Err(not_here())))
    }
}

fn not_here() -> Failure {
    Failure::new(Reason::Unimplemented, "the benches only read values")
}

/// Hands out the connection of each request.
#[derive(Clone)]
struct Tap(mpsc::Sender<Arc<Connection>>);

impl tower::Service<Request<Incoming>> for Tap {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        if let Some(connection) = request.extensions().get::<Arc<Connection>>() {
            let _ = self.0.try_send(Arc::clone(connection));
        }
        ready(Ok(Response::new(tonic::body::Body::empty())))
    }
}
