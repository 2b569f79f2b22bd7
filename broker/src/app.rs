//! The composition root: the one place that names concrete types and starts tasks.

mod admin;
mod cloud_databases;
mod databases;
mod events;
mod gateways;
mod stores;
mod web;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService};

use crate::admission::{Gate, PolicyError, PolicyStore, Quota};
use crate::audit;
use crate::clock::{SharedClock, Timestamp};
use crate::config::Config;
use crate::databases::leases::{self, Leases, Opening};
use crate::databases::tokens::Tokens;
use crate::databases::{CaError, postgres};
use crate::failpoints::{Failpoints, NoFailpoints};
use crate::gateway::sds::Board;
use crate::gateway::webhooks::Room;
use crate::gateway::{SchemaError, Translator, api_management, issuer};
use crate::identity::Authenticator;
use crate::identity::token::{IssuerError, TokenVerifier};
use crate::names::{DatabaseName, NameError, SecretName, StoreName};
use crate::providers::credential::Broken;
use crate::report;
use crate::requests;
use crate::rotation::engine::{self, Engine};
use crate::rotation::settings::{RotationSettings, Strategy};
use crate::rotation::subscribers::{self, Subscribers};
use crate::rotation::watch::{FilterError, Sight, Watches};
use crate::rotation::{self, Changes};
use crate::rpc::{EnvoyRpc, METHOD_NAMES, OperatorRpc, PageTokens, Rotating, RotationRpc, Router, SecretRpc, TokenRpc};
use crate::secrets::{Custody, Guarded, Secrets};
use crate::state::{self, State, Store};
use crate::status::REASON_NAMES;
use crate::telemetry::{Metrics, Traces};
use crate::transport::{Drain, LargeRequests, Layers, RequestIds, Stack, Tls, TlsError, serve};

use admin::AdminPort;
use events::Around;
use gateways::Gateways;
use web::WebPort;

pub use events::Sources;
pub use stores::{Credentials, Guards, StoreError, StoreSummary};

/// How often health is told of what changed.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);

/// How long a request may be on record after its hour.
const FORGET_INTERVAL: Duration = Duration::from_mins(10);

/// How long a secret may lie in memory after it ceased to be served.
const TIDY_INTERVAL: Duration = Duration::from_secs(30);

/// A broker that serves. Stop it; dropped, it ends without a word to its callers.
#[derive(Debug)]
pub struct Broker {
    grpc: SocketAddr,
    web: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    parts: Arc<Parts>,
    health: HealthReporter,
    background: Background,
}

/// What status, health and metrics are read from.
#[derive(Debug)]
pub struct Parts {
    pub node: String,
    pub started: Timestamp,
    pub clock: SharedClock,
    pub log: audit::Log,
    pub gate: Arc<Gate>,
    pub tls: Arc<Tls>,
    pub tokens: Arc<TokenVerifier>,
    pub drain: Drain,
    pub stores: BTreeMap<StoreName, StoreSummary>,
    pub guards: Guards,
    pub state: State,
    pub leases: Leases,
    pub watches: Watches,
    pub envoy: Board,
    pub database_tokens: Tokens,
    pub rotation: rotation::Log,
    pub changes: Changes,
    pub engine: Engine,
    pub credentials: Credentials,
    pub secrets: Secrets,
    pub sources: Sources,
    pub gateways: Vec<Arc<api_management::Account>>,
}

