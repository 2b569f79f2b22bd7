//! The client against a broker that runs in the test's process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]
#![allow(clippy::print_stdout, reason = "a suite tells what it counted")]

mod caching;
mod faults;
#[cfg(all(feature = "deadpool-postgres", feature = "sqlx"))]
mod guide;
#[cfg(feature = "deadpool-postgres")]
mod one_user;
#[cfg(feature = "deadpool-postgres")]
mod pools;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use keyferry_broker::clock::SystemClock;
use keyferry_client::proto::{ListSubscribersRequest, RotationEventKind, WhoAmIRequest};
use keyferry_client::{Read, TokenSource, Told, VersionName, WatchOptions};
use keyferry_tests::broker::TestBroker;
use keyferry_tests::pki::Issued;
use tokio::net::TcpListener;
use tonic::Code;

// What the crate's documentation shows.
include!("example.rs");

fn options(broker: &TestBroker, who: &Issued) -> Options {
    who.write(broker.path(), "caller");
    let file = |name: &str| broker.path().join(name);
    let mut options = Options::new(
        format!("https://127.0.0.1:{}", broker.broker.grpc_address().port()),
        file("ca.pem"),
        file("caller.pem"),
        file("caller.key"),
    );
    options.server_name = Some("keyferry.test".into());
    options
}

async fn client(broker: &TestBroker) -> Client {
    Client::connect(options(broker, &broker.client)).await.unwrap()
}

#[tokio::test]
async fn the_documented_example_reads_a_password() {
    let broker = TestBroker::start().await;
    assert_eq!(database_password(options(&broker, &broker.client)).await.unwrap(), None);
    broker.put("db-password", b"correct-horse", &[]).await;
    let password = database_password(options(&broker, &broker.client)).await.unwrap();
    assert_eq!(password.as_deref(), Some("correct-horse"));
}

#[tokio::test]
async fn a_read_tells_which_version_it_is() {
    let broker = TestBroker::start().await;
    let first = broker.put("db", b"one", &[]).await.version.unwrap();
    broker.put("db", b"two", &[]).await;
    let client = client(&broker).await;
    let latest = client.get_secret("stores/local/secrets/db").await.unwrap();
    assert_eq!((&*latest.name, &*latest.payload), ("stores/local/secrets/db", &b"two"[..]));
    let pinned: VersionName = first.name.parse().unwrap();
    let older = client.get_secret(Read::from(&pinned).max_age(Duration::ZERO)).await.unwrap();
    assert_eq!((format!("{}/versions/{}", older.name, older.version), &*older.payload), (first.name, &b"one"[..]));
}

#[tokio::test]
async fn a_refusal_carries_its_reason_code_and_message() {
    let broker = TestBroker::start().await;
    broker.put("db", b"one", &[]).await;
    let stranger = broker.ca.client("stranger");
    let stranger = Client::connect(options(&broker, &stranger)).await.unwrap();
    let error = stranger.get_secret("stores/local/secrets/db").await.unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!((refusal.reason, refusal.code), (Reason::AccessDenied, Code::PermissionDenied));
    assert_eq!(refusal.retry_delay, None);
    assert!(refusal.message.contains("stores/local/secrets/db"), "{refusal}");
}

#[tokio::test]
async fn a_batch_tells_each_outcome_in_its_place() {
    let broker = TestBroker::start().await;
    broker.put("a", b"1", &[]).await;
    broker.put("b", b"2", &[]).await;
    let names = ["a", "missing", "b"].map(|id| format!("stores/local/secrets/{id}"));
    let outcomes = client(&broker).await.batch_get(names).await.unwrap();
    let outcomes: Vec<_> = outcomes
        .into_iter()
        .map(|outcome| outcome.map(|secret| secret.payload.to_vec()).map_err(|error| error.refusal().unwrap().reason))
        .collect();
    assert_eq!(outcomes, [Ok(b"1".to_vec()), Err(Reason::SecretNotFound), Ok(b"2".to_vec())]);
}

