//! Rotations end to end: a new value in every store that shares the secret, and the old one out of use.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyferry_broker::clock::SharedClock;
use keyferry_broker::failpoints::{Failpoints, NoFailpoints, Point};
use keyferry_broker::providers::local::LocalKey;
use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::{
    AddSecretVersionRequest, CancelRotationRequest, GetRotationRequest, GetSecretRequest, ListRotationsRequest,
    ListSecretVersionsRequest, RetireRotationRequest, RotateSecretRequest, Rotation, RotationSource, RotationState,
    SecretVersion, SecretVersionState,
};
use keyferry_tests::broker::{TestBroker, prepare};
use keyferry_tests::clock::ManualClock;
use keyferry_tests::doubles::secret_manager::{Method, SecretManager};
use keyferry_tests::pki::Ca;
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use crate::reload::eventually;
use crate::secret_manager::{TOKEN, metadata_server, on_google};
use crate::status::refused;

type Rotations = RotationServiceClient<Channel>;
type Secrets = SecretServiceClient<Channel>;

/// A second store beside `local`.
pub(crate) const SECOND: &str = r#"
[stores.second]
kind = "local"
file = "second.redb"
key_file = "second.key"
"#;

const API_KEY: &str = r#"
[rotations.api-key]
targets = ["stores/local/secrets/api-key", "stores/second/secrets/api-key"]
kind = "generate"
form = "hex"
retire_after = "1h"
"#;

pub(crate) struct World {
    pub(crate) broker: TestBroker,
    pub(crate) clock: Arc<ManualClock>,
}

impl World {
    pub(crate) async fn new(more: &str) -> Self {
        Self::failing(more, Arc::new(NoFailpoints)).await
    }

    async fn failing(more: &str, failpoints: Arc<dyn Failpoints>) -> Self {
        let (directory, ca) = (TempDir::new().unwrap(), Ca::new("test CA"));
        prepare_rotations(directory.path(), &ca, more);
        let clock = Arc::new(ManualClock::new());
        let broker = TestBroker::start_failing(directory, ca, Arc::clone(&clock) as SharedClock, failpoints).await;
        Self { broker, clock }
    }

    pub(crate) async fn rotations(&self) -> Rotations {
        RotationServiceClient::new(self.broker.channel(&self.broker.operator).await)
    }

    pub(crate) async fn secrets(&self) -> Secrets {
        self.broker.secrets(&self.broker.operator).await
    }

    async fn restart(self) -> Self {
        self.restart_after(Duration::ZERO).await
    }

    async fn restart_after(self, outage: Duration) -> Self {
        let Self { broker: TestBroker { broker, directory, ca, .. }, clock } = self;
        broker.stop().await;
        clock.advance(outage);
        let broker = TestBroker::start_in(directory, ca, Arc::clone(&clock) as SharedClock).await;
        Self { broker, clock }
    }

    /// Until it is in the state.
    pub(crate) async fn comes_to(&self, name: &str, state: RotationState) -> Rotation {
        let client = self.rotations().await;
        eventually(&format!("{name} is {state:?}"), async || {
            // Backoff counts on the broker's clock.
            self.clock.advance(Duration::from_millis(20));
            get(&mut client.clone(), name).await.state() == state
        })
        .await;
        get(&mut client.clone(), name).await
    }
}

/// With a key for the second store.
pub(crate) fn prepare_rotations(directory: &Path, ca: &Ca, more: &str) {
    prepare(directory, ca, &format!("{SECOND}{more}"));
    LocalKey::generate_file(&directory.join("second.key")).unwrap();
}

pub(crate) async fn add(client: &mut Secrets, secret: &str, payload: &[u8]) -> String {
    let request = AddSecretVersionRequest {
        parent: secret.to_owned(),
        payload: payload.to_vec().into(),
        allow_missing: true,
        ..Default::default()
    };
    client.add_secret_version(request).await.unwrap().into_inner().version.unwrap().name
}

