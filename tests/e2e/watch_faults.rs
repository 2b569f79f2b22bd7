//! Streams under faults: brokers and etcd's members die, history is compacted, subscribers leave and come back. Each of
//! them must have seen every change in order, or have been told that it may have missed some.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::watch_rotations_response::Response;
use keyferry_proto::v1::{
    AddSecretVersionRequest, RotationEvent, RotationEventKind, RotationFilter, RotationSnapshotEntry,
    WatchRotationsRequest,
};
use keyferry_tests::broker::{endpoint, prepare};
#[cfg(feature = "etcd")]
use keyferry_tests::etcd::EtcdCluster;
use keyferry_tests::pki::{Ca, Issued};
use keyferry_tests::process::Process;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use crate::token_faults::count;

const SUBSCRIBERS: usize = 20;
const WRITERS: usize = 8;
/// Each is written by one writer only, so that it is known in which order.
const SECRETS_A_WRITER: usize = 5;

/// A replica that is killed and started again, each time on another port.
struct Replica {
    directory: TempDir,
    process: Mutex<Option<Process>>,
}

/// Whom everybody calls.
#[derive(Clone)]
struct World {
    replicas: Arc<Vec<Replica>>,
    ca: Ca,
    operator: Issued,
    stop: Arc<AtomicBool>,
    /// The last version of each secret that was acknowledged with a place in the log.
    promised: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl World {
    fn start(configurations: &[String]) -> Self {
        let ca = Ca::new("test CA");
        let replicas = configurations.iter().map(|more| {
            let directory = TempDir::new().unwrap();
            prepare(directory.path(), &ca, more);
            let process = Mutex::new(Some(Process::serve(directory.path())));
            Replica { directory, process }
        });
        Self {
            replicas: Arc::new(replicas.collect()),
            operator: ca.client("operator"),
            ca,
            stop: Arc::default(),
            promised: Arc::default(),
        }
    }

    /// None while it is down.
    async fn channel(&self, replica: usize) -> Option<Channel> {
        let port = self.replicas[replica].process.lock().unwrap().as_ref()?.grpc().port();
        endpoint(port, self.operator.client_tls(&self.ca)).connect().await.ok()
    }

    fn kill(&self, replica: usize) {
        let process = self.replicas[replica].process.lock().unwrap().take();
        process.unwrap().kill();
    }

    fn resume(&self, replica: usize) {
        let process = Process::serve(self.replicas[replica].directory.path());
        *self.replicas[replica].process.lock().unwrap() = Some(process);
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Adds versions at one replica until it is over; what fails may have happened or not.
    async fn write(self, replica: usize, writer: usize) {
        let mut payload = 0_u64;
        while !self.is_over() {
            let Some(channel) = self.channel(replica).await else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let mut client = SecretServiceClient::new(channel);
            loop {
                payload += 1;
                let secret = format!("r{replica}-w{writer}-{}", payload as usize % SECRETS_A_WRITER);
                let request = AddSecretVersionRequest {
                    parent: format!("stores/local/secrets/{secret}"),
                    payload: payload.to_string().into_bytes().into(),
                    allow_missing: true,
                    ..AddSecretVersionRequest::default()
                };
                let Ok(Ok(answer)) = timeout(Duration::from_secs(10), client.add_secret_version(request)).await else {
                    break;
                };
                let answer = answer.into_inner();
                // Without a place in the log it is told later.
                if answer.revision > 0 {
                    let (secret, number) = number(&answer.version.unwrap().name);
                    self.promised.lock().unwrap().insert(secret, number);
                }
                if self.is_over() {
                    return;
                }
            }
        }
    }

    /// Watches at whichever replica until it has seen all that was promised, leaving now and then.
    async fn subscribe(self, seed: u64) -> Seen {
        let mut random = Random::new(seed);
        let mut seen = Seen::default();
        let mut cursor = String::new();
        loop {
            let replica = random.below(self.replicas.len());
            let Some(channel) = self.channel(replica).await else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let most = 1 + random.below(400);
            let is_done = |seen: &Seen| self.is_over() && seen.has(&self.promised.lock().unwrap(), |version| *version);
            if seen.follow(channel, &mut cursor, "stores/", most, is_done).await {
                return seen;
            }
            // Now and then so long away that the history may have become too short.
            if random.below(8) == 0 && !self.is_over() {
                sleep(Duration::from_secs(3)).await;
            }
        }
    }

    /// What everybody saw, once the faults are over.
    async fn run(self, faults: impl Future<Output = ()>) -> Vec<Seen> {
        let (mut writers, mut subscribers) = (JoinSet::new(), JoinSet::new());
        for replica in 0..self.replicas.len() {
            for writer in 0..WRITERS {
                writers.spawn(self.clone().write(replica, writer));
            }
        }
        for _ in 0..SUBSCRIBERS {
            subscribers.spawn(self.clone().subscribe(RandomState::new().hash_one(0)));
        }
        faults.await;
        self.stop.store(true, Ordering::Relaxed);
        writers.join_all().await;
        timeout(Duration::from_secs(120), subscribers.join_all())
            .await
            .expect("all that was promised is seen in the end")
    }
}

/// What one subscriber has seen, and must not see.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    epoch: String,
    revision: i64,
    /// The current version of each secret, as it was told.
    current: BTreeMap<String, u64>,
    /// A snapshot is due: at the start, and after a resync.
    snapshot_due: bool,
    parts: Vec<RotationSnapshotEntry>,
    events: usize,
    repeats: usize,
    resyncs: usize,
    connections: usize,
}

impl Seen {
    /// On one connection from the cursor on, for so many messages at most; whether it is done.
    pub(crate) async fn follow(
        &mut self,
        channel: Channel,
        cursor: &mut String,
        prefix: &str,
        most: usize,
        is_done: impl Fn(&Self) -> bool,
    ) -> bool {
        let filter = RotationFilter { prefixes: vec![prefix.to_owned()], ..RotationFilter::default() };
        let cursor_then = cursor.clone();
        let request =
            WatchRotationsRequest { filter: Some(filter), cursor: cursor_then, ..WatchRotationsRequest::default() };
        let mut client = RotationServiceClient::new(channel);
        let Ok(Ok(stream)) = timeout(Duration::from_secs(10), client.watch_rotations(request)).await else {
            sleep(Duration::from_millis(50)).await;
            return is_done(self);
        };
        let mut stream = stream.into_inner();
        self.connected(cursor.is_empty());
        let mut quiet = 0;
        for _ in 0..most {
            if is_done(self) {
                return true;
            }
            // Bookmarks come in the quiet at the end, but who is done need not wait for one.
            let message = match timeout(Duration::from_secs(1), stream.message()).await {
                Ok(Ok(Some(message))) => message,
                Err(_) if quiet < 30 => {
                    quiet += 1;
                    continue;
                }
                Ok(_) | Err(_) => break,
            };
            quiet = 0;
            match message.response {
                Some(Response::Snapshot(part)) => self.snapshot(part.entries, part.complete),
                Some(Response::Events(batch)) => batch.events.iter().for_each(|event| self.event(event)),
                Some(Response::Resync(_)) => self.resync(),
                Some(Response::Bookmark(_)) | None => {}
            }
            if !message.cursor.is_empty() {
                *cursor = message.cursor;
            }
        }
        false
    }

