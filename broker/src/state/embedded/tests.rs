use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::clock::SystemClock;
use crate::state::record::Kind;
use crate::state::store::Epoch;
use crate::state::watch::{WatchEnd, Watched};

static THINGS: Kind = Kind { name: "things", upgrades: &[] };

fn key(id: &str) -> Key {
    Key::new(&THINGS, &[id]).unwrap()
}

fn settings(directory: &Path) -> EmbeddedSettings {
    EmbeddedSettings {
        file: directory.join("state.redb"),
        history_age: Duration::from_secs(3600),
        history_changes: 100_000,
    }
}

fn open(directory: &Path) -> Result<Embedded, OpenError> {
    Embedded::open(&settings(directory), "node", Arc::new(SystemClock))
}

async fn put(store: &Embedded, id: &str, value: &str) -> Revision {
    match store.txn(Txn::new().put_bytes(&key(id), value.to_owned())).await {
        Ok(Outcome::Committed(revision)) => revision,
        other => panic!("{other:?}"),
    }
}

async fn value(store: &Embedded, id: &str) -> Option<Vec<u8>> {
    store.get(&key(id)).await.unwrap().map(|entry| entry.value.to_vec())
}

#[tokio::test]
async fn what_was_committed_is_there_after_closing_and_opening() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    let revision = put(&store, "a", "1").await;
    let epoch = store.status().epoch;
    drop(store);
    let store = open(directory.path()).unwrap();
    assert_eq!(value(&store, "a").await.as_deref(), Some(&b"1"[..]));
    assert_eq!((store.status().epoch, store.status().revision), (epoch, revision));
    assert_eq!(store.status().oldest, Some(Revision::new(1)));
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    put(&store, "a", "1").await;
    let (mut watch, fence) = (store.watch(Prefix::all(), Revision::new(2)), store.leadership().term().fence);
    assert!(fence.is_some());
    store.close().await;
    assert!(matches!(store.txn(Txn::new().delete(&key("a"))).await, Err(StateError::Unavailable(..))));
    assert!(matches!(store.get(&key("a")).await, Err(StateError::Unavailable(..))));
    assert!(matches!(watch.next().await, Err(WatchEnd::Unavailable(_))));
    assert_eq!(store.leadership().term().fence, None);
    // Others may have the file now.
    drop(open(directory.path()).unwrap());
}

#[test]
fn the_file_is_its_owner_s_alone_and_only_one_process_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.redb");
    let store = open(directory.path()).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert!(matches!(open(directory.path()), Err(OpenError::InUse(_))));
    drop(store);
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[test]
fn what_is_not_the_state_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.redb");
    fs::write(&file, "not a database").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(open(directory.path()), Err(OpenError::Foreign(_))));
    assert_eq!(fs::read(&file).unwrap(), b"not a database");

    fs::remove_file(&file).unwrap();
    assert!(matches!(Embedded::inspect(&file), Err(OpenError::Io(..))));
    let other = redb::Database::create(&file).unwrap();
    let transaction = other.begin_write().unwrap();
    transaction.open_table(redb::TableDefinition::<&str, &str>::new("other")).unwrap();
    transaction.commit().unwrap();
    drop(other);
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(open(directory.path()), Err(OpenError::Foreign(_))));
}

/// Each way to bring back an old copy, and each way to lose the file.
#[tokio::test]
async fn a_restored_copy_and_a_new_file_are_another_epoch_and_no_revision_is_given_twice() {
    type Change = fn(&Path, &Path);
    let ways: [(&str, Change); 5] = [
        ("copied over in place", |file, old| assert!(fs::copy(old, file).unwrap() > 0)),
        ("replaced", |file, old| fs::rename(old, file).unwrap()),
        ("wiped", |file, _| fs::remove_file(file).unwrap()),
        ("mark lost", |file, _| fs::remove_file(mark_of(file)).unwrap()),
        ("mark damaged", |file, _| fs::write(mark_of(file), "?").unwrap()),
    ];
    for (way, restore) in ways {
        let directory = tempfile::tempdir().unwrap();
        let (file, old) = (directory.path().join("state.redb"), directory.path().join("old"));
        let store = open(directory.path()).unwrap();
        put(&store, "a", "1").await;
        drop(store);
        fs::copy(&file, &old).unwrap();
        let store = open(directory.path()).unwrap();
        let (epoch, last) = (store.status().epoch, put(&store, "a", "2").await);
        drop(store);
        restore(&file, &old);
        let store = open(directory.path()).unwrap();
        assert_ne!(store.status().epoch, epoch, "{way}");
        assert!(put(&store, "b", "3").await > last, "{way}");
        let renewed = store.status().epoch;
        drop(store);
        assert_eq!(open(directory.path()).unwrap().status().epoch, renewed, "{way}");
    }
}

