//! A rotation's versions are in nobody's hands before they are current: not while it runs, not when they come late.

use std::fs;
use std::time::Duration;

use keyferry_proto::v1::{DisableSecretVersionRequest, GetRotationRequest, GetStatusRequest, RotationState};
use keyferry_tests::doubles::http::Server;
use keyferry_tests::doubles::secret_manager::{Method, SecretManager};

use crate::admin::fetch;
use crate::reload::eventually;
use crate::rotation::{
    FIRST, SECOND_TARGET, World, cancel, enabled, get, list, read, retire, rotate, versions, with_api_key,
};
use crate::secret_manager::{TOKEN, metadata_server, on_google};
use crate::status::refused;

const SECRET: &str = "stores/google/secrets/api-key";

const ROTATION: &str = r#"
[rotations.api-key]
targets = ["stores/google/secrets/api-key"]
kind = "generate"
retire_after = "1h"
"#;

/// Longer than a store takes to carry out what it was asked for.
const LATENESS: Duration = Duration::from_secs(301);

/// Google's cloud, which serves until it is dropped.
struct Cloud {
    google: SecretManager,
    metadata: Server,
}

impl Cloud {
    async fn new() -> Self {
        let google = SecretManager::start().await;
        google.grant(TOKEN, &Method::ALL);
        google.create_secret(None, "api-key", &[]);
        Self { google, metadata: metadata_server().await }
    }

    fn configuration(&self) -> String {
        format!("{}{ROTATION}", on_google(&self.google, &self.metadata))
    }
}

/// A rotation whose additions were all put off so far, and what carries them out.
async fn unanswered(cloud: &Cloud) -> (World, String, impl FnOnce() + use<>) {
    cloud.google.add_version(None, "api-key", b"old");
    let world = World::new(&cloud.configuration()).await;
    let mut rotations = world.rotations().await;
    cloud.google.put_off_additions();
    let name = rotate(&mut rotations, SECRET).await.unwrap().name;
    eventually("an addition was not answered", async || get(&mut rotations.clone(), &name).await.last_error.is_some())
        .await;
    (world, name, cloud.google.take_additions())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_a_store_adds_after_the_rotation_was_cancelled_is_disabled_and_never_current() {
    let cloud = Cloud::new().await;
    let (world, name, carry_out) = unanswered(&cloud).await;
    let (mut rotations, mut secrets) = (world.rotations().await, world.secrets().await);
    assert_eq!(cancel(&mut rotations, &name).await.unwrap().state(), RotationState::Cancelled);
    assert_eq!(refused(rotate(&mut rotations, SECRET).await), "ROTATION_IN_PROGRESS", "one may still come");
    carry_out();
    assert_eq!(read(&mut secrets, SECRET).await.unwrap(), b"old", "once it has come");
    eventually("what came late is disabled", async || {
        assert_eq!(read(&mut secrets.clone(), SECRET).await.unwrap(), b"old");
        world.clock.advance(Duration::from_millis(100));
        enabled(&mut secrets.clone(), SECRET).await.len() == 1
    })
    .await;
    world.clock.advance(LATENESS);
    assert_eq!(read(&mut secrets, SECRET).await.unwrap(), b"old");
    eventually("another can begin", async || rotate(&mut rotations.clone(), SECRET).await.is_ok()).await;
    let name = list(&mut rotations).await.remove(0).name;
    world.comes_to(&name, RotationState::Retiring).await;
    assert_ne!(read(&mut secrets, SECRET).await.unwrap(), b"old");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_a_store_adds_after_another_became_current_is_disabled_and_never_current() {
    let cloud = Cloud::new().await;
    let (world, name, carry_out) = unanswered(&cloud).await;
    let (mut rotations, mut secrets) = (world.rotations().await, world.secrets().await);
    world.comes_to(&name, RotationState::Retiring).await;
    let new = read(&mut secrets, SECRET).await.unwrap();
    carry_out();
    let count = versions(&mut secrets, SECRET).await.len();
    assert!(count > 2, "{count}");
    eventually("what came late is disabled", async || {
        assert_eq!(read(&mut secrets.clone(), SECRET).await.unwrap(), new);
        world.clock.advance(Duration::from_millis(100));
        enabled(&mut secrets.clone(), SECRET).await.len() == 2
    })
    .await;
    let retired = retire(&mut rotations, &name).await.unwrap();
    world.clock.advance(LATENESS);
    world.comes_to(&retired.name, RotationState::Retired).await;
    assert_eq!(read(&mut secrets, SECRET).await.unwrap(), new);
    assert_eq!(enabled(&mut secrets, SECRET).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_whose_current_version_was_disabled_can_be_rotated() {
    let (world, mut rotations, mut secrets) = with_api_key("").await;
    let name = format!("{FIRST}/versions/1");
    secrets.disable_secret_version(DisableSecretVersionRequest { name, ..Default::default() }).await.unwrap();
    assert_eq!(refused(read(&mut secrets, FIRST).await), "VERSION_DISABLED");
    let name = rotate(&mut rotations, FIRST).await.unwrap().name;
    let retiring = world.comes_to(&name, RotationState::Retiring).await;
    assert!(retiring.targets[0].previous_version.ends_with("/versions/1"));
    let new = read(&mut secrets, FIRST).await.unwrap();
    assert_eq!(read(&mut secrets, SECOND_TARGET).await.unwrap(), new);

    let mut operator = world.broker.operations(&world.broker.operator).await;
    let status = operator.get_status(GetStatusRequest::default()).await.unwrap().into_inner().status.unwrap();
    let counts = status.rotations.unwrap();
    assert_eq!((counts.running_count, counts.retiring_count, counts.failed_count), (0, 1, 0));
    assert_eq!(counts.oldest_start_time, retiring.create_time);
    assert!(fetch(&world.broker, "/metrics").await.contains("keyferry_rotations{state=\"retiring\"} 1"));
    retire(&mut rotations, &name).await.unwrap();
    let status = operator.get_status(GetStatusRequest::default()).await.unwrap().into_inner().status.unwrap();
    assert_eq!(status.rotations.unwrap().oldest_start_time, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_not_touch_a_target_sees_none_of_it_and_stops_nothing() {
    let (world, mut rotations, _) = with_api_key("").await;
    let name = rotate(&mut rotations, FIRST).await.unwrap().name;
    world.comes_to(&name, RotationState::Retiring).await;
    let mut client = keyferry_proto::v1::rotation_service_client::RotationServiceClient::new(
        world.broker.channel(&world.broker.client).await,
    );
    let partial = format!(
        "@id(\"one-target\")\npermit (principal, action, resource == Keyferry::Secret::\"{FIRST}\")\n\
         when {{ principal has certificate && principal.certificate has spiffe && \
         principal.certificate.spiffe.path == \"/client\" }};\n"
    );
    fs::write(world.broker.path().join("policy/partial.cedar"), partial).unwrap();
    let request = GetRotationRequest { name: name.clone() };
    eventually("the policy holds", async || client.clone().get_rotation(request.clone()).await.is_ok()).await;
    for shown in [get(&mut client, &name).await, list(&mut client).await.remove(0)] {
        let targets: Vec<_> = shown.targets.iter().map(|target| target.secret.as_str()).collect();
        assert_eq!(targets, [FIRST]);
    }
    assert_eq!(refused(cancel(&mut client, &name).await), "ROTATION_NOT_FOUND");
    assert_eq!(refused(retire(&mut client, &name).await), "ROTATION_NOT_FOUND");
    let whole = get(&mut rotations, &name).await;
    assert_eq!((whole.state(), whole.targets.len()), (RotationState::Retiring, 2));
}