pub(crate) async fn read(client: &mut Secrets, name: &str) -> Result<Vec<u8>, Status> {
    let request = GetSecretRequest { name: name.to_owned(), ..Default::default() };
    Ok(client.get_secret(request).await?.into_inner().payload.to_vec())
}

pub(crate) async fn versions(client: &mut Secrets, secret: &str) -> Vec<SecretVersion> {
    let request = ListSecretVersionsRequest { parent: secret.to_owned(), page_size: 1000, ..Default::default() };
    client.list_secret_versions(request).await.unwrap().into_inner().versions
}

pub(crate) async fn enabled(client: &mut Secrets, secret: &str) -> Vec<String> {
    let versions = versions(client, secret).await.into_iter();
    versions.filter(|version| version.state() == SecretVersionState::Enabled).map(|version| version.name).collect()
}

fn order(secret: &str) -> RotateSecretRequest {
    RotateSecretRequest { name: secret.to_owned(), ..Default::default() }
}

pub(crate) async fn rotate(client: &mut Rotations, secret: &str) -> Result<Rotation, Status> {
    Ok(client.rotate_secret(order(secret)).await?.into_inner().rotation.unwrap())
}

pub(crate) async fn get(client: &mut Rotations, name: &str) -> Rotation {
    let request = GetRotationRequest { name: name.to_owned() };
    client.get_rotation(request).await.unwrap().into_inner().rotation.unwrap()
}

pub(crate) async fn list(client: &mut Rotations) -> Vec<Rotation> {
    client.list_rotations(ListRotationsRequest::default()).await.unwrap().into_inner().rotations
}

pub(crate) async fn cancel(client: &mut Rotations, name: &str) -> Result<Rotation, Status> {
    let request = CancelRotationRequest { name: name.to_owned(), ..Default::default() };
    Ok(client.cancel_rotation(request).await?.into_inner().rotation.unwrap())
}

pub(crate) async fn retire(client: &mut Rotations, name: &str) -> Result<Rotation, Status> {
    let request = RetireRotationRequest { name: name.to_owned(), ..Default::default() };
    Ok(client.retire_rotation(request).await?.into_inner().rotation.unwrap())
}

pub(crate) const FIRST: &str = "stores/local/secrets/api-key";
pub(crate) const SECOND_TARGET: &str = "stores/second/secrets/api-key";