fn mark_of(file: &Path) -> PathBuf {
    file.with_file_name("state.redb.mark")
}

#[tokio::test]
async fn history_beyond_its_count_or_age_is_forgotten_and_records_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let few = EmbeddedSettings { history_changes: 10, ..settings(directory.path()) };
    let store = Embedded::open(&few, "node", Arc::new(SystemClock)).unwrap();
    put(&store, "kept", "x").await;
    for n in 0..100 {
        put(&store, "a", &n.to_string()).await;
    }
    let oldest = store.status().oldest.unwrap();
    assert_eq!(oldest, Revision::new(101 - 10 + 1));
    let mut watch = store.watch(Prefix::all(), Revision::new(1));
    assert_eq!(watch.next().await, Err(WatchEnd::Compacted { oldest }));
    assert_eq!(watch.next().await, Err(WatchEnd::Compacted { oldest }));
    assert!(value(&store, "kept").await.is_some());
    drop(store);

    let ageless = EmbeddedSettings { history_age: Duration::ZERO, ..settings(directory.path()) };
    let store = Embedded::open(&ageless, "node", Arc::new(SystemClock)).unwrap();
    let last = put(&store, "a", "end").await;
    assert!(store.status().oldest.unwrap() >= last);
}

#[tokio::test]
async fn a_file_of_the_first_format_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.redb");
    let dump = include_str!("../testdata/format-1.json");
    restore(&file, dump);
    let store = Embedded::inspect(&file).unwrap();
    assert_eq!(store.status().epoch, Epoch::parse("000102030405060708090a0b0c0d0e0f"));
    assert_eq!(store.status().revision, Revision::new(7));
    assert_eq!(value(&store, "a").await.as_deref(), Some(&b"one"[..]));
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().revision, Revision::new(5));
    let mut watch = store.watch(Prefix::all(), Revision::new(5));
    for expected in [5, 7] {
        let Ok(Watched::Batch(batch)) = watch.next().await else { panic!("no batch") };
        assert_eq!(batch.revision, Revision::new(expected));
    }
}

/// Writes a file whose tables hold what the dump says, whatever the code would write today.
fn restore(file: &Path, dump: &str) {
    let dump: serde_json::Value = serde_json::from_str(dump).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let bytes = |value: &serde_json::Value| -> Vec<u8> {
        let hex = text(value);
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    drop(fs::OpenOptions::new().write(true).create_new(true).open(file).unwrap());
    fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
    let database = redb::Database::create(file).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut header = transaction.open_table(redb::TableDefinition::<&str, &[u8]>::new("keyferry-state")).unwrap();
        for (name, value) in dump["keyferry-state"].as_object().unwrap() {
            header.insert(name.as_str(), &*bytes(value)).unwrap();
        }
        let mut records = transaction.open_table(redb::TableDefinition::<&str, (u64, &[u8])>::new("records")).unwrap();
        for row in dump["records"].as_array().unwrap() {
            records.insert(&*text(&row[0]), (row[1].as_u64().unwrap(), &*bytes(&row[2]))).unwrap();
        }
        let mut history = transaction
            .open_table(redb::TableDefinition::<(u64, u32), (u64, &str, Option<&[u8]>)>::new("history"))
            .unwrap();
        for row in dump["history"].as_array().unwrap() {
            let place = (row[0].as_u64().unwrap(), u32::try_from(row[1].as_u64().unwrap()).unwrap());
            let value = row.get(4).map(bytes);
            history.insert(place, (row[2].as_u64().unwrap(), &*text(&row[3]), value.as_deref())).unwrap();
        }
    }
    transaction.commit().unwrap();
}

