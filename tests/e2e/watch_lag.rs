//! Whoever reads so slowly that the log goes on without it is told so.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyferry_broker::clock::SystemClock;
use keyferry_broker::names::SecretName;
use keyferry_broker::rotation::{Fact, Observation, Origin, VersionMark};
use keyferry_broker::secrets::VersionState;
use keyferry_proto::v1::RotationResyncReason;
use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::watch_rotations_response::Response;
use keyferry_tests::broker::{TestBroker, endpoint};
use tokio::task::JoinSet;

use crate::watch::{EVERYTHING, Watcher, prefix};

const SECRETS: usize = 30;
/// Far more than the kernel, both ends' HTTP/2 and the backlog hold together.
const VERSIONS: u64 = 150;

/// The next version of each secret, put on record as a store's event would.
async fn add_to_all(broker: &TestBroker, version: u64) {
    let mut added = JoinSet::new();
    for secret in 0..SECRETS {
        let log = broker.broker.parts().rotation.clone();
        let secret = SecretName::parse(&format!("stores/local/secrets/s{secret}")).unwrap();
        let mark = VersionMark { id: version.to_string().into(), created: None, state: VersionState::Enabled };
        let observation = Observation { fact: Fact::VersionAdded(mark), origin: Origin::PubSub, happened: None };
        added.spawn(async move { log.observe(&secret, &observation).await.unwrap() });
    }
    added.join_all().await;
}

/// Of a version's name.
fn parts(version: &str) -> (&str, u64) {
    let (secret, number) = version.rsplit_once("/versions/").unwrap();
    (secret, number.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_falls_behind_the_backlog_hears_that_it_lagged_and_then_how_things_are() {
    let broker = TestBroker::with("[limits]\nwatch_backlog = 100\n", Arc::new(SystemClock)).await;
    add_to_all(&broker, 1).await;
    let address = endpoint(broker.broker.grpc_address().port(), broker.client.client_tls(&broker.ca));
    let channel = address.initial_stream_window_size(1024).connect().await.unwrap();
    let mut client = RotationServiceClient::new(channel);
    let mut watch = Watcher::open_with(&mut client, prefix(EVERYTHING)).await.unwrap();
    assert_eq!(watch.snapshot().await.len(), SECRETS);
    for version in 2..=VERSIONS {
        add_to_all(&broker, version).await;
    }

    let mut told: BTreeMap<String, u64> = BTreeMap::new();
    let why = loop {
        match watch.past_bookmarks().await {
            Response::Events(batch) => {
                for event in batch.events {
                    let (secret, version) = parts(&event.version);
                    assert_eq!(told.insert(secret.to_owned(), version).unwrap_or(1) + 1, version, "of {secret}");
                }
            }
            Response::Resync(resync) => break resync.reason(),
            other @ (Response::Snapshot(_) | Response::Bookmark(_)) => panic!("{other:?} before the gap was told"),
        }
    };
    assert_eq!(why, RotationResyncReason::Lagged);
    assert!(told.values().all(|&version| version < VERSIONS), "it missed some: {told:?}");
    let entries = watch.snapshot().await;
    assert_eq!(entries.len(), SECRETS);
    assert!(entries.iter().all(|entry| parts(&entry.version).1 == VERSIONS), "{entries:?}");
    add_to_all(&broker, VERSIONS + 1).await;
    for _ in 0..SECRETS {
        assert_eq!(parts(&watch.event().await.version).1, VERSIONS + 1, "it goes on from there");
    }
    let (_, counts) = broker.broker.parts().watches.counts();
    assert!(counts.resyncs().any(|(why, count)| why.as_str() == "lagged" && count == 1));
}
