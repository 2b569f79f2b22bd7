//! The log on a file of its own, followed by one or several replicas.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use super::Random;
use crate::clock::{SharedClock, SystemClock};
use crate::names::{RotationName, SecretName};
use crate::rotation::{Behind, Change, EventKind, Fact, Log, Observation, Origin, Position, Standing, VersionMark};
use crate::secrets::{CacheSettings, Secrets, VersionState, Ward as _, Word};
use crate::state::{
    Condition, Embedded, EmbeddedSettings, Entry, Epoch, Key, Leadership, ListPage, Listing, Outcome, Prefix, Revision,
    Source, State, StateError, Status, Store, Txn, Watch, WatchEnd, Watched,
};

fn secret(id: &str) -> SecretName {
    SecretName::parse(&format!("stores/main/secrets/{id}")).unwrap()
}

fn added(id: &str) -> Observation {
    let mark = VersionMark { id: id.into(), created: None, state: VersionState::Enabled };
    Observation { fact: Fact::VersionAdded(mark), origin: Origin::PubSub, happened: None }
}

fn withholding(current: &str) -> Word {
    Word { current: Some(current.into()), withholds: true }
}

fn embedded(directory: &Path, history_changes: u64) -> Embedded {
    let settings = EmbeddedSettings {
        file: directory.join("state.redb"),
        history_age: Duration::from_secs(3600),
        history_changes,
    };
    Embedded::open(&settings, "node", Arc::new(SystemClock)).unwrap()
}

/// One broker's end of the log.
struct Replica {
    log: Log,
    secrets: Secrets,
    following: JoinHandle<()>,
}

impl Replica {
    async fn on(store: Arc<dyn Store>) -> Self {
        let clock: SharedClock = Arc::new(SystemClock);
        let secrets = Secrets::new(BTreeMap::new(), &CacheSettings::default(), None, &clock);
        let log = Log::new(State::new(store), clock, 1_000);
        let following = tokio::spawn(log.clone().follow(secrets.clone()));
        log.reached().await;
        Self { log, secrets, following }
    }

    fn start(&self) -> Position {
        let Position { epoch, .. } = self.log.head().unwrap();
        Position { epoch, revision: Revision::new(0) }
    }

    /// Waits until it has come as far.
    async fn reaches(&self, position: Position) {
        self.log.watcher().wait_for(|head| head.is_some_and(|head| head.revision >= position.revision)).await.unwrap();
    }

    fn after(&self, position: Position) -> Result<Vec<Arc<Change>>, Behind> {
        self.log.after(position, usize::MAX)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.following.abort();
    }
}

fn versions(changes: &[Arc<Change>]) -> Vec<String> {
    changes
        .iter()
        .flat_map(|change| change.events.iter())
        .map(|event| event.version.as_deref().unwrap_or("-").into())
        .collect()
}

#[tokio::test]
async fn what_is_observed_is_read_by_every_replica_at_one_position_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(embedded(directory.path(), 1_000));
    let (one, two) = (Replica::on(Arc::clone(&store)).await, Replica::on(store).await);
    let first = one.log.observe(&secret("db"), &added("1")).await.unwrap();
    assert!(first.changed && one.log.head() == Some(first.position), "it came back after the caller went on");
    let again = two.log.observe(&secret("db"), &added("1")).await.unwrap();
    assert_eq!((again.changed, again.position), (false, first.position));
    let second = two.log.observe(&secret("db"), &added("2")).await.unwrap();
    for replica in [&one, &two] {
        replica.reaches(second.position).await;
        let changes = replica.after(one.start()).unwrap();
        assert_eq!(versions(&changes), ["1", "2"]);
        assert_eq!(
            changes.iter().map(|change| change.revision).collect::<Vec<_>>(),
            [first.position.revision, second.position.revision]
        );
        assert_eq!(versions(&replica.after(first.position).unwrap()), ["2"]);
        assert_eq!(replica.after(second.position).unwrap().len(), 0);
        assert_eq!(replica.log.after(one.start(), 1).unwrap().len(), 1);
        let standing = replica.log.standing(&secret("db")).await.unwrap().unwrap();
        assert_eq!((&*standing.record.current().unwrap().id, standing.revision), ("2", second.position.revision));
    }
}

#[tokio::test]
async fn a_position_from_before_a_restart_is_read_on_from() {
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(embedded(directory.path(), 1_000));
    let before = Replica::on(Arc::clone(&store)).await;
    let first = before.log.observe(&secret("db"), &added("1")).await.unwrap().position;
    for id in ["2", "3"] {
        before.log.observe(&secret("db"), &added(id)).await.unwrap();
    }
    drop(before);
    store.close().await;
    drop(store);
    let replica = Replica::on(Arc::new(embedded(directory.path(), 1_000))).await;
    assert_eq!(versions(&replica.after(first).unwrap()), ["2", "3"]);
}

