//! Brokers that die while they rotate: the rotation is completed, or the old version stays good; no version is left over
//! and nobody's login fails.

use std::path::Path;
use std::process::Command;

use keyferry_broker::failpoints::Point;
use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::{ListRotationsRequest, Rotation, RotationState};
use keyferry_tests::broker::endpoint;
use keyferry_tests::pki::{Ca, Issued};
use keyferry_tests::postgres::Cluster;
use keyferry_tests::process::Process;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::reload::eventually;
use crate::rotation::{add, enabled, list, prepare_rotations, read, rotate};
use crate::rotation_login::{CONFIGURATION as LOGIN, Credential, SECRET as LOGIN_SECRET, make_users};

/// CI takes fewer than a release does.
fn rounds() -> usize {
    std::env::var("KF_TEST_DEATHS").map_or(1, |rounds| rounds.parse().unwrap())
}

const GENERATED: [&str; 2] = ["stores/local/secrets/api-key", "stores/second/secrets/api-key"];
const EXTERNAL: &str = "stores/local/secrets/external";

const ROTATIONS: &str = r#"
[rotations.api-key]
targets = ["stores/local/secrets/api-key", "stores/second/secrets/api-key"]
kind = "generate"
retire_after = "1s"

[rotations.external]
targets = ["stores/local/secrets/external"]
kind = "external"
retire_after = "1s"
"#;

struct Scene {
    ca: Ca,
    operator: Issued,
    directory: TempDir,
}

