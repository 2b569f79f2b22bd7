//! What the parts of one call cost, each alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark may stop at the first surprise"
)]

use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs;
use std::future::{Ready, ready};
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use keyferry_broker::admission::{
    Action, Bucket, Circumstances, Gate, Permit, Policies, PolicyStore, Quota, QuotaClass, QuotaSettings, Resource,
};
use keyferry_broker::audit::{Decision, Log, Mode, Record, Settings};
use keyferry_broker::clock::{Clock as _, SharedClock, SystemClock};
use keyferry_broker::digest::Digest;
use keyferry_broker::error::{Failure, Reason};
use keyferry_broker::identity::token::TokenVerifier;
use keyferry_broker::identity::{Authenticator, Caller, Certificate, CertificateName};
use keyferry_broker::names::{NameError, SecretName, StoreName, VersionId};
use keyferry_broker::providers::guard::{Budget, Guard, GuardSettings, Operation};
use keyferry_broker::rpc::{self, Binding, PageTokens};
use keyferry_broker::secrets::{
    CacheSettings, Demand, Fetched, Freshness, Labels, Listing, Page, Provider, SecretBytes, SecretInfo, Secrets,
    Source, Switched, VersionInfo, VersionState,
};
use keyferry_broker::transport::{Connection, Drain, Tls, serve};
use keyferry_proto::v1::GetSecretRequest;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_tests::broker::{endpoint, load, prepare};
use keyferry_tests::issuer::Issuer;
use keyferry_tests::pki::Ca;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

// As the broker has it: without, the allocator would be half of what is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SECRET: &str = "stores/main/secrets/orders-db-password";
const IN_FLIGHT: usize = 128;

fn main() {
    divan::main();
}

/// One record through the queue, the writer's thread, the kernel and back, `IN_FLIGHT` of them at a time.
#[divan::bench(args = [1, IN_FLIGHT], sample_count = 200)]
fn audit_append_written(bencher: Bencher<'_, '_>, in_flight: usize) {
    let directory = TempDir::new().unwrap();
    let settings = Settings {
        directory: directory.path().join("audit"),
        mode: Mode::Written,
        sync_interval: Duration::from_millis(100),
        checkpoint_interval: Duration::from_secs(10),
        roll_at: 256 * 1024 * 1024,
        signing_key: directory.path().join("signing.key"),
    };
    let (log, _) = Log::open(settings, "bench", Arc::new(SystemClock)).unwrap();
    let (runtime, record) = (runtime(), record());
    bencher.counter(ItemsCount::new(in_flight)).bench_local(|| {
        runtime.block_on(async {
            let mut committing = tokio::task::JoinSet::new();
            for _ in 0..in_flight {
                let (log, record) = (log.clone(), record.clone());
                committing.spawn(async move { log.commit(&record).await.unwrap() });
            }
            committing.join_all().await
        })
    });
    log.close();
}

/// Cedar itself: what a decision costs that was not made before. The last policy is the one that permits.
#[divan::bench(args = [1, 100])]
fn policy_decision(bencher: Bencher<'_, '_>, policies: usize) {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("bench.cedar"), policy_text(policies)).unwrap();
    let policies = Policies::load(directory.path()).unwrap();
    let arrived = Arrived::new();
    let (caller, resource) = (arrived.caller(), resource());
    let decide = || policies.decide(&caller, Action::GetSecret, &resource, circumstances());
    assert!(decide().allowed, "{:?}", decide());
    bencher.bench_local(|| black_box(decide()));
}

/// The same decision as a caller's next calls find it.
#[divan::bench]
fn cached_decision(bencher: Bencher<'_, '_>) {
    let arrived = Arrived::new();
    let (caller, resource, circumstances) = (arrived.caller(), resource(), circumstances());
    let decide = || arrived.gate.allows(&caller, Action::GetSecret, &resource, circumstances);
    assert!(decide());
    bencher.bench_local(|| black_box(decide()));
}

#[divan::bench]
fn cached_token(bencher: Bencher<'_, '_>) {
    let arrived = Arrived::new();
    let (tokens, bearer) = (arrived.authenticator.tokens(), arrived.bearer.as_str());
    let verify = || at_once(tokens.verify(black_box(bearer))).unwrap();
    assert!(Arc::ptr_eq(&verify(), &verify()), "the token was not kept");
    bencher.bench_local(verify);
}

/// Certificate, token, policy and quota: all that stands between a call and its handler.
#[divan::bench]
fn full_admission_of_a_warm_caller(bencher: Bencher<'_, '_>) {
    let arrived = Arrived::new();
    let resource = resource();
    arrived.admit(resource.clone());
    bencher.bench_local(|| arrived.admit(black_box(&resource).clone()));
}

/// What the guard adds to a request to a cloud that nothing stands against: the budget's log is full of old turns.
#[divan::bench]
fn uncontended_turn_of_the_guard(bencher: Bencher<'_, '_>) {
    let budget = Budget { limit: 100_000, window: Duration::from_millis(1) };
    let settings = GuardSettings {
        access: budget,
        metadata: budget,
        write: budget,
        maximum_wait: Duration::from_secs(1),
        request_timeout: Duration::from_secs(1),
    };
    let guard = Guard::new("stores/cloud".into(), settings, Arc::new(SystemClock));
    let runtime = runtime();
    let _entered = runtime.enter();
    bencher.bench_local(|| at_once(guard.call(Operation::Access, SECRET, || async { Ok(()) })).unwrap());
}

