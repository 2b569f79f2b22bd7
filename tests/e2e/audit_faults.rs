//! kill -9 under load where the log does more than append: syncing each record, and rolling its files.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use keyferry_tests::broker::{endpoint, prepare};
use keyferry_tests::pki::Ca;
use keyferry_tests::process::Process;

use crate::audit::{add, read_until_cut, records, verify};

const KILLS: usize = 5;
const WORKERS: usize = 16;

/// Each kill comes once `more` calls of its round were answered and as many files were begun as the claim needs.
pub(crate) async fn no_answered_call_is_lost(
    configuration: &str,
    kills: usize,
    more: impl Fn(usize) -> usize,
    rolls: usize,
) {
    let directory = tempfile::tempdir().unwrap();
    let audit = directory.path().join("audit");
    let ca = Ca::new("test CA");
    prepare(directory.path(), &ca, configuration);
    let operator = ca.client("operator");
    let answered = Arc::new(Mutex::new(HashSet::new()));
    for round in 0..kills {
        let broker = Process::serve(directory.path());
        let channel = endpoint(broker.grpc().port(), operator.client_tls(&ca)).connect().await.unwrap();
        if round == 0 {
            add(channel.clone()).await;
        }
        let enough = answered.lock().unwrap().len() + more(round);
        let files_enough = files(&audit) + rolls;
        let load: Vec<_> = (0..WORKERS)
            .map(|worker| tokio::spawn(read_until_cut(channel.clone(), round, worker, Arc::clone(&answered))))
            .collect();
        while answered.lock().unwrap().len() < enough || files(&audit) < files_enough {
            tokio::task::yield_now().await;
        }
        broker.kill();
        for worker in load {
            worker.await.unwrap();
        }
    }
    // A last start cuts a torn tail and carries the chain on.
    let broker = Process::serve(directory.path());
    let (ended_well, log) = broker.terminate();
    assert!(ended_well, "{log:#?}");

    let (good, said) = verify(&audit);
    assert!(good, "{said}");
    let recorded: HashSet<String> =
        records(&audit).iter().filter_map(|record| record["trace"].as_str().map(ToOwned::to_owned)).collect();
    let answered = answered.lock().unwrap();
    let lost: Vec<_> = answered.iter().filter(|trace| !recorded.contains(*trace)).collect();
    assert!(lost.is_empty(), "{} of {} answered calls are not on record", lost.len(), answered.len());
    println!("{} answered calls over {kills} kills in {} files, all on record", answered.len(), files(&audit));
}

fn files(audit: &Path) -> usize {
    let names = fs::read_dir(audit).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_loses_no_answered_call_in_synced_mode() {
    no_answered_call_is_lost("[audit]\nmode = \"synced\"\n", KILLS, |_| 120, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_loses_no_answered_call_while_files_roll() {
    no_answered_call_is_lost("[audit]\nroll_at = \"1MiB\"\n", KILLS, |_| 200, 1).await;
}