#[tokio::test]
async fn a_disk_error_fails_one_transaction_and_the_file_is_opened_anew_for_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    put(&store, "a", "1").await;
    let (epoch, mut watch) = (store.status().epoch, store.watch(Prefix::all(), Revision::new(2)));
    fail(&store);
    assert!(store.status().failing.is_some());
    let revision = put(&store, "a", "2").await;
    assert_eq!((store.status().failing, store.status().epoch), (None, epoch));
    assert_eq!(value(&store, "a").await.as_deref(), Some(&b"2"[..]));
    let Ok(Watched::Batch(batch)) = watch.next().await else { panic!("no batch") };
    assert_eq!(batch.revision, revision);
}

#[tokio::test]
async fn another_file_in_the_place_of_one_that_failed_is_not_taken_for_it() {
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(directory.path()).unwrap();
    put(&store, "a", "1").await;
    drop(open(other.path()).unwrap());
    fs::rename(other.path().join("state.redb"), directory.path().join("state.redb")).unwrap();
    fail(&store);
    assert!(matches!(store.get(&key("a")).await, Err(StateError::Unavailable(..))));
    assert!(store.status().failing.unwrap().contains("replaced"), "{:?}", store.status());
}

/// As when the disk does not take a write.
fn fail(store: &Embedded) {
    let error = || redb::StorageError::Io(std::io::Error::other("the disk failed"));
    let failed = store.file.attempt(|_| Err::<(), _>(FileError::from(error())));
    assert!(matches!(failed, Err(StateError::Unavailable(..))));
}

const KILLED: &str = "KEYFERRY_TEST_STATE_WRITER";

/// Run with the variable set, it is its own victim.
#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_loses_nothing_that_was_acknowledged() {
    const ROUNDS: u64 = 20;
    if let Some(directory) = std::env::var_os(KILLED) {
        return write_until_killed(Path::new(&directory)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let (mut acknowledged, mut newest, mut epoch) = ([0_u64; 8], 0_u64, None);
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--quiet"])
            .arg("state::embedded::tests::kill_nine_loses_nothing_that_was_acknowledged")
            .env(KILLED, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut until = 1 + round * round * 37 % 400;
        let mut record = |line: String| {
            let numbers: Option<Vec<u64>> =
                line.strip_prefix("ack ").map(|rest| rest.split(' ').filter_map(|n| n.parse().ok()).collect());
            let Some([writer, n, revision]) = numbers.as_deref() else { return false };
            let writer = usize::try_from(*writer).unwrap();
            acknowledged[writer] = acknowledged[writer].max(*n);
            newest = newest.max(*revision);
            true
        };
        while until > 0 {
            let line = lines.next().unwrap_or_else(|| panic!("the writers ended by themselves in round {round}"));
            until -= u64::from(record(line));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had still said, but for a line that was cut.
        for line in lines {
            record(line);
        }

        let store = open(directory.path()).unwrap();
        assert_eq!(*epoch.get_or_insert(store.status().epoch), store.status().epoch, "round {round}");
        assert!(store.status().revision.get() >= newest, "round {round}");
        for (writer, &n) in acknowledged.iter().enumerate() {
            let read = value(&store, &format!("w{writer}")).await;
            assert_eq!(read, value(&store, &format!("twin{writer}")).await, "round {round}: half a transaction");
            let read: u64 = read.map_or(0, |bytes| String::from_utf8(bytes).unwrap().parse().unwrap());
            assert!(read >= n, "round {round}: writer {writer} had {n} acknowledged and {read} is there");
        }
    }
    assert!(acknowledged.iter().sum::<u64>() > 500, "{acknowledged:?}");
}

/// Says what was acknowledged.
async fn write_until_killed(directory: &Path) {
    let store = Arc::new(open(directory).unwrap());
    let writers = (0..8).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let begun = value(&store, &format!("w{writer}")).await;
            let begun: u64 = begun.map_or(0, |bytes| String::from_utf8(bytes).unwrap().parse().unwrap());
            for n in begun + 1.. {
                // Two records that must never differ.
                let txn = Txn::new()
                    .put_bytes(&key(&format!("w{writer}")), n.to_string())
                    .put_bytes(&key(&format!("twin{writer}")), n.to_string());
                let Ok(Outcome::Committed(revision)) = store.txn(txn).await else { panic!("not committed") };
                writeln!(std::io::stdout(), "\nack {writer} {n} {revision}").unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}