    fn connected(&mut self, anew: bool) {
        self.connections += 1;
        self.parts.clear();
        self.snapshot_due |= anew;
    }

    fn resync(&mut self) {
        self.resyncs += 1;
        self.snapshot_due = true;
        self.parts.clear();
    }

    fn snapshot(&mut self, entries: Vec<RotationSnapshotEntry>, complete: bool) {
        assert!(self.snapshot_due, "a snapshot out of the blue");
        self.parts.extend(entries);
        if complete {
            self.snapshot_due = false;
            for entry in std::mem::take(&mut self.parts) {
                let (secret, version) = number(&entry.version);
                let before = self.current.insert(secret, version);
                assert!(before <= Some(version), "{entry:?} after {before:?}");
            }
        }
    }

    fn event(&mut self, event: &RotationEvent) {
        assert!(!self.snapshot_due, "an event before the snapshot that was due: {event:?}");
        if self.epoch == event.epoch && event.revision <= self.revision {
            self.repeats += 1;
            return;
        }
        assert!(self.epoch.is_empty() || self.epoch == event.epoch, "the log is one");
        (self.epoch, self.revision) = (event.epoch.clone(), event.revision);
        self.events += 1;
        assert_eq!(event.kind(), RotationEventKind::VersionCurrent, "{event:?}");
        let (secret, version) = number(&event.version);
        let before = self.current.insert(secret, version);
        if before == Some(version) {
            // A snapshot may be ahead of the place that the stream goes on from.
            return;
        }
        let previous = Some(&event.previous_version).filter(|name| !name.is_empty()).map(|name| number(name).1);
        assert!(before == previous || before > Some(version), "{event:?} follows {before:?}: something was left out");
    }