#[derive(Debug, Error)]
pub enum StartError {
    #[error("the audit log cannot be opened")]
    Audit(#[from] audit::OpenError),
    #[error("the policies cannot be used")]
    Policy(#[from] PolicyError),
    #[error("the TLS files cannot be used")]
    Tls(#[from] TlsError),
    #[error("the token issuers cannot be used")]
    Issuer(#[from] IssuerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("[events.{0}] names a credential that is not declared; add it under [credentials]")]
    EventCredential(String),
    #[error("[gateways.{0}] names a credential that is not declared; add it under [credentials]")]
    GatewayCredential(String),
    #[error("the named_values of [gateways.{0}] cannot be followed")]
    Gateway(String, #[source] FilterError),
    #[error("[gateways.{0}] cannot reach its cloud")]
    GatewayCloud(String, #[source] Broken),
    #[error("[state] cannot be opened")]
    State(#[from] state::OpenError),
    #[cfg(feature = "etcd")]
    #[error("[state] cannot be used")]
    Etcd(#[from] state::EtcdError),
    #[cfg(not(feature = "etcd"))]
    #[error("[state] kind = \"etcd\" is not in this build; take the container image, or build with --features etcd")]
    EtcdLeftOut,
    #[error("{0} cannot be used")]
    Database(DatabaseName, #[source] postgres::OpenError),
    #[error("{0} works with a secret of {1}, a store that is not configured; add it, or name a secret of another")]
    DatabaseStore(DatabaseName, String),
    #[error("the rotations or their subscribers have no key in the state; report this")]
    Rotations(#[from] state::KeyError),
    #[error("[issuer] signs with a secret of {0}, a store that is not configured; add it, or name a secret of another")]
    IssuerStore(String),
    #[error("{0} names the credential {1:?}, which is not declared; add [credentials.{1}]")]
    DatabaseCredential(DatabaseName, String),
    #[error("a role of {0} cannot be named")]
    DatabaseRole(DatabaseName, #[source] NameError),
    #[error("{0} cannot reach its cloud")]
    CloudDatabase(DatabaseName, #[source] Broken),
    #[error("the leases cannot be opened")]
    Leases(#[from] leases::OpenError),
    #[error("{0} cannot be used")]
    DatabaseCa(DatabaseName, #[source] CaError),
    #[error("cannot listen on {0}; end what listens there, or choose another address under [listen]")]
    Bind(SocketAddr, #[source] std::io::Error),
    #[error("the system's random numbers cannot be read")]
    Random(#[from] aws_lc_rs::error::Unspecified),
    #[error("server reflection cannot be built")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the contract cannot be spoken in JSON; report this")]
    Json(#[from] SchemaError),
}

/// What the configuration wants and this build has not.
pub fn left_out(config: &Config) -> Option<StartError> {
    match &config.state {
        state::Settings::Embedded(_) => None,
        #[cfg(feature = "etcd")]
        state::Settings::Etcd(_) => None,
        #[cfg(not(feature = "etcd"))]
        state::Settings::Etcd(_) => Some(StartError::EtcdLeftOut),
    }
}

/// The metrics that a broker counts into, made before it so that logging can count too.
pub fn metrics(clock: SharedClock) -> Arc<Metrics> {
    Metrics::new(METHOD_NAMES.iter().copied(), REASON_NAMES.iter().copied(), clock)
}

impl Broker {
    /// Returns once calls are answered.
    pub async fn start(
        config: Config,
        clock: SharedClock,
        metrics: Arc<Metrics>,
        traces: Traces,
    ) -> Result<Self, StartError> {
        Self::start_with(config, clock, metrics, traces, Arc::new(NoFailpoints)).await
    }

    /// With somebody who is told of every step of a lease and of a rotation.
    pub async fn start_with(
        mut config: Config,
        clock: SharedClock,
        metrics: Arc<Metrics>,
        traces: Traces,
        failpoints: Arc<dyn Failpoints>,
    ) -> Result<Self, StartError> {
        if let Some(error) = left_out(&config) {
            return Err(error);
        }
        config.limits.fit_descriptors();
        // Whatever can fail comes before anything listens.
        let (log, recovery) = audit::Log::open(config.audit, &config.node.name, Arc::clone(&clock))?;
        tracing::info!(next_sequence = recovery.next_sequence, "audit log opened");
        let policies = PolicyStore::open(config.policy.directory, Arc::clone(&clock))?;
        let streams_per_caller = config.quota.streams;
        let gate = Arc::new(Gate::new(policies, Quota::new(config.quota, Arc::clone(&clock))));
        let tls = Tls::load(&config.tls, Arc::clone(&clock))?;
        let stores = stores::open(config.stores.clone(), config.credentials, &clock).await?;
        let state = State::new(open_state(&config.state, &config.node.name, &clock)?);
        let databases =
            databases::open(config.databases, config.issuer.as_ref(), &stores.providers, &stores.credentials, &clock)?;
        let rotation = rotation::Log::new(state.clone(), Arc::clone(&clock), config.limits.watch_backlog);
        let guarded = Guarded { secrets: added_to(&config.rotations), ward: Arc::new(rotation.clone()) };
        let secrets = Secrets::new(stores.providers.clone(), &config.cache, Some(guarded), &clock);
        let tokens = TokenVerifier::start(config.issuers.into_values().collect(), Arc::clone(&clock)).await?;
        let background = Background::default();
        let leases = Leases::open(Opening {
            databases: databases.leased,
            settings: config.leases,
            state: state.clone(),
            node: config.node.name.clone(),
            clock: Arc::clone(&clock),
            failpoints: Arc::clone(&failpoints),
            stop: background.stop.child_token(),
        })
        .await?;
        background.spawn(rotation.clone().follow(secrets.clone()));
        rotation.reached().await;
        let mut sources = Sources::default();
        let around = Around {
            stores: &config.stores,
            providers: &stores.providers,
            credentials: &stores.credentials,
            log: &rotation,
            clock: &clock,
            background: &background,
        };
        let mut routes = sources.open(config.events, &Room::new(config.limits.request_timeout), &around).await?;
        let gateways = Gateways::new(config.gateways)?;
        sources.poll(&secrets, &gateways.secrets(), &state.leadership(), &around);
        let drain = Drain::new();
        let subscribers = Subscribers::start(subscribers::Opening {
            state: state.clone(),
            node: config.node.name.clone(),
            rotated: config.rotations.values().flat_map(|rotation| rotation.targets.iter().cloned()).collect(),
            gateways: gateways.places(),
            clock: Arc::clone(&clock),
            stop: background.stop.child_token(),
        })?;
        let gateway_surroundings = api_management::Around {
            subscribers: subscribers.clone(),
            log: rotation.clone(),
            leadership: state.leadership(),
            clock: Arc::clone(&clock),
        };
        let gateways = gateways.start(&stores.credentials, &gateway_surroundings, &background)?;
        let sight = Sight { gate: Arc::clone(&gate), secrets: secrets.clone(), clock: Arc::clone(&clock) };
        let watches = Watches::new(rotation.clone(), sight, subscribers.clone(), drain.token(), streams_per_caller);
        let engine = Engine::start(engine::Opening {
            plans: config.rotations,
            logins: databases.logins,
            custody: Custody::new(secrets.clone()),
            log: rotation.clone(),
            state: state.clone(),
            holders: Arc::new(subscribers),
            clock: Arc::clone(&clock),
            failpoints,
            stop: background.stop.child_token(),
        })?;
        let changes = Changes::new(secrets.clone(), rotation.clone(), state.clone(), Arc::clone(&clock));
        let (grpc_listener, grpc) = bind(config.listen.grpc).await?;
        let web = match config.listen.web {
            Some(address) => Some(WebPort::open(address, &config.tls, Arc::clone(&clock)).await?),
            None => None,
        };
        let admin_port = AdminPort::open(&config.listen, &config.tls, &clock).await?;

        let envoy = Board::new(config.envoy);
        let parts = Arc::new(Parts {
            node: config.node.name,
            started: clock.now(),
            clock: Arc::clone(&clock),
            log: log.clone(),
            gate: Arc::clone(&gate),
            tls: Arc::clone(&tls),
            tokens,
            drain: drain.clone(),
            stores: stores.summaries,
            guards: stores.guards,
            credentials: stores.credentials,
            state,
            secrets: secrets.clone(),
            leases: leases.clone(),
            watches: watches.clone(),
            envoy: envoy.clone(),
            database_tokens: databases.tokens.clone(),
            rotation,
            sources,
            gateways,
            changes: changes.clone(),
            engine: engine.clone(),
        });
        let health = HealthReporter::new();
        health.set_service_status("", ServingStatus::Serving).await;

        let operator =
            OperatorRpc { status: report_of(&parts), secrets: secrets.clone(), tokens: Arc::clone(&parts.tokens) };
        let page_tokens = Arc::new(PageTokens::new()?);
        let rotating = Rotating { engine, secrets: secrets.clone(), page_tokens: Arc::clone(&page_tokens) };
        let secrets = SecretRpc { secrets, changes, page_tokens: Arc::clone(&page_tokens) };
        let envoy = EnvoyRpc { board: envoy, watches: watches.clone() };
        let rotations = RotationRpc { rotating, watches, page_tokens: Arc::clone(&page_tokens) };
        let tokens = TokenRpc { leases, tokens: databases.tokens, page_tokens };
        let health_service = HealthService::from_health_reporter(health.clone());
        let authenticator = Arc::new(Authenticator::new(config.identity.certificate_names, Arc::clone(&parts.tokens)));
        let stack = Stack::new(Layers {
            in_flight: Arc::new(Semaphore::new(config.limits.calls_in_flight)),
            streams: Arc::new(Semaphore::new(config.limits.streams)),
            quiet_in_flight: Arc::new(Semaphore::new(config.limits.calls_in_flight)),
            drain: drain.clone(),
            request_timeout: config.limits.request_timeout,
            large_requests: LargeRequests::new(config.limits.message_bytes),
            default_deadline: config.limits.default_deadline,
            maximum_deadline: config.limits.maximum_deadline,
            log,
            clock,
            authenticator: Arc::clone(&authenticator),
            gate,
            translator: Translator::new(config.listen.web_origins, config.limits.message_bytes)?,
            router: Router::new(
                secrets,
                tokens,
                rotations,
                operator,
                envoy,
                health_service,
                config.limits.message_bytes,
            )?,
            request_ids: RequestIds::new()?,
            metrics: Arc::clone(&metrics),
            traces,
        });

        observe(&metrics, &parts);
        routes.extend(databases.issuer.iter().flat_map(issuer::routes));
        for keeper in databases.keepers {
            background.spawn(keeper);
        }
        let (watched, stop) = (Arc::clone(&tls), background.stop.clone());
        background.spawn(watched.watch(stop));
        background.spawn_every(config.policy.reload_interval, Arc::clone(&parts), reload_policies);
        let told = Arc::new(Told { reporter: health.clone(), serving: AtomicBool::new(true) });
        background.spawn_every(HEALTH_INTERVAL, Arc::clone(&parts), move |parts| Arc::clone(&told).tell(parts));
        background.spawn_every(TIDY_INTERVAL, Arc::clone(&parts), |parts| async move { parts.secrets.tidy() });
        background.spawn_every(FORGET_INTERVAL, Arc::clone(&parts), forget_requests);
        let limits = config.limits;
        let admin = admin_port.as_ref().map(|port| port.address);
        if let Some(port) = admin_port {
            port.serve(&parts, &metrics, &authenticator, &limits, &background)?;
        }
        let web_address = web.as_ref().map(|web| web.address);
        if let Some(web) = web {
            web.serve(routes, &limits, &drain, &metrics, &background);
        }
        let held = drain.clone();
        let calls = async move { serve(grpc_listener, tls, &limits, stack, held).await };
        background.tasks.spawn(serving("grpc", calls, drain));

        let (shown_web, shown_admin) = (web_address.map(tracing::field::display), admin.map(tracing::field::display));
        tracing::info!(%grpc, web = shown_web, admin = shown_admin, version = env!("CARGO_PKG_VERSION"), "serving");
        Ok(Self { grpc, web: web_address, admin, parts, health, background })
    }

    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    pub fn web_address(&self) -> Option<SocketAddr> {
        self.web
    }

    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Resolves once it no longer serves, though nobody stopped it.
    pub fn failed(&self) -> impl Future<Output = ()> + '_ {
        self.parts.drain.started()
    }

    /// Says that it is going, lets calls in flight finish within the grace, and closes the audit log last.
    pub async fn stop(self) {
        self.health.set_service_status("", ServingStatus::NotServing).await;
        self.parts.drain.start();
        self.parts.drain.drained().await;
        self.parts.engine.stop().await;
        self.background.end().await;
        self.parts.changes.stop().await;
        self.parts.secrets.stop().await;
        self.parts.tokens.stop().await;
        self.parts.sources.stop().await;
        for credential in self.parts.credentials.values() {
            credential.stop().await;
        }
        self.parts.leases.stop().await;
        self.parts.watches.subscribers().stop().await;
        // After whatever writes to it, and before the log that says so.
        self.parts.state.close().await;
        let log = self.parts.log.clone();
        // It joins threads and syncs the disk.
        if tokio::task::spawn_blocking(move || log.close()).await.is_err() {
            tracing::error!("the audit log was not closed in order; the next start will say what it found");
        }
        tracing::info!("stopped");
    }
}

/// Tasks that live as long as the broker.
#[derive(Debug, Default)]
struct Background {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Background {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    fn spawn_every<F>(
        &self,
        interval: Duration,
        parts: Arc<Parts>,
        mut work: impl FnMut(Arc<Parts>) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn(async move {
            loop {
                tokio::time::sleep(interval).await;
                work(Arc::clone(&parts)).await;
            }
        });
    }

    async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The secrets to which rotations add versions.
fn added_to(rotations: &BTreeMap<String, RotationSettings>) -> HashSet<SecretName> {
    let adding = rotations.values().filter(|settings| settings.strategy != Strategy::External);
    adding.flat_map(|settings| settings.targets.iter().cloned()).collect()
}

/// The leader does it for all.
async fn forget_requests(parts: Arc<Parts>) {
    if parts.state.leadership().term().fence.is_some()
        && let Err(failure) = requests::forget_outlived(&parts.state, parts.clock.now()).await
    {
        tracing::warn!(cause = failure.cause(), "outlived requests stay on record for now: {failure}");
    }
}

/// Reads files and validates policies, neither of which the runtime's own threads should wait for.
async fn reload_policies(parts: Arc<Parts>) {
    let reload = move || parts.gate.policies().reload();
    if let Err(error) = tokio::task::spawn_blocking(reload).await {
        tracing::error!(%error, "policies could not be looked at; the last good ones stay in force");
    }
}

/// What the parts count by themselves goes to the metrics at each scrape.
fn observe(metrics: &Metrics, parts: &Arc<Parts>) {
    let parts = Arc::clone(parts);
    metrics.register(move |out| report::samples(&parts, out));
}

/// What those who watch health were told last: each telling is a message to all of them.
#[derive(Debug)]
struct Told {
    reporter: HealthReporter,
    serving: AtomicBool,
}

impl Told {
    async fn tell(self: Arc<Self>, parts: Arc<Parts>) {
        let serving = report::obstacles(&parts).is_empty();
        if self.serving.swap(serving, Ordering::Relaxed) != serving {
            let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
            self.reporter.set_service_status("", status).await;
        }
    }
}

fn report_of(parts: &Arc<Parts>) -> Arc<crate::rpc::StatusReport> {
    let parts = Arc::clone(parts);
    Arc::new(move || report::status(&parts))
}

fn open_state(settings: &state::Settings, node: &str, clock: &SharedClock) -> Result<Arc<dyn Store>, StartError> {
    match settings {
        state::Settings::Embedded(settings) => Ok(Arc::new(state::Embedded::open(settings, node, Arc::clone(clock))?)),
        #[cfg(feature = "etcd")]
        state::Settings::Etcd(settings) => Ok(Arc::new(state::Etcd::open(settings, node, Arc::clone(clock))?)),
        #[cfg(not(feature = "etcd"))]
        state::Settings::Etcd(_) => Err(StartError::EtcdLeftOut),
    }
}

/// Nobody can be served once a listener has ended by itself.
async fn serving(listener: &'static str, until_drained: impl Future<Output = ()>, drain: Drain) {
    let ended = AssertUnwindSafe(until_drained).catch_unwind().await;
    if !drain.is_draining() {
        let panicked = ended.is_err();
        tracing::error!(
            listener,
            panicked,
            "the listener ended unexpectedly, stopping; start the broker again and report this"
        );
        drain.start();
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|error| StartError::Bind(address, error))
}
