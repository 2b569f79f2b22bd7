//! Brokers that die and come back, connections that are cut, certificates that end.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use keyferry_client::proto::{AddSecretVersionRequest, ListSecretVersionsRequest, RotationEventKind};
use keyferry_client::{Client, Options, Told, WatchOptions};
use keyferry_tests::broker::{TestBroker, prepare};
use keyferry_tests::pki::Ca;
use keyferry_tests::process::Process;
use keyferry_tests::proxy::{Mood, Proxy};
use tempfile::TempDir;

use crate::options;

const SECRET: &str = "stores/local/secrets/db";
const RESTARTS: usize = 20;

pub(crate) fn addition(payload: &str) -> AddSecretVersionRequest {
    AddSecretVersionRequest {
        parent: SECRET.into(),
        payload: payload.as_bytes().to_vec().into(),
        allow_missing: true,
        ..AddSecretVersionRequest::default()
    }
}

/// Gives a broker that was prepared a port that it keeps through restarts.
pub(crate) fn operator(directory: &Path, ca: &Ca) -> Options {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let file = directory.join("keyferry.toml");
    let configuration = fs::read_to_string(&file).unwrap();
    fs::write(&file, configuration.replacen("grpc = \"127.0.0.1:0\"", &format!("grpc = \"127.0.0.1:{port}\""), 1))
        .unwrap();
    ca.client("operator").write(directory, "operator");
    let path = |name: &str| directory.join(name);
    let mut options =
        Options::new(format!("https://127.0.0.1:{port}"), path("ca.pem"), path("operator.pem"), path("operator.key"));
    options.server_name = Some("keyferry.test".into());
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_restarts_lose_no_event_and_fail_no_call() {
    let (directory, ca) = (TempDir::new().unwrap(), Ca::new("test CA"));
    prepare(directory.path(), &ca, "");
    let mut options = operator(directory.path(), &ca);
    // Of a change that a death cut off, the broker says for a minute that it may be under way still.
    (options.deadline, options.attempts) = (Duration::from_secs(120), u32::MAX);

    let mut process = Process::serve(directory.path());
    let client = Client::connect(options).await.unwrap();
    client.call(addition("0")).await.unwrap();
    let mut watch = client.watch(WatchOptions::default().secret(SECRET));
    assert!(matches!(watch.next().await.unwrap(), Told::Snapshot(entries) if entries.len() == 1));

    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let reading = tokio::spawn({
        let (client, stop, done) = (client.clone(), Arc::clone(&stop), Arc::clone(&done));
        async move {
            while !stop.load(Ordering::Relaxed) {
                client.get_secret(SECRET).await.unwrap();
                done.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let writing = tokio::spawn({
        let (client, stop, done) = (client.clone(), Arc::clone(&stop), Arc::clone(&done));
        async move {
            let mut written = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let answer = client.call(addition(&written.len().to_string())).await.unwrap();
                written.push(answer.version.unwrap().name);
                done.fetch_add(1, Ordering::Relaxed);
            }
            written
        }
    });
    let (told, mut events) = tokio::sync::mpsc::unbounded_channel();
    let watching = tokio::spawn(async move {
        loop {
            let Told::Events(events) = watch.next().await.unwrap() else { panic!("events may have been missed") };
            let current = events.into_iter().filter(|event| event.kind() == RotationEventKind::VersionCurrent);
            current.for_each(|event| told.send(event.version).unwrap());
        }
    });
    for round in 0..RESTARTS {
        let before = done.load(Ordering::Relaxed);
        while done.load(Ordering::Relaxed) < before + 20 {
            assert!(!reading.is_finished() && !writing.is_finished(), "a call failed in round {round}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        process = tokio::task::spawn_blocking({
            let directory = directory.path().to_owned();
            move || {
                if round % 2 == 0 {
                    process.kill();
                } else {
                    process.terminate();
                }
                Process::serve(&directory)
            }
        })
        .await
        .unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    reading.await.unwrap();
    let mut written = writing.await.unwrap();
    written.push(client.call(addition("last")).await.unwrap().version.unwrap().name);
    let mut seen = Vec::new();
    while seen.last() != written.last() {
        seen.push(events.recv().await.expect("the watch goes on"));
    }
    watching.abort();
    println!("{} changes, {} events, {} calls", written.len(), seen.len(), done.load(Ordering::Relaxed));
    assert_eq!(seen, written, "each change once, in its order");
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_is_made_once() {
    let broker = TestBroker::start().await;
    let direct = Client::connect(options(&broker, &broker.operator)).await.unwrap();
    let proxy = Proxy::start("127.0.0.1", broker.broker.grpc_address().port()).await;
    let cut = Options {
        endpoint: format!("https://127.0.0.1:{}", proxy.port()),
        attempts: u32::MAX,
        deadline: Duration::from_secs(60),
        ..options(&broker, &broker.operator)
    };
    let client = Client::connect(cut).await.unwrap();
    let versions_by = ListSecretVersionsRequest { parent: SECRET.into(), ..Default::default() };
    // What a broker says first on a connection must not be what is swallowed.
    client.call(versions_by.clone()).await.unwrap_err();
    proxy.mood().send_replace(Mood::SwallowingAnswers);
    let adding = tokio::spawn(async move { client.call(addition("one")).await });
    let versions = || direct.call(versions_by.clone());
    while versions().await.is_err() {
        assert!(!adding.is_finished(), "it was given up before it was made");
        tokio::task::yield_now().await;
    }
    assert!(!adding.is_finished());
    proxy.mood().send_replace(Mood::Passing);
    let added = adding.await.unwrap().unwrap().version.unwrap();
    let versions = versions().await.unwrap().versions;
    assert_eq!(versions.iter().map(|version| &version.name).collect::<Vec<_>>(), [&added.name]);
}

#[tokio::test]
async fn a_certificate_that_is_replaced_is_used_without_a_restart_and_a_broken_one_is_not() {
    let broker = TestBroker::start().await;
    broker.put("db", b"one", &[]).await;
    let ended = broker.ca.issue(|params| {
        params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://test.keyferry/client".try_into().unwrap())];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let client = Client::new(&Options { deadline: Duration::from_secs(5), ..options(&broker, &ended) }).unwrap();
    client.get_secret(SECRET).await.unwrap_err();
    broker.client.write(broker.path(), "caller");
    while client.get_secret(SECRET).await.is_err() {
        tokio::task::yield_now().await;
    }
    // A certificate without its key is not taken up: the pair before stays.
    fs::write(broker.path().join("caller.pem"), &ended.certificate).unwrap();
    let looked = tokio::time::Instant::now();
    while looked.elapsed() < Duration::from_millis(1500) {
        client.get_secret(SECRET).await.unwrap();
    }
}