    pub(crate) fn has<T>(&self, promised: &BTreeMap<String, T>, version: impl Fn(&T) -> u64) -> bool {
        promised.iter().all(|(secret, told)| self.current.get(secret) >= Some(&version(told)))
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.events > 0
    }

    pub(crate) fn told(all: &[Self]) -> String {
        let sum = |of: fn(&Self) -> usize| all.iter().map(of).sum::<usize>();
        format!(
            "{} subscribers, {} events in order, {} repeated, {} resyncs, {} connections",
            all.len(),
            sum(|seen| seen.events),
            sum(|seen| seen.repeats),
            sum(|seen| seen.resyncs),
            sum(|seen| seen.connections),
        )
    }
}

/// Of a version's name: the secret, and the version's number.
pub(crate) fn number(version: &str) -> (String, u64) {
    let (secret, number) = version.rsplit_once("/versions/").unwrap();
    (secret.to_owned(), number.parse().unwrap())
}

pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        // Xorshift: enough to be different each time.
        for shift in [13_i32, -7, 17] {
            self.0 ^= if shift > 0 { self.0 << shift } else { self.0 >> -shift };
        }
        self.0 as usize % bound
    }
}

fn told(seen: &[Seen], faults: usize) {
    println!("{faults} faults: {}", Seen::told(seen));
    let events: usize = seen.iter().map(|seen| seen.events).sum();
    assert!(events > SUBSCRIBERS * faults, "hardly anything happened");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_again_and_again_leaves_no_gap_in_any_stream() {
    let faults = count("KF_TEST_WATCH_KILLS", 4);
    // So short a history that cursors outlive it.
    let world = World::start(&["[state]\nkind = \"embedded\"\nhistory_changes = 1000\n".to_owned()]);
    let seen = world
        .clone()
        .run(async {
            for _ in 0..faults {
                sleep(Duration::from_millis(1500)).await;
                world.kill(0);
                world.resume(0);
            }
            sleep(Duration::from_secs(1)).await;
        })
        .await;
    told(&seen, faults);
}

#[cfg(feature = "etcd")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_and_etcd_s_members_die_and_history_is_compacted_and_no_stream_has_a_gap() {
    let faults = count("KF_TEST_WATCH_FAULTS", 6);
    let mut etcd = EtcdCluster::start(3);
    let configuration = |node: &str| format!("{}[node]\nname = \"{node}\"\n", etcd.configuration());
    let world = World::start(&[configuration("one"), configuration("two")]);
    let seen = world
        .clone()
        .run(async {
            for fault in 0..faults {
                sleep(Duration::from_secs(2)).await;
                match fault % 3 {
                    0 => {
                        let replica = fault / 3 % 2;
                        world.kill(replica);
                        world.resume(replica);
                    }
                    1 => {
                        let member = fault / 3 % 3;
                        etcd.kill(member);
                        sleep(Duration::from_secs(1)).await;
                        etcd.resume(member);
                    }
                    _ => compact(etcd.endpoints()).await,
                }
            }
            sleep(Duration::from_secs(2)).await;
        })
        .await;
    told(&seen, faults);
}

/// Forgets all of etcd's history.
#[cfg(feature = "etcd")]
async fn compact(endpoints: &[String]) {
    let mut client = etcd_client::Client::connect(endpoints, None).await.unwrap();
    let now = client.get("any", None).await.unwrap().header().unwrap().revision();
    client.compact(now, None).await.unwrap();
}