/// After admission: what a warm read costs inside the broker.
#[divan::bench]
fn cached_read(bencher: Bencher<'_, '_>) {
    let arrived = Arrived::new();
    let permit = arrived.admit(resource());
    let secrets = secrets(64 << 20);
    let read = || secrets.get(black_box(&permit), &VersionId::Latest, Demand::default());
    assert_eq!(arrived.runtime.block_on(read()).unwrap().source, Source::Provider);
    assert_eq!(at_once(read()).unwrap().source, Source::Cache);
    bencher.bench_local(|| at_once(read()).unwrap());
}

/// What a miss costs, and what a full cache occupies: the whole process, decisions and quotas and all.
#[divan::bench(sample_count = 1, sample_size = 1)]
fn a_hundred_thousand_loads_stay_resident(bencher: Bencher<'_, '_>) {
    const SECRETS: usize = 100_000;
    const BAR: usize = 250_000_000;
    let arrived = Arrived::new();
    let secrets = secrets(240 << 20);
    let names: Vec<_> = (0..SECRETS).map(|number| SecretName::parse(&format!("{SECRET}-{number}")).unwrap()).collect();
    // Kept decisions and the caller's window take room of their own, which is not the cache's.
    for name in &names {
        drop(arrived.admit(labelled(name.clone())));
    }
    let before = resident();
    bencher.counter(ItemsCount::new(SECRETS)).bench_local(|| {
        arrived.runtime.block_on(async {
            for name in &names {
                let permit = arrived.admit(labelled(name.clone()));
                secrets.get(&permit, &VersionId::Latest, Demand::default()).await.unwrap();
            }
        });
    });
    secrets.tidy();
    let [values, _] = secrets.cache_accounts();
    assert_eq!((values.entries, values.evicted), (SECRETS as u64, 0));
    let taken = resident() - before;
    println!("{} MB taken, {} MB by the cache's own count", taken / 1_000_000, values.bytes / 1_000_000);
    assert!(taken <= BAR, "{taken} bytes for {SECRETS} secrets of 1 KiB");
}

fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

#[divan::bench]
fn page_token_seal(bencher: Bencher<'_, '_>) {
    let (tokens, binding) = (PageTokens::new().unwrap(), Binding::of(&["x509/client", "stores/main"]));
    bencher.bench_local(|| tokens.seal(black_box("orders-db-password"), binding).unwrap());
}

#[divan::bench]
fn page_token_open(bencher: Bencher<'_, '_>) {
    let (tokens, binding) = (PageTokens::new().unwrap(), Binding::of(&["x509/client", "stores/main"]));
    let token = tokens.seal("orders-db-password", binding).unwrap();
    bencher.bench_local(|| tokens.open(black_box(&token), binding).unwrap());
}

/// The first, the last, and one that is not there.
#[divan::bench(args = [rpc::METHODS[0].path, rpc::METHODS[rpc::METHODS.len() - 1].path, "/keyferry.v1.SecretService/None"])]
fn method_look_up(path: &str) -> Option<(usize, &'static rpc::Method)> {
    rpc::find(black_box(path))
}

#[divan::bench]
fn certificate_parse(bencher: Bencher<'_, '_>) {
    let der = Ca::new("bench CA").client("orders").der;
    bencher.bench_local(|| Certificate::parse(black_box(&der)).unwrap());
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// What a successful read leaves behind.
fn record() -> Record {
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
fn policy_text(count: usize) -> String {
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

fn resource() -> Resource {
    labelled(SecretName::parse(SECRET).unwrap())
}

fn labelled(secret: SecretName) -> Resource {
    Resource::Secret(secret, Arc::new([("env".to_owned(), "prod".to_owned())].into()))
}

/// One store behind a cache of that size.
fn secrets(size: u64) -> Secrets {
    let (name, clock): (_, SharedClock) = (StoreName::from_id("main").unwrap(), Arc::new(SystemClock));
    let hour = Duration::from_hours(1);
    let freshness = Freshness { latest: hour, pinned: hour, labels: hour, stale: hour };
    let settings = CacheSettings { size, stores: [(name.clone(), freshness)].into() };
    let provider: Arc<dyn Provider> = Arc::new(OneSecret);
    Secrets::new([(name, provider)].into(), &settings, None, &clock)
}

fn circumstances() -> Circumstances {
    Circumstances { now: SystemClock.now(), peer: IpAddr::V4(Ipv4Addr::LOCALHOST) }
}

/// A client with certificate and token on an open connection, and what its calls meet first.
struct Arrived {
    connection: Arc<Connection>,
    bearer: String,
    headers: HeaderMap,
    authenticator: Authenticator,
    gate: Gate,
    /// Owns the tasks of the token verifier.
    runtime: Runtime,
}

impl Arrived {
    /// Callers come from the authenticator alone, and connections from the acceptor: so one is made the way all are.
    fn new() -> Self {
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
            let mut client = SecretServiceClient::new(channel);
            tokio::select! {
                biased;
                connection = connections.recv() => connection.unwrap(),
                _ = client.get_secret(GetSecretRequest::default()) => connections.recv().await.unwrap(),
                _ = server => panic!("the server ended by itself"),
            }
        });
        let authenticator = Authenticator::new(vec![CertificateName::Spiffe], tokens);
        Self { connection, bearer, headers, authenticator, gate, runtime }
    }

    fn caller(&self) -> Caller {
        at_once(self.authenticator.authenticate(&self.connection, &self.headers)).unwrap().unwrap()
    }

    fn admit(&self, resource: Resource) -> Permit {
        self.gate.admit(&self.caller(), Action::GetSecret, QuotaClass::Read, resource, circumstances()).unwrap()
    }
}

/// Without a runtime, whose own cost would be a good part of what is measured.
fn at_once<F: Future>(future: F) -> F::Output {
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