pub(crate) async fn with_api_key(more: &str) -> (World, Rotations, Secrets) {
    let world = World::new(&format!("{API_KEY}{more}")).await;
    let (rotations, mut secrets) = (world.rotations().await, world.secrets().await);
    for target in [FIRST, SECOND_TARGET] {
        add(&mut secrets, target, b"old").await;
    }
    (world, rotations, secrets)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_gives_all_targets_the_new_value_and_retires_the_old_at_the_deadline() {
    let (world, mut rotations, mut secrets) = with_api_key("").await;
    let begun = rotate(&mut rotations, SECOND_TARGET).await.unwrap();
    assert_eq!((begun.secret.as_str(), begun.source()), (SECOND_TARGET, RotationSource::Operator));
    assert!(begun.initiator.ends_with("/operator"), "{}", begun.initiator);
    let retiring = world.comes_to(&begun.name, RotationState::Retiring).await;
    let new = read(&mut secrets, FIRST).await.unwrap();
    assert_eq!(read(&mut secrets, SECOND_TARGET).await.unwrap(), new);
    assert_eq!(new.len(), 64);
    for target in &retiring.targets {
        assert_eq!(read(&mut secrets, &target.version).await.unwrap(), new);
        assert_eq!(read(&mut secrets, &target.previous_version).await.unwrap(), b"old", "until the deadline");
    }
    let passed: Vec<_> = retiring.steps.iter().map(keyferry_proto::v1::RotationStep::state).collect();
    use RotationState as S;
    assert_eq!(passed, [S::Planned, S::Created, S::Set, S::Tested, S::Current, S::Retiring]);
    assert!(retiring.last_error.is_none() && retiring.revision > 0 && !retiring.epoch.is_empty());

    world.clock.advance(Duration::from_secs(3601));
    let retired = world.comes_to(&begun.name, RotationState::Retired).await;
    for target in &retired.targets {
        assert_eq!(refused(read(&mut secrets, &target.previous_version).await), "VERSION_DISABLED");
        assert_eq!(enabled(&mut secrets, &target.secret).await, std::slice::from_ref(&target.version));
    }
    assert_eq!(read(&mut secrets, FIRST).await.unwrap(), new);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_retires_a_leaked_value_at_once_and_hears_first_whom_that_hits() {
    let (world, mut rotations, mut secrets) = with_api_key("").await;
    let name = rotate(&mut rotations, FIRST).await.unwrap().name;
    world.comes_to(&name, RotationState::Retiring).await;
    let rehearsal = RetireRotationRequest { name: name.clone(), validate_only: true, ..Default::default() };
    let told = rotations.retire_rotation(rehearsal).await.unwrap().into_inner().rotation.unwrap();
    assert_eq!((told.state(), told.pending_count), (RotationState::Retiring, 0));
    let retired = retire(&mut rotations, &name).await.unwrap();
    assert_eq!(retired.state(), RotationState::Retired);
    assert_eq!(enabled(&mut secrets, FIRST).await.len(), 1);
    assert_eq!(retire(&mut rotations, &name).await.unwrap().state(), RotationState::Retired, "again");
    assert_eq!(refused(cancel(&mut rotations, &name).await), "ROTATION_STATE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rotation_makes_another_value() {
    let (world, mut rotations, mut secrets) = with_api_key("").await;
    let mut versions = BTreeSet::new();
    for round in 0..3 {
        let name = rotate(&mut rotations, FIRST).await.unwrap().name;
        world.comes_to(&name, RotationState::Retiring).await;
        assert!(versions.insert(read(&mut secrets, FIRST).await.unwrap()), "round {round}");
        retire(&mut rotations, &name).await.unwrap();
    }
    assert_eq!(list(&mut rotations).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_in_the_way_of_a_rotation_is_told() {
    let closed = r#"
[rotations.closed]
targets = ["stores/local/secrets/closed"]
kind = "generate"
window = "WINDOW"
"#;
    // Far from now, whatever the hour is.
    let hour = (keyferry_broker::clock::Clock::now(&keyferry_broker::clock::SystemClock).as_secs() / 3600 + 12) % 24;
    let window = format!("{hour:02}:00-{hour:02}:30");
    let (world, mut rotations, mut secrets) = with_api_key(&closed.replace("WINDOW", &window)).await;
    let closed = "stores/local/secrets/closed";
    add(&mut secrets, closed, b"old").await;
    add(&mut secrets, "stores/local/secrets/other", b"x").await;
    let refusal = async |secret: &str| refused(rotate(&mut rotations.clone(), secret).await);
    assert_eq!(refusal("stores/local/secrets/other").await, "ROTATION_NOT_CONFIGURED");
    assert_eq!(refusal("stores/local/secrets/absent").await, "SECRET_NOT_FOUND");
    assert_eq!(refusal("stores/none/secrets/absent").await, "SECRET_NOT_FOUND");
    assert_eq!(refusal("stores/local").await, "INVALID_NAME");
    assert_eq!(refusal("").await, "INVALID_NAME");
    assert_eq!(refusal(closed).await, "ROTATION_STATE");
    let long = RotateSecretRequest { justification: "x".repeat(257), ..order(FIRST) };
    assert_eq!(refused(rotations.rotate_secret(long).await), "INVALID_ARGUMENT");
    for name in ["rotations/0123", "rotations/x", ""] {
        let reason = if name == "rotations/0123" { "ROTATION_NOT_FOUND" } else { "INVALID_NAME" };
        let request = GetRotationRequest { name: name.to_owned() };
        assert_eq!(refused(rotations.get_rotation(request).await), reason);
        assert_eq!(refused(cancel(&mut rotations, name).await), reason);
        assert_eq!(refused(retire(&mut rotations, name).await), reason);
    }

    let rehearsal = RotateSecretRequest { validate_only: true, ..order(FIRST) };
    let plan = rotations.rotate_secret(rehearsal.clone()).await.unwrap().into_inner().rotation.unwrap();
    assert_eq!((plan.name.as_str(), plan.targets.len()), ("", 2));
    assert!(plan.targets.iter().all(|target| target.previous_version.ends_with("/versions/1")), "{plan:?}");
    assert!(list(&mut rotations).await.is_empty(), "nothing was started");
    assert_eq!(enabled(&mut secrets, FIRST).await.len(), 1);

    let running = rotate(&mut rotations, FIRST).await.unwrap().name;
    let status = rotate(&mut rotations, SECOND_TARGET).await.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.metadata["rotation"].as_str()), ("ROTATION_IN_PROGRESS", running.as_str()));
    assert_eq!(refused(rotations.rotate_secret(rehearsal).await), "ROTATION_IN_PROGRESS");
    world.comes_to(&running, RotationState::Retiring).await;
    assert_eq!(refused(rotate(&mut rotations, FIRST).await), "ROTATION_IN_PROGRESS");
    let forced = RotateSecretRequest { force: true, ..order(FIRST) };
    let forced = rotations.rotate_secret(forced).await.unwrap().into_inner().rotation.unwrap();
    assert_eq!(get(&mut rotations, &running).await.state(), RotationState::Retired);
    world.comes_to(&forced.name, RotationState::Retiring).await;
    let forced = RotateSecretRequest { force: true, ..order(closed) };
    let forced = rotations.rotate_secret(forced).await.unwrap().into_inner().rotation.unwrap();
    world.comes_to(&forced.name, RotationState::Retiring).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_rotate_learns_nothing() {
    let (world, mut rotations, _) = with_api_key("").await;
    let name = rotate(&mut rotations, FIRST).await.unwrap().name;
    let mut client = RotationServiceClient::new(world.broker.channel(&world.broker.client).await);
    for secret in [FIRST, "stores/local/secrets/absent"] {
        assert_eq!(refused(rotate(&mut client, secret).await), "ACCESS_DENIED");
    }
    for name in [name.as_str(), "rotations/0123"] {
        let request = GetRotationRequest { name: name.to_owned() };
        assert_eq!(refused(client.get_rotation(request).await), "ROTATION_NOT_FOUND");
        assert_eq!(refused(cancel(&mut client, name).await), "ROTATION_NOT_FOUND");
        assert_eq!(refused(retire(&mut client, name).await), "ROTATION_NOT_FOUND");
    }
    assert!(list(&mut client).await.is_empty());
    world.comes_to(&name, RotationState::Retiring).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_are_listed_newest_first_a_page_at_a_time_and_outlive_a_restart() {
    let (world, mut rotations, _) = with_api_key("").await;
    let mut names = Vec::new();
    for _ in 0..5 {
        let name = rotate(&mut rotations, FIRST).await.unwrap().name;
        world.comes_to(&name, RotationState::Retiring).await;
        names.insert(0, name);
        if names.len() < 5 {
            retire(&mut rotations, &names[0]).await.unwrap();
        }
    }
    let world = world.restart().await;
    let mut rotations = world.rotations().await;
    let client = rotations.clone();
    eventually("the rotations are known", async || {
        client.clone().list_rotations(ListRotationsRequest::default()).await.is_ok()
    })
    .await;
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListRotationsRequest { page_size: 2, page_token, ..Default::default() };
        let page = rotations.list_rotations(request).await.unwrap().into_inner();
        assert!(page.rotations.len() <= 2);
        listed.extend(page.rotations.into_iter().map(|rotation| rotation.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, names);
    let retiring = ListRotationsRequest { states: vec![RotationState::Retiring.into()], ..Default::default() };
    let found = rotations.list_rotations(retiring).await.unwrap().into_inner().rotations;
    assert_eq!(found.iter().map(|rotation| &rotation.name).collect::<Vec<_>>(), [&names[0]]);
    let other = ListRotationsRequest { secret: "stores/local/secrets/other".into(), ..Default::default() };
    assert!(rotations.list_rotations(other).await.unwrap().into_inner().rotations.is_empty());
    let strange = ListRotationsRequest { page_token: "strange".into(), ..Default::default() };
    assert_eq!(refused(rotations.list_rotations(strange).await), "INVALID_PAGE_TOKEN");
    assert_eq!(retire(&mut rotations, &names[0]).await.unwrap().state(), RotationState::Retired);
}

/// Stops the rotation at a point until told to go on.
#[derive(Debug)]
struct Gate {
    at: Point,
    reached: SyncSender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Failpoints for Gate {
    fn reach(&self, point: Point) {
        if point == self.at {
            let _ = self.reached.send(());
            let _ = self.go_on.lock().unwrap().recv();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rotation_cancelled_before_it_is_current_leaves_the_old_version_and_disables_its_own() {
    for at in [Point::RotationDigested, Point::RotationAdded, Point::RotationCreated, Point::RotationTested] {
        let ((reached, stopped), (go_on, told)) = (sync_channel(16), sync_channel(16));
        let gate = Arc::new(Gate { at, reached, go_on: Mutex::new(told) });
        let world = World::failing(API_KEY, gate).await;
        let (mut rotations, mut secrets) = (world.rotations().await, world.secrets().await);
        for target in [FIRST, SECOND_TARGET] {
            add(&mut secrets, target, b"old").await;
        }
        let name = rotate(&mut rotations, FIRST).await.unwrap().name;
        tokio::task::spawn_blocking(move || stopped.recv().unwrap()).await.unwrap();
        let mut canceller = rotations.clone();
        let cancelled = tokio::spawn({
            let name = name.clone();
            async move { cancel(&mut canceller, &name).await.unwrap() }
        });
        world.comes_to(&name, RotationState::Cancelled).await;
        // From now on it stops nowhere.
        drop(go_on);
        assert_eq!(cancelled.await.unwrap().state(), RotationState::Cancelled);
        eventually("its versions are disabled", async || {
            world.clock.advance(Duration::from_millis(20));
            let mut secrets = secrets.clone();
            enabled(&mut secrets, FIRST).await.len() == 1 && enabled(&mut secrets, SECOND_TARGET).await.len() == 1
        })
        .await;
        for target in [FIRST, SECOND_TARGET] {
            assert_eq!(read(&mut secrets, &format!("{target}/versions/1")).await.unwrap(), b"old", "{at:?}");
            assert_eq!(read(&mut secrets, target).await.unwrap(), b"old", "{at:?}");
        }
        assert_eq!(cancel(&mut rotations, &name).await.unwrap().state(), RotationState::Cancelled, "again");
        assert_eq!(refused(retire(&mut rotations, &name).await), "ROTATION_STATE");
        eventually("another can begin", async || rotate(&mut rotations.clone(), FIRST).await.is_ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_cancelled_once_it_is_current_keeps_both_versions() {
    let (world, mut rotations, mut secrets) = with_api_key("").await;
    let name = rotate(&mut rotations, FIRST).await.unwrap().name;
    let retiring = world.comes_to(&name, RotationState::Retiring).await;
    assert_eq!(cancel(&mut rotations, &name).await.unwrap().state(), RotationState::Cancelled);
    world.clock.advance(Duration::from_secs(7200));
    let next = rotate(&mut rotations, FIRST).await.unwrap();
    assert_eq!(next.targets[0].previous_version, retiring.targets[0].version);
    assert_eq!(read(&mut secrets, &retiring.targets[0].previous_version).await.unwrap(), b"old");
    world.comes_to(&next.name, RotationState::Retiring).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_rotation_waits_for_somebody_to_add_the_same_value_to_all_targets() {
    let external = API_KEY.replace("kind = \"generate\"\nform = \"hex\"", "kind = \"external\"");
    let world = World::new(&external).await;
    let (mut rotations, mut secrets) = (world.rotations().await, world.secrets().await);
    for target in [FIRST, SECOND_TARGET] {
        add(&mut secrets, target, b"old").await;
    }
    let name = rotate(&mut rotations, FIRST).await.unwrap().name;
    add(&mut secrets, FIRST, b"new").await;
    add(&mut secrets, SECOND_TARGET, b"another").await;
    let client = rotations.clone();
    eventually("it says what is wrong", async || {
        world.clock.advance(Duration::from_secs(1));
        get(&mut client.clone(), &name).await.last_error.is_some()
    })
    .await;
    assert_eq!(get(&mut rotations, &name).await.state(), RotationState::Planned);
    add(&mut secrets, SECOND_TARGET, b"new").await;
    eventually("it goes on", async || {
        world.clock.advance(Duration::from_secs(1));
        get(&mut client.clone(), &name).await.state() == RotationState::Retiring
    })
    .await;
    let retired = retire(&mut rotations, &name).await.unwrap();
    assert_eq!(retired.state(), RotationState::Retired);
    assert_eq!(enabled(&mut secrets, FIRST).await, std::slice::from_ref(&retired.targets[0].version));
}

/// Tells how far the schedules were looked at. Its name is the last of them.
const WITNESS: &str = r#"
[rotations.witness]
targets = ["stores/local/secrets/witness"]
kind = "generate"
every = "1m"
retire_after = "1s"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduled_rotation_starts_when_it_is_due_and_is_caught_up_once() {
    let world = World::new(&format!("{API_KEY}every = \"6h\"\n{WITNESS}")).await;
    let mut secrets = world.secrets().await;
    for target in [FIRST, SECOND_TARGET, "stores/local/secrets/witness"] {
        add(&mut secrets, target, b"old").await;
    }
    // A schedule counts from when it was first seen.
    assert_eq!(scheduled(&world).await.len(), 0);
    world.clock.advance(Duration::from_secs(5 * 3600));
    assert_eq!(scheduled(&world).await.len(), 0, "not due");
    world.clock.advance(Duration::from_secs(3600));
    let first = scheduled(&world).await.remove(0);
    assert_eq!((first.source(), first.initiator.as_str()), (RotationSource::Schedule, ""));
    world.comes_to(&first.name, RotationState::Retiring).await;

    // Four runs are missed while the broker is down; its deadline passed as well.
    let world = world.restart_after(Duration::from_secs(25 * 3600)).await;
    let ended = world.comes_to(&first.name, RotationState::Retired).await;
    assert!(ended.last_error.is_none());
    let names = scheduled(&world).await.into_iter().map(|rotation| rotation.name).collect::<Vec<_>>();
    assert_eq!((names.len(), &names[1]), (2, &first.name), "one makes up for all");
}

/// The rotations of the other schedule, after it was looked at: whoever starts the witness twice has, between the two,
/// gone through all schedules.
async fn scheduled(world: &World) -> Vec<Rotation> {
    let client = world.rotations().await;
    let of = async |secret: &str| {
        let request = ListRotationsRequest { secret: secret.to_owned(), page_size: 1000, ..Default::default() };
        // A broker that has just started does not know yet.
        client.clone().list_rotations(request).await.map(|answer| answer.into_inner().rotations)
    };
    let runs = async || of("stores/local/secrets/witness").await.map(|rotations| rotations.len());
    eventually("the rotations are known", async || runs().await.is_ok()).await;
    let before = runs().await.unwrap();
    eventually("the schedules were looked at", async || {
        world.clock.advance(Duration::from_secs(1));
        runs().await.is_ok_and(|count| count >= before + 2)
    })
    .await;
    of(FIRST).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_takes_no_version_fails_the_rotation_and_the_old_value_stays_good_in_all() {
    let (google, metadata) = (SecretManager::start().await, metadata_server().await);
    let powers: Vec<_> = Method::ALL.into_iter().filter(|method| *method != Method::AddSecretVersion).collect();
    google.grant(TOKEN, &powers);
    google.create_secret(None, "api-key", &[]);
    google.add_version(None, "api-key", b"old");
    let rotation = API_KEY.replace("stores/second", "stores/google").replace("1h", "1h\"\ngive_up_after = \"60s");
    let world = World::new(&format!("{}{rotation}", on_google(&google, &metadata))).await;
    let (mut rotations, mut secrets) = (world.rotations().await, world.secrets().await);
    add(&mut secrets, FIRST, b"old").await;
    let name = rotate(&mut rotations, FIRST).await.unwrap().name;
    let client = rotations.clone();
    eventually("the first store has it", async || versions(&mut secrets.clone(), FIRST).await.len() == 2).await;
    eventually("it says what is wrong", async || {
        world.clock.advance(Duration::from_millis(20));
        get(&mut client.clone(), &name).await.last_error.is_some()
    })
    .await;
    let places = [FIRST, "stores/google/secrets/api-key"];
    for place in places {
        assert_eq!(read(&mut secrets, place).await.unwrap(), b"old", "{place} meanwhile");
    }
    world.clock.advance(Duration::from_secs(61));
    let failed = world.comes_to(&name, RotationState::Failed).await;
    assert!(failed.last_error.is_some());
    eventually("what the first store took is disabled", async || {
        world.clock.advance(Duration::from_millis(20));
        enabled(&mut secrets.clone(), FIRST).await.len() == 1
    })
    .await;
    for place in places {
        assert_eq!(read(&mut secrets, place).await.unwrap(), b"old", "{place} at last");
    }

    google.grant(TOKEN, &Method::ALL);
    eventually("another succeeds", async || rotate(&mut rotations.clone(), FIRST).await.is_ok()).await;
    let name = list(&mut rotations).await.remove(0).name;
    world.comes_to(&name, RotationState::Retiring).await;
    assert_eq!(read(&mut secrets, places[0]).await.unwrap(), read(&mut secrets, places[1]).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_asked_for_twice_by_one_request_id_is_started_once() {
    let (world, mut rotations, mut secrets) = with_api_key("").await;
    let request = RotateSecretRequest { request_id: "5d5ac2c0-6f5e-4c7e-9f5e-0d2a6a1b7c3d".to_owned(), ..order(FIRST) };
    let started = rotations.rotate_secret(request.clone()).await.unwrap().into_inner().rotation.unwrap();
    world.comes_to(&started.name, RotationState::Retiring).await;
    let again = rotations.rotate_secret(request.clone()).await.unwrap().into_inner().rotation.unwrap();
    assert_eq!((&again.name, again.state()), (&started.name, RotationState::Retiring));
    for different in [
        RotateSecretRequest { justification: "another".to_owned(), ..request.clone() },
        RotateSecretRequest { name: SECOND_TARGET.to_owned(), ..request.clone() },
    ] {
        assert_eq!(refused(rotations.rotate_secret(different).await), "REQUEST_ID_CONFLICT");
    }
    let retire = RetireRotationRequest {
        name: started.name.clone(),
        request_id: request.request_id.clone(),
        ..Default::default()
    };
    assert_eq!(refused(rotations.retire_rotation(retire).await), "REQUEST_ID_CONFLICT");
    let nonsense = RotateSecretRequest { request_id: "x".to_owned(), ..order(FIRST) };
    assert_eq!(refused(rotations.rotate_secret(nonsense).await), "INVALID_ARGUMENT");
    assert_eq!(list(&mut rotations).await.len(), 1);
    assert_eq!(enabled(&mut secrets, FIRST).await.len(), 2);
}
