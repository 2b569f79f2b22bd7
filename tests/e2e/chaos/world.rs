use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use keyferry_broker::clock::{SharedClock, SystemClock};
use keyferry_tests::broker::{endpoint, prepare};
use keyferry_tests::etcd::EtcdCluster;
use keyferry_tests::pki::{Ca, Issued};
use keyferry_tests::postgres::Cluster;
use keyferry_tests::process::Process;
use keyferry_tests::proxy::Proxy;
use keyferry_tests::sandbox::Clouds;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use super::load;
use crate::audit::SmallDisk;
use crate::tokens::POLICY;

/// Stands in every value, and nowhere else.
pub(super) const CANARY: &str = "chaos-canary";
/// A caller gives up on a call after so long, and repeats it.
const PATIENCE: Duration = Duration::from_secs(8);

/// What there is, and what is known to be true of it.
pub(super) struct World {
    ca: Ca,
    pub(super) database: tokio::sync::Mutex<Cluster>,
    pub(super) etcd: Mutex<EtcdCluster>,
    pub(super) clouds: Clouds,
    pub(super) replicas: [Replica; 2],
    over: AtomicBool,
    calls: AtomicU64,
    truth: Mutex<Truth>,
}

/// A broker, with each way from and to it through a proxy of its own.
pub(super) struct Replica {
    directory: TempDir,
    pub(super) disk: SmallDisk,
    process: Mutex<Option<Process>>,
    pub(super) door: Proxy,
    pub(super) to_database: Proxy,
    pub(super) to_etcd: Vec<Proxy>,
}

/// What brokers answered, and so have to stand by.
#[derive(Default)]
pub(super) struct Truth {
    /// Users that are to stay.
    pub(super) kept: BTreeSet<String>,
    /// Users that are to go, and when.
    pub(super) ending: BTreeMap<String, Instant>,
    pub(super) revoked: usize,
    /// How long after its time the last look still found one.
    pub(super) latest: Duration,
    pub(super) looks: usize,
    /// Of each secret, the newest version that was confirmed, and the revision of the log that tells of it.
    pub(super) confirmed: BTreeMap<String, (u64, i64)>,
    pub(super) reads: usize,
    /// Trace ids of answered calls.
    pub(super) answered: HashSet<String>,
    refusals: BTreeMap<String, usize>,
}

impl World {
    pub(super) async fn start(span: Duration) -> Self {
        let ca = Ca::new("test CA");
        let clock: SharedClock = Arc::new(SystemClock);
        let (database, etcd) = (Cluster::start(&ca), EtcdCluster::start(3));
        let clouds = Clouds::start(&ca, &clock).await;
        clouds.key_vault.put("api-key", CANARY, &[]);
        for secret in load::secrets() {
            clouds.secret_manager.create_secret(None, &secret, &[]);
        }
        let replicas = [
            Replica::start("one", &ca, &database, &etcd, &clouds, span).await,
            Replica::start("two", &ca, &database, &etcd, &clouds, span).await,
        ];
        Self {
            ca,
            database: tokio::sync::Mutex::new(database),
            etcd: Mutex::new(etcd),
            clouds,
            replicas,
            over: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            truth: Mutex::default(),
        }
    }

    /// To each broker, as somebody. Calls fail while one is down, and work again afterwards.
    pub(super) fn channels(&self, who: &str) -> [Channel; 2] {
        let who: Issued = self.ca.client(who);
        [0, 1].map(|replica: usize| {
            let endpoint = endpoint(self.replicas[replica].door.port(), who.client_tls(&self.ca));
            endpoint.connect_timeout(Duration::from_secs(2)).connect_lazy()
        })
    }

