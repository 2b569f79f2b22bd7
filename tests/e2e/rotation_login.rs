//! A PostgreSQL password rotated between two users: a login with the current one succeeds at every moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::{DisableSecretVersionRequest, RetireRotationRequest, RotationState};
use keyferry_tests::broker::TestBroker;
use keyferry_tests::clock::ManualClock;
use keyferry_tests::pki::Ca;
use keyferry_tests::postgres::Cluster;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::reload::eventually;
use crate::rotation::{add, cancel, enabled, get, list, prepare_rotations, read, rotate};

pub(crate) const SECRET: &str = "stores/local/secrets/app-login";

pub(crate) const CONFIGURATION: &str = r#"
[rotations.app-login]
targets = ["stores/local/secrets/app-login"]
kind = "postgres"
database = "shop"
users = ["app_a", "app_b"]
retire_after = "1s"
"#;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credential {
    pub(crate) user: String,
    password: String,
}

impl Credential {
    pub(crate) fn first() -> Self {
        Self { user: "app_a".into(), password: "first".into() }
    }

    pub(crate) fn json(&self) -> Vec<u8> {
        serde_json::json!({ "user": self.user, "password": self.password }).to_string().into_bytes()
    }

    pub(crate) fn read(value: &[u8]) -> Self {
        let value: serde_json::Value = serde_json::from_slice(value).unwrap();
        let text = |key: &str| value[key].as_str().unwrap().to_owned();
        Self { user: text("user"), password: text("password") }
    }

    pub(crate) fn logs_in(&self, cluster: &Cluster) -> bool {
        cluster.query(&self.user, &self.password, "shop", "SELECT 1").is_ok()
    }
}

/// `app_a` is in use.
pub(crate) fn make_users(cluster: &Cluster) {
    cluster.admin(
        "shop",
        "CREATE ROLE app_a LOGIN PASSWORD 'first'; CREATE ROLE app_b NOLOGIN;
         GRANT app_a, app_b TO keyferry WITH ADMIN OPTION; GRANT orders_read TO app_a, app_b",
    );
}

struct World {
    broker: TestBroker,
    cluster: Arc<Cluster>,
    clock: Arc<ManualClock>,
}

impl World {
    async fn new(configuration: &str) -> Self {
        let ca = Ca::new("test CA");
        let cluster = Cluster::start(&ca);
        make_users(&cluster);
        let directory = TempDir::new().unwrap();
        prepare_rotations(directory.path(), &ca, &format!("{}{configuration}", cluster.configuration()));
        let clock = Arc::new(ManualClock::new());
        let broker = TestBroker::start_in(directory, ca, Arc::clone(&clock) as _).await;
        Self { broker, cluster: Arc::new(cluster), clock }
    }

    async fn rotations(&self) -> RotationServiceClient<Channel> {
        RotationServiceClient::new(self.broker.channel(&self.broker.operator).await)
    }