impl Scene {
    fn new(more: &str) -> Self {
        let (ca, directory) = (Ca::new("test CA"), TempDir::new().unwrap());
        prepare_rotations(directory.path(), &ca, &format!("{ROTATIONS}{more}"));
        Self { operator: ca.client("operator"), ca, directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    async fn channel(&self, broker: &Process) -> Channel {
        endpoint(broker.grpc().port(), self.operator.client_tls(&self.ca)).connect().await.unwrap()
    }

    /// A broker that dies at the point, while it rotates the secret.
    async fn dies(&self, point: Point, secret: &str, meanwhile: impl AsyncFnOnce(Channel)) {
        let mut program = Command::new(env!("CARGO_BIN_EXE_failing"));
        let mut broker = Process::start(program.arg(self.path()).arg(format!("{point:?}")));
        let channel = self.channel(&broker).await;
        // It may die before it answers.
        let _ = rotate(&mut RotationServiceClient::new(channel.clone()), secret).await;
        meanwhile(channel).await;
        eventually(&format!("it dies at {point:?}"), || std::future::ready(broker.has_ended())).await;
    }

    /// A broker that lives takes over, and nothing is left to be done.
    async fn recovers(&self) -> (Process, Channel, Vec<Rotation>) {
        let broker = Process::serve(self.path());
        let channel = self.channel(&broker).await;
        let client = RotationServiceClient::new(channel.clone());
        eventually("every rotation has ended well", async || {
            // One that has just started may not know them yet.
            let listed = client.clone().list_rotations(ListRotationsRequest::default()).await;
            let is_over = |rotation: &Rotation| rotation.state() == RotationState::Retired;
            listed.is_ok_and(|answer| answer.into_inner().rotations.iter().all(is_over))
        })
        .await;
        let rotations = list(&mut client.clone()).await;
        (broker, channel, rotations)
    }
}

fn applies(point: Point, is_generated: bool, has_login: bool) -> bool {
    use Point as P;
    match point {
        P::RotationBegun | P::RotationDigested | P::RotationAdded | P::RotationCreated => is_generated,
        P::RotationAdmitted | P::RotationProved | P::RotationExpelled => has_login,
        P::RotationSet
        | P::RotationTested
        | P::RotationCurrent
        | P::RotationRetiring
        | P::RotationDisabled
        | P::RotationRetired => true,
        P::MintBegun
        | P::MintPending
        | P::MintCreated
        | P::MintActive
        | P::RenewExtended
        | P::RevokeBegun
        | P::RevokeRemoved
        | P::RevokeEnded => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_at_any_step_of_a_generated_value_completes_the_rotation() {
    let scene = Scene::new("");
    let (broker, channel, _) = scene.recovers().await;
    for target in GENERATED {
        add(&mut SecretServiceClient::new(channel.clone()), target, b"old").await;
    }
    broker.kill();
    let (mut deaths, mut value) = (0, b"old".to_vec());
    for _ in 0..rounds() {
        for point in Point::OF_ROTATIONS.into_iter().filter(|point| applies(*point, true, false)) {
            scene.dies(point, GENERATED[0], async |_| {}).await;
            let (broker, channel, rotations) = scene.recovers().await;
            let mut secrets = SecretServiceClient::new(channel);
            let new = read(&mut secrets, GENERATED[0]).await.unwrap();
            assert_ne!(new, value, "{point:?}");
            assert_eq!(read(&mut secrets, GENERATED[1]).await.unwrap(), new, "{point:?}");
            for (target, secret) in rotations[0].targets.iter().zip(GENERATED) {
                assert_eq!(
                    enabled(&mut secrets, secret).await,
                    std::slice::from_ref(&target.version),
                    "{point:?}: no strays"
                );
            }
            value = new;
            deaths += 1;
            broker.kill();
        }
    }
    println!("{deaths} deaths of a generated value's rotation, each completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_at_any_step_of_an_external_rotation_completes_it() {
    let scene = Scene::new("");
    let (broker, channel, _) = scene.recovers().await;
    add(&mut SecretServiceClient::new(channel), EXTERNAL, b"old").await;
    broker.kill();
    let mut deaths = 0;
    for round in 0..rounds() {
        for point in Point::OF_ROTATIONS.into_iter().filter(|point| applies(*point, false, false)) {
            let value = format!("{round} {point:?}").into_bytes();
            let added = value.clone();
            scene
                .dies(point, EXTERNAL, async |channel| {
                    add(&mut SecretServiceClient::new(channel), EXTERNAL, &added).await;
                })
                .await;
            let (broker, channel, rotations) = scene.recovers().await;
            let mut secrets = SecretServiceClient::new(channel);
            assert_eq!(read(&mut secrets, EXTERNAL).await.unwrap(), value);
            assert_eq!(
                enabled(&mut secrets, EXTERNAL).await,
                std::slice::from_ref(&rotations[0].targets[0].version),
                "{point:?}"
            );
            deaths += 1;
            broker.kill();
        }
    }
    println!("{deaths} deaths of an external rotation, each completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_at_any_step_of_a_login_completes_the_rotation_and_no_login_fails() {
    let ca = Ca::new("test CA");
    let cluster = Cluster::start(&ca);
    make_users(&cluster);
    let directory = TempDir::new().unwrap();
    prepare_rotations(directory.path(), &ca, &format!("{}{LOGIN}", cluster.configuration()));
    let scene = Scene { operator: ca.client("operator"), ca, directory };
    let (broker, channel, _) = scene.recovers().await;
    add(&mut SecretServiceClient::new(channel), LOGIN_SECRET, &Credential::first().json()).await;
    broker.kill();
    let (mut deaths, mut old) = (0, Credential::first());
    for _ in 0..rounds() {
        for point in Point::OF_ROTATIONS {
            scene.dies(point, LOGIN_SECRET, async |_| {}).await;
            let (broker, channel, rotations) = scene.recovers().await;
            let mut secrets = SecretServiceClient::new(channel);
            let new = Credential::read(&read(&mut secrets, LOGIN_SECRET).await.unwrap());
            assert!(new.logs_in(&cluster), "{point:?}");
            assert!(new.user != old.user && !old.logs_in(&cluster), "{point:?}: the old one has ended");
            assert_eq!(
                enabled(&mut secrets, LOGIN_SECRET).await,
                std::slice::from_ref(&rotations[0].targets[0].version)
            );
            old = new;
            deaths += 1;
            broker.kill();
        }
    }
    println!("{deaths} deaths of a login's rotation, each completed");
}