    /// Makes a call under a trace id of its own, and remembers it where it was answered.
    pub(super) async fn call<M, A, F>(&self, message: M, call: impl FnOnce(Request<M>) -> F) -> Result<A, String>
    where
        F: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        let trace = format!("{:032x}", self.calls.fetch_add(1, Ordering::Relaxed) + 1);
        let mut request = Request::new(message);
        request.metadata_mut().insert("traceparent", format!("00-{trace}-b7ad6b7169203331-01").parse().unwrap());
        let reason = match tokio::time::timeout(PATIENCE, call(request)).await {
            Ok(Ok(answer)) => {
                self.truth().answered.insert(trace);
                return Ok(answer.into_inner());
            }
            Ok(Err(status)) => {
                assert!(!status.message().contains(CANARY), "{status:?}");
                status.get_details_error_info().map_or_else(|| format!("{:?}", status.code()), |info| info.reason)
            }
            Err(_) => "no answer".to_owned(),
        };
        let mut truth = self.truth();
        if reason == "ACCESS_DENIED" {
            truth.answered.insert(trace);
        }
        *truth.refusals.entry(reason.clone()).or_default() += 1;
        Err(reason)
    }

    /// That brokers made, and that the database has; `None` while it is down.
    pub(super) async fn users(&self) -> Option<BTreeSet<String>> {
        let database = self.database.lock().await;
        database.is_up().then(|| database.users().into_iter().collect())
    }

    pub(super) fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().unwrap()
    }

    pub(super) fn refusals(&self) -> String {
        let mut text = String::new();
        for (reason, times) in &self.truth().refusals {
            let _ = write!(text, "{reason} {times}, ");
        }
        text
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Replica {
    async fn start(
        node: &str,
        ca: &Ca,
        database: &Cluster,
        etcd: &EtcdCluster,
        clouds: &Clouds,
        span: Duration,
    ) -> Self {
        let to_database = Proxy::start("127.0.0.1", database.port()).await;
        let mut to_etcd = Vec::new();
        for endpoint in etcd.endpoints() {
            to_etcd.push(Proxy::start("127.0.0.1", endpoint.rsplit_once(':').unwrap().1.parse().unwrap()).await);
        }
        let directory = TempDir::new().unwrap();
        let disk = SmallDisk::mount(&format!("{}m", 32 + span.as_secs() / 2));
        let endpoints: Vec<_> = to_etcd.iter().map(|proxy| format!("http://127.0.0.1:{}", proxy.port())).collect();
        let [direct, by_way] = [database.port(), to_database.port()].map(|port| format!("port = {port}\n"));
        let long = "groups = [\"orders_read\"]\ndefault_ttl = \"12h\"\nmax_ttl = \"12h\"";
        let roles = database.configuration().replace("groups = [\"orders_read\"]", long).replace(&direct, &by_way);
        let more = format!(
            "{roles}{clouds}
[state]
kind = \"etcd\"
endpoints = {endpoints:?}
prefix = \"chaos\"
session_ttl = \"3s\"

[leases]
live_per_caller = 1000000
sweep_interval = \"1s\"

[audit]
directory = \"{audit}\"
signing_key = \"signing.key\"

[node]
name = \"{node}\"
",
            clouds = clouds.configuration(),
            audit = disk.0.path().join("audit").display(),
        );
        prepare(directory.path(), ca, &more);
        fs::write(directory.path().join("policy/mint.cedar"), POLICY).unwrap();
        let door = Proxy::start("127.0.0.1", 0).await;
        let replica = Self { directory, disk, process: Mutex::default(), door, to_database, to_etcd };
        replica.resume();
        replica
    }

    /// kill -9, and nobody is at the door any more.
    pub(super) fn kill(&self) {
        if let Some(process) = self.process.lock().unwrap().take() {
            process.kill();
        }
    }

    pub(super) fn resume(&self) {
        let mut process = self.process.lock().unwrap();
        if process.is_none() {
            let started = Process::start(Command::new(env!("CARGO_BIN_EXE_skewed")).arg(self.directory.path()));
            self.door.lead_to(started.grpc().port());
            *process = Some(started);
        }
    }

    pub(super) fn signal(&self, signal: rustix::process::Signal) {
        if let Some(process) = &*self.process.lock().unwrap() {
            process.signal(signal);
        }
    }

    /// By so many seconds off the real time.
    pub(super) fn set_clock(&self, off: i64) {
        // In one step, so that no part of a number is read.
        let file = self.directory.path().join("skew.new");
        fs::write(&file, (off * 1000).to_string()).unwrap();
        fs::rename(file, self.directory.path().join("skew")).unwrap();
    }

    pub(super) fn ballast(&self) -> PathBuf {
        self.disk.0.path().join("ballast")
    }

    pub(super) fn audit(&self) -> PathBuf {
        self.disk.0.path().join("audit")
    }

    /// Ends it in order, after a start that mends what a kill left.
    pub(super) fn conclude(&self) {
        self.kill();
        let (well, log) = Process::serve(self.directory.path()).terminate();
        assert!(well, "{log:#?}");
        assert!(!log.iter().any(|line| line.contains(CANARY)));
    }
}