    /// Follows one rotation to the state.
    async fn comes_to(&self, name: &str, state: RotationState) {
        let client = self.rotations().await;
        eventually(&format!("{name} is {state:?}"), async || {
            self.clock.advance(Duration::from_millis(20));
            get(&mut client.clone(), name).await.state() == state
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_login_with_the_current_credential_succeeds_at_every_moment_of_several_rotations() {
    let world = World::new(CONFIGURATION).await;
    let mut secrets = world.broker.secrets(&world.broker.operator).await;
    add(&mut secrets, SECRET, &Credential::first().json()).await;
    let (done, tried) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let prober = tokio::spawn({
        let (done, tried, cluster) = (Arc::clone(&done), Arc::clone(&tried), Arc::clone(&world.cluster));
        let mut secrets = secrets.clone();
        async move {
            let mut pace = tokio::time::interval(Duration::from_millis(50));
            while !done.load(Ordering::Relaxed) {
                pace.tick().await;
                let credential = Credential::read(&read(&mut secrets, SECRET).await.unwrap());
                let cluster = Arc::clone(&cluster);
                let (user, logged_in) = tokio::task::spawn_blocking(move || {
                    let logged_in = credential.logs_in(&cluster);
                    (credential.user, logged_in)
                })
                .await
                .unwrap();
                assert!(logged_in, "{user} could not log in");
                tried.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut rotations = world.rotations().await;
    let mut users = Vec::new();
    for _ in 0..4 {
        let before = tried.load(Ordering::Relaxed);
        let name = rotate(&mut rotations, SECRET).await.unwrap().name;
        world.comes_to(&name, RotationState::Retiring).await;
        let credential = Credential::read(&read(&mut secrets, SECRET).await.unwrap());
        users.push(credential.user.clone());
        eventually("somebody logged in meanwhile", async || tried.load(Ordering::Relaxed) > before + 2).await;
        world.comes_to(&name, RotationState::Retired).await;
    }
    done.store(true, Ordering::Relaxed);
    prober.await.unwrap();
    assert_eq!(users, ["app_b", "app_a", "app_b", "app_a"]);
    assert_eq!(enabled(&mut secrets, SECRET).await.len(), 1);
    assert!(!world.cluster.log_text().contains("password\":"), "statements carry verifiers only");
    println!("{} logins over 4 rotations", tried.load(Ordering::Relaxed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retired_login_is_shut_out_and_its_sessions_end() {
    let world = World::new(&CONFIGURATION.replace("1s", "1h")).await;
    let mut secrets = world.broker.secrets(&world.broker.operator).await;
    add(&mut secrets, SECRET, &Credential::first().json()).await;
    let mut rotations = world.rotations().await;
    let name = rotate(&mut rotations, SECRET).await.unwrap().name;
    world.comes_to(&name, RotationState::Retiring).await;
    let mut session = world.cluster.hold_session("app_a", "first");
    assert!(Credential::first().logs_in(&world.cluster), "until it retires");
    let request = RetireRotationRequest { name: name.clone(), ..Default::default() };
    let retired = rotations.retire_rotation(request).await.unwrap().into_inner().rotation.unwrap();
    assert_eq!(retired.state(), RotationState::Retired);
    assert!(!Credential::first().logs_in(&world.cluster));
    assert!(!tokio::task::spawn_blocking(move || session.wait().unwrap().success()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_out_or_refuses_keeps_the_old_credential() {
    let world = World::new(&format!("{CONFIGURATION}give_up_after = \"60s\"\n")).await;
    let mut secrets = world.broker.secrets(&world.broker.operator).await;
    add(&mut secrets, SECRET, &Credential::first().json()).await;
    // The new user may not connect: what is set does not work.
    world.cluster.admin("shop", "ALTER ROLE app_b CONNECTION LIMIT 0");
    let mut rotations = world.rotations().await;
    let name = rotate(&mut rotations, SECRET).await.unwrap().name;
    let client = rotations.clone();
    eventually("it says why", async || {
        world.clock.advance(Duration::from_millis(20));
        get(&mut client.clone(), &name).await.last_error.is_some()
    })
    .await;
    let stuck = get(&mut rotations, &name).await;
    assert_eq!(stuck.state(), RotationState::Set);
    assert!(stuck.steps.last().unwrap().attempts > 0);
    assert_eq!(Credential::read(&read(&mut secrets, SECRET).await.unwrap()), Credential::first());
    world.clock.advance(Duration::from_secs(61));
    world.comes_to(&name, RotationState::Failed).await;
    eventually("its version is disabled", async || {
        world.clock.advance(Duration::from_millis(20));
        enabled(&mut secrets.clone(), SECRET).await.len() == 1
    })
    .await;
    assert_eq!(Credential::read(&read(&mut secrets, SECRET).await.unwrap()), Credential::first());
    assert!(Credential::first().logs_in(&world.cluster));
    assert!(get(&mut rotations, &name).await.last_error.is_some());

    world.cluster.admin("shop", "ALTER ROLE app_b CONNECTION LIMIT -1");
    eventually("another succeeds", async || rotate(&mut rotations.clone(), SECRET).await.is_ok()).await;
    let name = crate::rotation::list(&mut rotations).await.remove(0).name;
    world.comes_to(&name, RotationState::Retired).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_whose_version_was_kept_by_a_cancellation_gets_no_other_password() {
    let world = World::new(&CONFIGURATION.replace("1s", "1h")).await;
    let mut secrets = world.broker.secrets(&world.broker.operator).await;
    add(&mut secrets, SECRET, &Credential::first().json()).await;
    let mut rotations = world.rotations().await;
    let name = rotate(&mut rotations, SECRET).await.unwrap().name;
    world.comes_to(&name, RotationState::Retiring).await;
    cancel(&mut rotations, &name).await.unwrap();
    let kept = Credential::read(&read(&mut secrets, SECRET).await.unwrap());
    let name = rotate(&mut rotations, SECRET).await.unwrap().name;
    world.comes_to(&name, RotationState::Failed).await;
    let why = get(&mut rotations, &name).await.last_error.unwrap().message;
    assert!(why.contains("versions/1 is for the user app_a") && why.contains("disable the one"), "{why}");
    assert!(Credential::first().logs_in(&world.cluster) && kept.logs_in(&world.cluster), "both are still good");

    let old = DisableSecretVersionRequest { name: format!("{SECRET}/versions/1"), ..Default::default() };
    secrets.disable_secret_version(old).await.unwrap();
    eventually("another can begin", async || rotate(&mut rotations.clone(), SECRET).await.is_ok()).await;
    let name = list(&mut rotations).await.remove(0).name;
    world.comes_to(&name, RotationState::Retiring).await;
    let new = Credential::read(&read(&mut secrets, SECRET).await.unwrap());
    assert!(new.user == "app_a" && new.logs_in(&world.cluster) && kept.logs_in(&world.cluster));
}
