//! Those who run a secret hold its old version, until they say that they have the new one or the deadline passes.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyferry_broker::clock::SystemClock;
use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::watch_rotations_response::Response;
use keyferry_proto::v1::{
    AcknowledgeRotationRequest, Rotation, RotationEvent, RotationEventKind, RotationFilter, RotationState,
    WatchRotationsRequest, WatchRotationsResponse,
};
use keyferry_tests::broker::{TestBroker, prepare};
use keyferry_tests::doubles::secret_manager::{Method, SecretManager};
use keyferry_tests::etcd::EtcdCluster;
use keyferry_tests::pki::Ca;
use tempfile::TempDir;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::reload::eventually;
use crate::rotation::{FIRST, SECOND_TARGET, World, add, enabled, get, list, rotate, with_api_key};
use crate::secret_manager::{TOKEN, metadata_server, on_google};

type Client = RotationServiceClient<Channel>;

/// The subscriber `gateway` watches the secrets for as long as the stream is held.
pub(crate) async fn watch(client: &mut Client, secrets: &[&str]) -> Streaming<WatchRotationsResponse> {
    let names = secrets.iter().map(ToString::to_string).collect();
    let filter = RotationFilter { names, ..Default::default() };
    let request =
        WatchRotationsRequest { subscriber: "gateway".to_owned(), filter: Some(filter), ..Default::default() };
    client.watch_rotations(request).await.unwrap().into_inner()
}

pub(crate) async fn acknowledge(client: &mut Client, version: &str, rejection: &str) {
    let request = AcknowledgeRotationRequest {
        subscriber: "gateway".to_owned(),
        versions: vec![version.to_owned()],
        rejection: rejection.to_owned(),
    };
    client.acknowledge_rotation(request).await.unwrap();
}

/// Whether the old version was taken out of use before its deadline.
fn was_early(rotation: &Rotation) -> bool {
    let retired = rotation.steps.iter().find(|step| step.state() == RotationState::Retired).unwrap();
    let at = |time: Option<prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos)).unwrap();
    at(retired.reach_time) < at(rotation.retire_deadline_time)
}

