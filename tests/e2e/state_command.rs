//! `keyferry state`: what lies in the store, for whoever may read it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyferry_broker::clock::SystemClock;
use keyferry_broker::state::{Embedded, EmbeddedSettings, Key, Outcome, Store, Txn};
use keyferry_tests::broker::prepare;
use keyferry_tests::pki::Ca;
use keyferry_tests::process::keyferry;
use serde_json::{Value, json};
use tempfile::TempDir;

const GOOD: &[u8] = include_bytes!("../../broker/src/state/testdata/thing-2.record");

fn prepared(more: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    prepare(directory.path(), &Ca::new("test CA"), more);
    directory
}

fn embedded(directory: &Path) -> Embedded {
    let settings = EmbeddedSettings {
        file: directory.join("state.redb"),
        history_age: Duration::from_secs(3600),
        history_changes: 1000,
    };
    Embedded::open(&settings, "node", Arc::new(SystemClock)).unwrap()
}

/// More than a page of one kind, one of another, and one that was damaged.
async fn fill(store: &dyn Store) {
    let mut records: Vec<_> = (0..501).map(|n| (format!("things/{n:03}"), GOOD)).collect();
    records.extend([("others/a%2Fb".to_owned(), GOOD), ("others/bad".to_owned(), b"\x01\x01damaged")]);
    for part in records.chunks(100) {
        let put = |txn: Txn, (key, bytes): &(String, &'static [u8])| txn.put_bytes(&Key::parse(key).unwrap(), *bytes);
        let outcome = store.txn(part.iter().fold(Txn::new(), put)).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    }
}

fn run(directory: &Path, arguments: &[&str]) -> (i32, String) {
    let output = std::process::Command::new(keyferry())
        .arg("state")
        .args(arguments)
        .env("KEYFERRY_CONFIG", directory.join("keyferry.toml"))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.code().unwrap(), text)
}

fn run_json(directory: &Path, arguments: &[&str]) -> Value {
    let (code, text) = run(directory, &[arguments, &["--json"]].concat());
    assert_eq!(code, 0, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// What every backend's records look like from outside.
fn shows_what_was_filled_in(directory: &Path, backend: &str) {
    let summary = run_json(directory, &[]);
    assert_eq!(summary["backend"], backend);
    assert_eq!(summary["record_counts"], json!({"others": 2, "things": 501}));
    assert_eq!(summary["quarantined_count"], 1);
    assert_eq!(summary["epoch"].as_str().unwrap().len(), 32);
    let (code, text) = run(directory, &[]);
    assert!(code == 0 && text.contains("others 2, things 501") && text.contains("quarantined  1"), "{text}");

    assert_eq!(run_json(directory, &["list"]).as_array().unwrap().len(), 503);
    let others = run_json(directory, &["list", "others"]);
    let keys: Vec<_> = others.as_array().unwrap().iter().map(|record| record["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["others/a%2Fb", "others/bad"]);
    assert!(others[0]["revision"].as_u64() <= summary["revision"].as_u64());

    let (_, text) = run(directory, &["quarantined"]);
    assert!(text.starts_with("others/bad  ") && text.contains("damaged") && text.lines().count() == 1, "{text}");

    let good = run_json(directory, &["show", "others/a%2Fb"]);
    assert_eq!((&good["version"], &good["fault"], &good["bytes"]), (&json!(2), &Value::Null, &Value::Null));
    assert_eq!(good["content"], json!({"name": "a", "colors": ["red"]}));
    let bad = run_json(directory, &["show", "others/bad"]);
    assert_eq!((&bad["content"], &bad["bytes"]), (&Value::Null, &json!("AQFkYW1hZ2Vk")));
    let (code, text) = run(directory, &["show", "others/none"]);
    assert!(code == 1 && text.contains("no record others/none"), "{text}");
    // It looked, and that was all.
    assert_eq!(run_json(directory, &[]), summary);
}

#[tokio::test]
async fn the_command_shows_what_lies_in_the_file_and_leaves_it_as_it_is() {
    let directory = prepared("");
    let (code, text) = run(directory.path(), &[]);
    assert!(code == 1 && text.contains("there is no state") && text.contains("first starts"), "{text}");

    let (file, killed) = (directory.path().join("state.redb"), directory.path().join("killed"));
    let store = embedded(directory.path());
    fill(&store).await;
    let (code, text) = run(directory.path(), &["list"]);
    assert!(code == 1 && text.contains("`keyferry status`"), "{code} {text}");
    // As a broker leaves it that is killed.
    fs::copy(&file, &killed).unwrap();
    drop(store);

    let before = fs::read(&file).unwrap();
    shows_what_was_filled_in(directory.path(), "embedded");
    assert!(fs::read(&file).unwrap() == before, "the file was changed");
    fs::rename(killed, &file).unwrap();
    shows_what_was_filled_in(directory.path(), "embedded");
}

#[cfg(feature = "etcd")]
#[tokio::test(flavor = "multi_thread")]
async fn the_command_shows_what_lies_in_etcd_and_leaves_it_as_it_is() {
    use keyferry_tests::etcd::EtcdCluster;

    let mut cluster = EtcdCluster::start(1);
    let store = keyferry_broker::state::Etcd::open(&cluster.settings(), "node", Arc::new(SystemClock)).unwrap();
    store.leadership().elected().await;
    fill(&store).await;
    let directory = prepared(&cluster.configuration());
    shows_what_was_filled_in(directory.path(), "etcd");
    store.close().await;
    cluster.kill(0);
    let (code, text) = run(directory.path(), &[]);
    assert!(code == 1 && text.contains("etcd"), "{code} {text}");
}
