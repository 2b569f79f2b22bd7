//! What a durable transaction costs, with more and fewer writers at once. TMPDIR picks the disk.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark may stop at the first surprise"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use keyferry_broker::clock::{SharedClock, SystemClock};
use keyferry_broker::names::SecretName;
use keyferry_broker::rotation::{Fact, Log, Observation, Origin, VersionMark};
use keyferry_broker::secrets::{CacheSettings, Secrets, VersionState};
use keyferry_broker::state::{Condition, Embedded, EmbeddedSettings, Key, Kind, Outcome, State, Store as _, Txn};
use tempfile::TempDir;

static THINGS: Kind = Kind { name: "things", upgrades: &[] };

fn main() {
    divan::main();
}

/// One record of the size of a lease that must not have been there, from each writer, until all are on disk.
#[divan::bench(args = [1, 8, 64])]
fn embedded_commit(bencher: Bencher<'_, '_>, writers: usize) {
    let directory = TempDir::new().unwrap();
    let settings = EmbeddedSettings {
        file: directory.path().join("state.redb"),
        history_age: Duration::from_secs(3600),
        history_changes: 200_000,
    };
    let store = Arc::new(Embedded::open(&settings, "bench", Arc::new(SystemClock)).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut made = 0_usize;
    bencher.counter(ItemsCount::new(writers)).bench_local(|| {
        runtime.block_on(async {
            let mut committing = tokio::task::JoinSet::new();
            for _ in 0..writers {
                made += 1;
                let (store, key) = (Arc::clone(&store), Key::new(&THINGS, &[&made.to_string()]).unwrap());
                committing.spawn(async move {
                    let txn = Txn::new().when(Condition::Absent(key.clone())).put_bytes(&key, vec![b'x'; 300]);
                    assert!(matches!(store.txn(txn).await, Ok(Outcome::Committed(_))));
                });
            }
            committing.join_all().await
        });
    });
}

/// From the call that observes a version to the log's watchers hearing of it.
#[divan::bench]
fn rotation_log_observe(bencher: Bencher<'_, '_>) {
    let directory = TempDir::new().unwrap();
    let settings = EmbeddedSettings {
        file: directory.path().join("state.redb"),
        history_age: Duration::from_secs(3600),
        history_changes: 200_000,
    };
    let state = State::new(Arc::new(Embedded::open(&settings, "bench", Arc::new(SystemClock)).unwrap()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let clock: SharedClock = Arc::new(SystemClock);
    let log = Log::new(state, Arc::clone(&clock), 1_000);
    let secrets = Secrets::new(BTreeMap::new(), &CacheSettings::default(), None, &clock);
    runtime.spawn(log.clone().follow(secrets));
    runtime.block_on(log.reached());
    let (secret, mut number) = (SecretName::parse("stores/main/secrets/db").unwrap(), 0_u64);
    bencher.bench_local(|| {
        number += 1;
        let mark = VersionMark { id: number.to_string().into(), created: None, state: VersionState::Enabled };
        let added = Observation { fact: Fact::VersionAdded(mark), origin: Origin::PubSub, happened: None };
        runtime.block_on(async {
            let mut watcher = log.watcher();
            watcher.mark_unchanged();
            let (observed, heard) = tokio::join!(log.observe(&secret, &added), watcher.changed());
            heard.unwrap();
            assert!(observed.unwrap().changed);
        });
    });
}