/// Retiring, while `gateway` runs the old version of one target and the new one of the other.
async fn held() -> (World, Client, Streaming<WatchRotationsResponse>, Rotation) {
    let (world, mut client, _) = with_api_key("").await;
    let stream = watch(&mut client, &[FIRST, SECOND_TARGET]).await;
    acknowledge(&mut client, &format!("{FIRST}/versions/1"), "").await;
    let name = rotate(&mut client, FIRST).await.unwrap().name;
    let rotation = world.comes_to(&name, RotationState::Retiring).await;
    assert_eq!((rotation.acknowledged_count, rotation.pending_count), (0, 1), "a subscriber of both is one");
    acknowledge(&mut client, &rotation.targets[1].version, "").await;
    (world, client, stream, rotation)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_version_retires_early_once_its_last_holder_runs_the_new_one() {
    let (world, mut client, _stream, rotation) = held().await;
    acknowledge(&mut client, &rotation.targets[0].version, "").await;
    let told = get(&mut client, &rotation.name).await;
    assert_eq!((told.acknowledged_count, told.pending_count), (1, 0));
    world.clock.advance(Duration::from_secs(61));
    assert!(was_early(&world.comes_to(&rotation.name, RotationState::Retired).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_runs_a_newer_version_than_the_rotation_s_holds_nothing_back() {
    let (world, mut client, _stream, rotation) = held().await;
    let mut secrets = world.secrets().await;
    let newer = add(&mut secrets, FIRST, b"newer").await;
    acknowledge(&mut client, &newer, "").await;
    let told = get(&mut client, &rotation.name).await;
    assert_eq!((told.acknowledged_count, told.pending_count), (1, 0));
    world.clock.advance(Duration::from_secs(61));
    assert!(was_early(&world.comes_to(&rotation.name, RotationState::Retired).await));
    assert_eq!(enabled(&mut secrets, FIRST).await.len(), 2, "the rotation's own and the newer one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_version_stays_until_the_deadline_for_whoever_says_nothing_or_refuses() {
    let (world, mut client, _stream, rotation) = held().await;
    world.clock.advance(Duration::from_secs(1800));
    // The rotation is looked at because of it.
    acknowledge(&mut client, &rotation.targets[0].version, "no room for it").await;
    let told = get(&mut client, &rotation.name).await;
    assert_eq!((told.acknowledged_count, told.pending_count), (0, 1));
    world.clock.advance(Duration::from_secs(1801));
    assert!(!was_early(&world.comes_to(&rotation.name, RotationState::Retired).await));
}

/// For a caller `watcher`, who may watch and do as much more as is said.
fn let_watch(directory: &Path, more: &str) {
    let policy = format!(
        r#"permit (principal, action in [Keyferry::Action::"WatchRotations"{more}], resource)
        when {{ principal has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == "/watcher" }};"#
    );
    fs::write(directory.join("policy/watcher.cedar"), policy).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_not_read_a_secret_holds_nothing_back_by_watching_it() {
    let (world, mut client, _) = with_api_key("").await;
    let _stream = watch(&mut client, &[FIRST, SECOND_TARGET]).await;
    let watcher = world.broker.ca.client("watcher");
    let mut watching = RotationServiceClient::new(world.broker.channel(&watcher).await);
    let_watch(world.broker.path(), "");
    eventually("the policy is in force", async || world.broker.broker.parts().gate.policies().current().len() == 3)
        .await;
    let _watched = watch(&mut watching, &[FIRST, SECOND_TARGET]).await;
    acknowledge(&mut watching, &format!("{FIRST}/versions/1"), "").await;

    let name = rotate(&mut client, FIRST).await.unwrap().name;
    let rotation = world.comes_to(&name, RotationState::Retiring).await;
    assert_eq!((rotation.acknowledged_count, rotation.pending_count), (0, 1));
    let waits_for = async |count| get(&mut client.clone(), &name).await.pending_count == count;
    let_watch(world.broker.path(), r#", Keyferry::Action::"GetSecret""#);
    eventually("it may read, so it counts", async || waits_for(2).await).await;
    let_watch(world.broker.path(), "");
    eventually("it may not any more", async || waits_for(1).await).await;

    for target in &rotation.targets {
        acknowledge(&mut client, &target.version, "").await;
    }
    let told = get(&mut client, &name).await;
    assert_eq!((told.acknowledged_count, told.pending_count), (1, 0));
    world.clock.advance(Duration::from_secs(61));
    assert!(was_early(&world.comes_to(&name, RotationState::Retired).await));
}

const SHARED: &str = "stores/google/secrets/shared";

const ROTATION: &str = r#"
[rotations.shared]
targets = ["stores/google/secrets/shared"]
kind = "generate"
retire_after = "1h"
subscriber_grace = "0s"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rotation_asked_of_one_replica_reaches_subscribers_of_the_other_and_ends_by_their_word() {
    let (ca, etcd, google, metadata) =
        (Ca::new("test CA"), EtcdCluster::start(1), SecretManager::start().await, metadata_server().await);
    google.grant(TOKEN, &Method::ALL);
    google.create_secret(None, "shared", &[]);
    google.add_version(None, "shared", b"old");
    let broker = async |node: &str| {
        let (directory, node) = (TempDir::new().unwrap(), format!("[node]\nname = \"{node}\"\n"));
        let (state, store) = (etcd.configuration(), on_google(&google, &metadata));
        prepare(directory.path(), &ca, &format!("{state}{node}{store}{ROTATION}"));
        let_watch(directory.path(), "");
        TestBroker::start_in(directory, ca.clone(), Arc::new(SystemClock)).await
    };
    let brokers = [broker("one").await, broker("two").await];
    let watcher = ca.client("watcher");
    // Only one of them leads.
    for (asked, watched) in [(0, 1), (1, 0)] {
        let client = async |at: usize, who| RotationServiceClient::new(brokers[at].channel(who).await);
        // Says nothing, and would hold the old version back if it might read it.
        let _silent = watch(&mut client(watched, &watcher).await, &[SHARED]).await;
        let (mut asked, mut watched) =
            (client(asked, &brokers[asked].operator).await, client(watched, &brokers[watched].operator).await);
        let mut stream = watch(&mut watched, &[SHARED]).await;
        eventually("it starts", async || rotate(&mut asked.clone(), SHARED).await.is_ok()).await;
        let name = list(&mut asked).await.remove(0).name;
        let event = next_current(&mut stream).await;
        assert_eq!((&event.rotation, event.secret.as_str()), (&name, SHARED));
        acknowledge(&mut watched, &event.version, "").await;
        eventually("it has retired", async || get(&mut asked.clone(), &name).await.state() == RotationState::Retired)
            .await;
        assert!(was_early(&get(&mut asked, &name).await));
    }
}

async fn next_current(stream: &mut Streaming<WatchRotationsResponse>) -> RotationEvent {
    loop {
        let told = tokio::time::timeout(Duration::from_secs(30), stream.message()).await;
        let told = told.expect("told in time").unwrap().unwrap();
        let Some(Response::Events(batch)) = told.response else { continue };
        let current = |event: &RotationEvent| event.kind() == RotationEventKind::VersionCurrent;
        if let Some(event) = batch.events.into_iter().find(current) {
            return event;
        }
    }
}