#[tokio::test]
async fn who_is_behind_what_the_state_keeps_is_told_so_and_never_given_a_part() {
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(embedded(directory.path(), 4));
    let writer = Replica::on(Arc::clone(&store)).await;
    let mut positions = Vec::new();
    for number in 1..=20 {
        positions.push(writer.log.observe(&secret("db"), &added(&number.to_string())).await.unwrap().position);
    }
    let late = Replica::on(Arc::clone(&store)).await;
    let mut compacted = 0;
    for (place, position) in positions.iter().enumerate() {
        match late.after(*position) {
            Ok(changes) => assert_eq!(changes.len(), positions.len() - place - 1),
            Err(behind) => {
                assert_eq!(behind, Behind::Compacted);
                compacted += 1;
            }
        }
    }
    assert!((10..20).contains(&compacted), "{compacted} of 20 were gone");
}

#[tokio::test]
async fn concurrent_replays_at_two_replicas_tell_each_event_once_and_in_one_order() {
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(embedded(directory.path(), 100_000));
    let replicas = [Replica::on(Arc::clone(&store)).await, Replica::on(store).await];
    let mut random = Random(3);
    let mut tasks = JoinSet::new();
    for _ in 0..400 {
        let (name, id) = (secret(&format!("s{}", random.below(3))), (1 + random.below(8)).to_string());
        let fact = match random.below(3) {
            0 => Fact::VersionDestroyed(id.as_str().into()),
            _ => added(&id).fact,
        };
        let origin = [Origin::PubSub, Origin::EventGrid][random.below(2)];
        let log = replicas[random.below(2)].log.clone();
        let observation = Observation { fact, origin, happened: None };
        tasks.spawn(async move { log.observe(&name, &observation).await.unwrap().position });
    }
    let last = tasks.join_all().await.into_iter().max_by_key(|position| position.revision).unwrap();
    let mut told = Vec::new();
    for replica in &replicas {
        replica.reaches(last).await;
        let changes = replica.after(replica.start()).unwrap();
        assert!(changes.is_sorted_by(|one, next| one.revision < next.revision));
        let of = |change: &Arc<Change>| {
            change
                .events
                .iter()
                .map(|event| (event.secret.clone(), event.kind, event.version.clone()))
                .collect::<Vec<_>>()
        };
        told.push(changes.iter().flat_map(of).collect::<Vec<_>>());
    }
    assert_eq!(told[0], told[1]);
    let distinct: HashSet<_> = told[0].iter().cloned().collect();
    assert_eq!(distinct.len(), told[0].len(), "told twice");
    assert!(distinct.len() > 10);
}

#[tokio::test]
async fn what_a_rotation_changes_is_one_position_with_its_own_records_and_pins_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(embedded(directory.path(), 1_000));
    let (one, two) = (Replica::on(Arc::clone(&store)).await, Replica::on(Arc::clone(&store)).await);
    let secrets = [secret("a"), secret("b")];
    for name in &secrets {
        one.log.observe(name, &added("1")).await.unwrap();
    }
    let (rotation, own) = (RotationName::from_id("a").unwrap(), Key::parse("notes/own").unwrap());
    let begin = |standings: &mut [Standing], txn: Txn| {
        for standing in standings {
            standing.begin(rotation.clone(), true, Origin::Schedule, crate::clock::Timestamp::from_secs(1));
        }
        Ok(txn.when(Condition::Absent(own.clone())).put_bytes(&own, "x"))
    };
    let begun = one.log.change(None, &secrets, begin).await.unwrap().unwrap();
    two.reaches(begun).await;
    for replica in [&one, &two] {
        let changes = replica.after(replica.start()).unwrap();
        let change = changes.last().unwrap();
        assert_eq!((change.revision, change.events.len()), (begun.revision, 2));
        assert!(change.events.iter().all(|event| event.kind == EventKind::RotationStarted));
        for name in &secrets {
            assert_eq!(replica.secrets.word(name), withholding("1"));
        }
    }
    let deaf = Log::new(State::new(Arc::clone(&store)), Arc::new(SystemClock), 1_000);
    assert_eq!(deaf.word(&secrets[0]).await.unwrap(), withholding("1"), "also where nobody follows");
    assert_eq!(store.get(&own).await.unwrap().unwrap().revision, begun.revision);
    // The condition is its own: it decides what that means.
    assert_eq!(one.log.change(None, &secrets, begin).await.unwrap(), None);
    // Pins outlive a restart, and end with a newer version of somebody's.
    let three = Replica::on(Arc::clone(&store)).await;
    assert_eq!(three.secrets.word(&secrets[0]), withholding("1"));
    let by_hand = Observation { origin: Origin::Operator, ..added("2") };
    let ended = one.log.observe(&secrets[0], &by_hand).await.unwrap();
    one.log
        .change(None, &secrets[..1], |standings, txn| {
            standings[0].end(crate::clock::Timestamp::from_secs(2));
            Ok(txn)
        })
        .await
        .unwrap()
        .unwrap();
    assert!(ended.changed);
    three.log.watcher().wait_for(|_| !three.secrets.word(&secrets[0]).withholds).await.unwrap();
}

