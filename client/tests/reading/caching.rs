//! Values that are kept in the client.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use keyferry_broker::clock::SystemClock;
use keyferry_client::proto::DisableSecretVersionRequest;
use keyferry_client::{Cached, Client, Error, Options, Reason, SecretCache, WatchOptions};
use keyferry_tests::broker::{TestBroker, prepare};
use keyferry_tests::pki::Ca;
use keyferry_tests::process::Process;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::client;
use crate::faults::{addition, operator};

const SECRET: &str = "stores/local/secrets/db";
const LONG: Duration = Duration::from_secs(600);

async fn until(
    cache: &SecretCache,
    name: &str,
    is_so: impl Fn(&Result<Cached, Error>) -> bool,
) -> Result<Cached, Error> {
    loop {
        let got = cache.get(name).await;
        if is_so(&got) {
            return got;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

fn is(payload: &[u8]) -> impl Fn(&Result<Cached, Error>) -> bool {
    move |got| got.as_ref().is_ok_and(|secret| &*secret.payload == payload)
}

fn is_stale(got: &Result<Cached, Error>) -> bool {
    got.as_ref().is_ok_and(Cached::is_stale)
}

#[tokio::test]
async fn a_value_outlives_its_broker_as_long_as_it_may_be_stale_and_no_longer_and_says_so() {
    let (directory, ca) = (TempDir::new().unwrap(), Ca::new("test CA"));
    prepare(directory.path(), &ca, "latest_fresh_for = \"2s\"\n[quota]\n");
    let options = operator(directory.path(), &ca);
    let broker = Process::serve(directory.path());
    let direct = Client::connect(options.clone()).await.unwrap();
    direct.call(addition("one")).await.unwrap();
    let hasty = Client::new(&Options { deadline: Duration::from_secs(2), ..options }).unwrap();
    let (lasting, strict) = (hasty.cache(LONG), hasty.cache(Duration::from_secs(4)));
    for cache in [&lasting, &strict] {
        assert!(!is_stale(&until(cache, SECRET, is(b"one")).await));
    }
    broker.kill();

    assert!(is(b"one")(&until(&strict, SECRET, is_stale).await));
    let error = until(&strict, SECRET, Result::is_err).await.unwrap_err();
    assert!(error.is_passing(), "{error}");
    let last = lasting.get(SECRET).await;
    assert!(is_stale(&last) && is(b"one")(&last));
    assert!(lasting.get("stores/local/secrets/other").await.is_err(), "it was never read");

    let _again = Process::serve(directory.path());
    direct.call(addition("two")).await.unwrap();
    assert!(is(b"two")(&until(&lasting, SECRET, |got| !is_stale(got)).await));
}

#[tokio::test]
async fn what_a_watch_tells_of_is_dropped_though_it_was_fresh() {
    let broker =
        TestBroker::with("pinned_fresh_for = \"24h\"\nlatest_fresh_for = \"24h\"\n[quota]\n", Arc::new(SystemClock));
    let broker = broker.await;
    let first = broker.put("db", b"one", &[]).await.version.unwrap().name;
    let client = client(&broker).await;
    let cache = client.cache(LONG).watching(WatchOptions::default().prefix("stores/local/"));
    let unaware = client.cache(LONG);
    for name in [SECRET, &first] {
        until(&cache, name, is(b"one")).await.unwrap();
    }
    unaware.get(SECRET).await.unwrap();

    broker.put("db", b"two", &[]).await;
    until(&cache, SECRET, is(b"two")).await.unwrap();
    assert!(is(b"one")(&unaware.get(SECRET).await), "the value before is fresh for a day");
    let disable = DisableSecretVersionRequest { name: first.clone(), ..DisableSecretVersionRequest::default() };
    broker.secrets(&broker.operator).await.disable_secret_version(disable).await.unwrap();
    let error = until(&cache, &first, Result::is_err).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().reason, Reason::VersionDisabled);
}

#[tokio::test]
async fn a_secret_that_many_wait_for_is_read_once() {
    let broker = TestBroker::start().await;
    broker.put("db", b"one", &[]).await;
    let cache = client(&broker).await.cache(LONG);
    let all = join_all((0..100).map(|_| cache.get(SECRET))).await;
    let all: Vec<_> = all.into_iter().map(Result::unwrap).collect();
    assert!(all.iter().all(|got| std::ptr::eq(&**got, &*all[0])));
}

#[tokio::test]
async fn what_is_refused_is_not_kept() {
    let broker = TestBroker::start().await;
    let cache = client(&broker).await.cache(LONG);
    for _ in 0..2 {
        let error = cache.get(SECRET).await.unwrap_err();
        assert_eq!(error.refusal().unwrap().reason, Reason::SecretNotFound);
    }
    broker.put("db", b"one", &[]).await;
    assert!(is(b"one")(&cache.get(SECRET).await));
}