#[tokio::test]
async fn a_list_comes_in_pages_and_ends() {
    let broker = TestBroker::start().await;
    for id in ["a-1", "a-2", "a-3", "b-1"] {
        broker.put(id, b"x", &[("env", "dev")]).await;
    }
    let mut pages = client(&broker).await.list_secrets("stores/local").page_size(2).prefix("a-").label("env", "dev");
    let mut names = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        assert!(page.len() <= 2);
        assert!(page.iter().all(|secret| secret.labels["env"] == "dev"));
        names.extend(page.into_iter().map(|secret| secret.name));
    }
    assert_eq!(names, ["a-1", "a-2", "a-3"].map(|id| format!("stores/local/secrets/{id}")));
    assert!(pages.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_call_over_its_quota_is_repeated_when_the_broker_says_so() {
    let broker = TestBroker::with("[quota]\nread_rate = 20\nread_burst = 1\n", Arc::new(SystemClock)).await;
    broker.put("db", b"one", &[]).await;
    let patient = client(&broker).await;
    for _ in 0..4 {
        patient.get_secret("stores/local/secrets/db").await.unwrap();
    }
    let hasty = Options { attempts: 1, ..options(&broker, &broker.client) };
    let hasty = Client::connect(hasty).await.unwrap();
    let error = loop {
        if let Err(error) = hasty.get_secret("stores/local/secrets/db").await {
            break error;
        }
    };
    let refusal = error.refusal().unwrap();
    assert_eq!((refusal.reason, refusal.code), (Reason::QuotaExceeded, Code::ResourceExhausted));
    assert!(refusal.retry_delay.unwrap() <= Duration::from_secs(1));
}

#[tokio::test]
async fn a_watch_tells_what_is_and_then_each_change_whose_value_can_be_read() {
    let broker = TestBroker::start().await;
    broker.put("db", b"one", &[]).await;
    let client = client(&broker).await;
    let mut watch = client.watch(WatchOptions::default().secret("stores/local/secrets/db"));
    let Told::Snapshot(entries) = watch.next().await.unwrap() else { panic!("a watch begins with a snapshot") };
    assert_eq!(entries[0].version, "stores/local/secrets/db/versions/1");
    broker.put("db", b"two", &[]).await;
    let Told::Events(events) = watch.next().await.unwrap() else { panic!("a change is an event") };
    let event = &events[0];
    assert_eq!((events.len(), event.kind()), (1, RotationEventKind::VersionCurrent));
    let read = Read::of(event.secret.clone()).min_revision(event.revision, event.epoch.clone());
    assert_eq!(&*client.get_secret(read).await.unwrap().payload, b"two");

    // Another watch goes on where this one was.
    let options = WatchOptions::default().secret("stores/local/secrets/db").resume(watch.cursor());
    drop(watch);
    broker.put("db", b"three", &[]).await;
    let Told::Events(events) = client.watch(options).next().await.unwrap() else { panic!("the cursor was lost") };
    assert_eq!(events[0].version, "stores/local/secrets/db/versions/3");
}

#[tokio::test]
async fn a_secret_that_is_followed_stays_the_current_one_and_says_so() {
    let broker = TestBroker::start().await;
    broker.put("db", b"one", &[]).await;
    let mut handle =
        client(&broker).await.follow("stores/local/secrets/db", Some("orders-1".parse().unwrap())).await.unwrap();
    assert_eq!(&*handle.current().payload, b"one");
    broker.put("db", b"two", &[]).await;
    assert_eq!(&*handle.changed().await.payload, b"two");
    let operator = Client::connect(options(&broker, &broker.operator)).await.unwrap();
    loop {
        let answer = operator.rotation_service().list_subscribers(ListSubscribersRequest::default()).await.unwrap();
        let runs = answer.into_inner().subscribers.into_iter().flat_map(|subscriber| subscriber.versions);
        if runs.map(|run| run.version).any(|version| version == "stores/local/secrets/db/versions/2") {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_generated_clients_are_at_hand() {
    let broker = TestBroker::start().await;
    let operator = Client::connect(options(&broker, &broker.operator)).await.unwrap();
    let answer = operator.operator_service().who_am_i(WhoAmIRequest::default()).await.unwrap();
    assert_eq!(answer.into_inner().caller.unwrap().id, "x509/spiffe://test.keyferry/operator");
}

#[tokio::test]
async fn a_token_that_cannot_be_read_is_told_before_anything_is_sent() {
    let broker = TestBroker::start().await;
    let token = Some(TokenSource::File(broker.path().join("missing.jwt")));
    let error = Client::connect(Options { token, ..options(&broker, &broker.client) }).await.unwrap_err();
    assert!(matches!(error, Error::Token(_)), "{error}");
}

#[tokio::test]
async fn a_token_in_the_file_is_sent_with_each_call() {
    let broker = TestBroker::start().await;
    let file = broker.path().join("token.jwt");
    std::fs::write(&file, "not-a-token").unwrap();
    let token = Some(TokenSource::File(file));
    let client = Client::connect(Options { token, ..options(&broker, &broker.client) }).await.unwrap();
    let refusal = client.get_secret("stores/local/secrets/db").await.unwrap_err().refusal().unwrap().clone();
    assert_eq!((refusal.reason, refusal.code), (Reason::TokenMalformed, Code::Unauthenticated));
}

#[tokio::test]
async fn a_broker_that_does_not_answer_is_given_up_at_the_deadline() {
    let broker = TestBroker::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = Options {
        endpoint: format!("https://{}", silent.local_addr().unwrap()),
        deadline: Duration::from_millis(50),
        ..options(&broker, &broker.client)
    };
    let error = Client::connect(options).await.unwrap_err();
    assert!(matches!(error, Error::Deadline(..) | Error::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn what_is_not_https_is_not_connected_to() {
    let broker = TestBroker::start().await;
    for endpoint in ["http://127.0.0.1:1", "127.0.0.1:1", "not an endpoint"] {
        let options = Options { endpoint: endpoint.into(), ..options(&broker, &broker.client) };
        let error = Client::connect(options).await.unwrap_err();
        assert!(matches!(error, Error::Endpoint(_)), "{error}");
    }
}