/// A store whose watches end, and whose epoch changes, when the suite says so.
#[derive(Debug)]
struct Shaky {
    inner: Embedded,
    cut: Arc<Notify>,
    compacts: Arc<AtomicBool>,
    replaced: AtomicBool,
}

struct Cut {
    inner: Watch,
    cut: Arc<Notify>,
    compacts: Arc<AtomicBool>,
}

impl Source for Cut {
    fn next(&mut self) -> BoxFuture<'_, Result<Watched, WatchEnd>> {
        Box::pin(async {
            tokio::select! {
                watched = self.inner.next() => watched,
                () = self.cut.notified() => Err(if self.compacts.load(SeqCst) {
                    WatchEnd::Compacted { oldest: Revision::new(u64::MAX) }
                } else {
                    WatchEnd::Unavailable(StateError::Unavailable("cut", None))
                }),
            }
        })
    }
}

impl Store for Shaky {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, StateError>> {
        self.inner.get(key)
    }

    fn list<'a>(&'a self, prefix: &'a Prefix, page: ListPage) -> BoxFuture<'a, Result<Listing, StateError>> {
        self.inner.list(prefix, page)
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StateError>> {
        self.inner.txn(txn)
    }

    fn watch(&self, prefix: Prefix, from: Revision) -> Watch {
        let inner = self.inner.watch(prefix, from);
        Watch::new(Cut { inner, cut: Arc::clone(&self.cut), compacts: Arc::clone(&self.compacts) })
    }

    fn leadership(&self) -> Leadership {
        self.inner.leadership()
    }

    fn status(&self) -> Status {
        let status = self.inner.status();
        let replaced = self.replaced.load(SeqCst).then(|| Epoch::parse(&"7".repeat(32)).unwrap());
        Status { epoch: replaced.or(status.epoch), ..status }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}

async fn shaky() -> (TempDir, Arc<Shaky>, Replica) {
    let directory = tempfile::tempdir().unwrap();
    let (cut, compacts, replaced) = (Arc::new(Notify::new()), Arc::default(), AtomicBool::new(false));
    let store = Arc::new(Shaky { inner: embedded(directory.path(), 1_000), cut, compacts, replaced });
    let replica = Replica::on(Arc::clone(&store) as _).await;
    (directory, store, replica)
}

#[tokio::test]
async fn a_watch_that_breaks_off_goes_on_where_it_was() {
    let (_directory, store, replica) = shaky().await;
    let first = replica.log.observe(&secret("db"), &added("1")).await.unwrap().position;
    store.cut.notify_one();
    let second = replica.log.observe(&secret("db"), &added("2")).await.unwrap().position;
    assert_eq!(versions(&replica.after(replica.start()).unwrap()), ["1", "2"]);
    assert_eq!((first.epoch, replica.log.head()), (second.epoch, Some(second)));
}

#[tokio::test]
async fn after_a_gap_in_the_history_readers_are_told_to_begin_anew() {
    for epoch_changes in [false, true] {
        let (_directory, store, replica) = shaky().await;
        let first = replica.log.observe(&secret("db"), &added("1")).await.unwrap().position;
        let mut watcher = replica.log.watcher();
        watcher.mark_unchanged();
        store.replaced.store(epoch_changes, SeqCst);
        store.compacts.store(!epoch_changes, SeqCst);
        store.cut.notify_one();
        watcher.changed().await.unwrap();
        store.compacts.store(false, SeqCst);
        let head = replica.log.head().unwrap();
        assert_eq!(head.epoch != first.epoch, epoch_changes);
        let before = Position { revision: Revision::new(0), ..first };
        let expected = if epoch_changes { Behind::EpochChanged } else { Behind::Compacted };
        assert_eq!(replica.after(before).unwrap_err(), expected);
        let second = replica.log.observe(&secret("db"), &added("2")).await.unwrap().position;
        assert_eq!(versions(&replica.after(head).unwrap()), ["2"]);
        assert_eq!(second.epoch, head.epoch);
    }
}
