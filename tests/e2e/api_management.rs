//! Named values of API Management follow their secret: refreshed once for a new version, and holding the old one until
//! they were.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use keyferry_broker::clock::{SharedClock, SystemClock};
use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::{ListSubscribersRequest, RotationState, Subscriber, SubscriberKind, SubscriberVersion};
use keyferry_tests::broker::{TestBroker, endpoint, prepare};
use keyferry_tests::doubles::api_management::{ApiManagement, Manner, SERVICE};
use keyferry_tests::doubles::faults::Fault;
use keyferry_tests::doubles::http::{json, serve};
use keyferry_tests::doubles::identity::EntraIdentity;
use keyferry_tests::doubles::key_vault::{HOST, KeyVault};
use keyferry_tests::pki::Ca;
use keyferry_tests::process::Process;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::transport::Channel;

use crate::admin::fetch;
use crate::reload::eventually;
use crate::rotation::{get, rotate};

const SECRET: &str = "stores/azure/secrets/partner-key";
const VAULT: &str = "https://vault.azure.net";

type Rotations = RotationServiceClient<Channel>;

/// Azure, and a directory for a broker that knows a gateway there.
struct World {
    ca: Ca,
    vault: Arc<KeyVault>,
    gateway: ApiManagement,
    directory: TempDir,
    _entra: EntraIdentity,
}

impl World {
    /// With a secret for each named value, as `(named value, secret)`.
    async fn new(named_values: &[(&str, &str)]) -> Self {
        let (ca, directory) = (Ca::new("test CA"), TempDir::new().unwrap());
        let vault = Arc::new(KeyVault::start(&ca).await);
        let clock: SharedClock = Arc::new(SystemClock);
        let entra = EntraIdentity::start(clock).await;
        entra.assign();
        let principal_of = entra.principals(VAULT);
        vault.accept(move |token| principal_of(token).is_some());
        let gateway = ApiManagement::start(&entra, Arc::clone(&vault)).await;
        let mut entries = Vec::new();
        for (id, secret) in named_values {
            vault.put(secret, "first", &[]);
            gateway.put(id, Some(&format!("https://{HOST}/secrets/{secret}")));
            entries.push(format!("{id} = \"stores/azure/secrets/{secret}\""));
        }
        let configuration = format!(
            r#"
[credentials.azure]
kind = "azure-managed-identity"
identity_url = "{entra}"

[stores.azure]
kind = "azure"
vault_url = "https://{HOST}"
address = "{vault}"
ca = "ca.pem"
poll_interval = "1s"

[gateways.apim]
kind = "api-management"
service = "{SERVICE}"
management_url = "{management}"
named_values = {{ {entries} }}
request_timeout = "1s"

[rotations.partner-key]
targets = ["{SECRET}"]
kind = "generate"
retire_after = "1h"
subscriber_grace = "0s"
"#,
            entra = entra.url(),
            vault = vault.address(),
            management = gateway.url(),
            entries = entries.join(", "),
        );
        prepare(directory.path(), &ca, &configuration);
        Self { ca, vault, gateway, directory, _entra: entra }
    }

    /// In this process. The directory goes with it.
    async fn serve(self) -> (TestBroker, Arc<KeyVault>, ApiManagement, EntraIdentity) {
        let Self { ca, vault, gateway, directory, _entra: entra } = self;
        (TestBroker::start_in(directory, ca, Arc::new(SystemClock)).await, vault, gateway, entra)
    }
}

async fn rotations(broker: &TestBroker) -> Rotations {
    RotationServiceClient::new(broker.channel(&broker.operator).await)
}

async fn subscriber(client: &Rotations) -> Option<Subscriber> {
    let listed = client.clone().list_subscribers(ListSubscribersRequest::default()).await.unwrap().into_inner();
    listed.subscribers.into_iter().find(|subscriber| subscriber.subscriber == "apim")
}

async fn of(client: &Rotations, secret: &str) -> SubscriberVersion {
    let subscriber = subscriber(client).await.unwrap_or_default();
    let wanted = format!("stores/azure/secrets/{secret}");
    subscriber.versions.into_iter().find(|version| version.secret == wanted).unwrap_or_default()
}

async fn until_it_runs_what_is_current(client: &Rotations, secret: &str) {
    eventually(&format!("{secret} is acknowledged"), async || {
        let version = of(client, secret).await;
        !version.version.is_empty() && version.version == version.current_version
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_is_refreshed_once_and_the_old_version_retires_after_that() {
    let (broker, vault, gateway, _entra) = World::new(&[("partner-key", "partner-key")]).await.serve().await;
    let mut client = rotations(&broker).await;
    // Nobody has read it through the broker: that a gateway holds it is reason enough to look at it.
    until_it_runs_what_is_current(&client, "partner-key").await;
    assert_eq!((gateway.refreshes("partner-key").len(), gateway.value("partner-key")), (1, Some("first".to_owned())));
    let known = subscriber(&client).await.unwrap();
    assert_eq!(
        (known.kind(), known.caller.as_str(), known.connected),
        (SubscriberKind::ApiManagement, "keyferry", false)
    );

    for (number, manner) in [(2, Manner::Location), (3, Manner::AsyncOperation)] {
        gateway.answer_by("partner-key", manner);
        gateway.hold(true);
        let name = rotate(&mut client, SECRET).await.unwrap().name;
        eventually("the old version is on its way out, and the gateway is asked to let go of it", async || {
            let is_retiring = get(&mut client.clone(), &name).await.state() == RotationState::Retiring;
            is_retiring && gateway.refreshes("partner-key").len() == number
        })
        .await;
        let held = get(&mut client, &name).await;
        assert_eq!((held.acknowledged_count, held.pending_count), (0, 1), "the refresh is under way");
        gateway.hold(false);
        until_it_runs_what_is_current(&client, "partner-key").await;
        eventually("it has retired before its hour", async || {
            get(&mut client.clone(), &name).await.state() == RotationState::Retired
        })
        .await;
        assert_eq!(gateway.value("partner-key"), vault.value("partner-key"));
        assert_eq!(gateway.refreshes("partner-key").len(), number, "once for each version");
    }
    let listed = broker.command(&broker.operator, &["subscribers"]).1;
    assert!(listed.contains("api-management"), "{listed}");
    broker.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_that_nobody_lived_to_acknowledge_is_made_again() {
    let world = World::new(&[("partner-key", "partner-key")]).await;
    let operator = world.ca.client("operator");
    let client = async |process: &Process| {
        let tls = operator.client_tls(&world.ca);
        RotationServiceClient::new(endpoint(process.grpc().port(), tls).connect().await.unwrap())
    };
    let process = Process::serve(world.directory.path());
    let mut first = client(&process).await;
    until_it_runs_what_is_current(&first, "partner-key").await;

    world.gateway.answer_by("partner-key", Manner::Location);
    world.gateway.hold(true);
    let name = rotate(&mut first, SECRET).await.unwrap().name;
    eventually("the refresh has begun", async || world.gateway.refreshes("partner-key").len() == 2).await;
    process.kill();
    world.gateway.hold(false);
    let process = Process::serve(world.directory.path());
    let second = client(&process).await;
    until_it_runs_what_is_current(&second, "partner-key").await;
    assert_eq!(world.gateway.refreshes("partner-key").len(), 3);
    assert_eq!(world.gateway.value("partner-key"), world.vault.value("partner-key"));
    let retired = async || get(&mut second.clone(), &name).await.state() == RotationState::Retired;
    eventually("the rotation ends", retired).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_acknowledged_once_all_its_named_values_have_it() {
    let (broker, _vault, gateway, _entra) =
        World::new(&[("one", "partner-key"), ("two", "partner-key")]).await.serve().await;
    let mut client = rotations(&broker).await;
    until_it_runs_what_is_current(&client, "partner-key").await;
    let before = of(&client, "partner-key").await.version;
    gateway.faults("two").set(Fault::Status(403));
    let name = rotate(&mut client, SECRET).await.unwrap().name;
    eventually("one has it and two is refused", async || {
        gateway.refreshes("one").len() == 2 && !of(&client, "partner-key").await.rejection.is_empty()
    })
    .await;
    assert_eq!(of(&client, "partner-key").await.version, before);
    gateway.faults("two").clear();
    until_it_runs_what_is_current(&client, "partner-key").await;
    assert_eq!(gateway.refreshes("one").len(), 2, "not asked for what it has");
    eventually("it retires", async || get(&mut client.clone(), &name).await.state() == RotationState::Retired).await;
    broker.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_wrong_is_said_where_the_gateway_is_listed_and_ends_when_it_is_put_right() {
    type Spoil = fn(&ApiManagement);
    // What is wrong with the named value of that name, and a word of what to do about it.
    let wrongs: [(&str, Spoil, &str); 10] = [
        ("denied", |g| g.faults("denied").set(Fault::Status(403)), "refreshSecret/action"),
        ("missing", |g| g.delete("missing"), "no named value missing"),
        ("broken", |g| g.faults("broken").set(Fault::Status(500)), "answers 500"),
        ("slow", |g| g.faults("slow").set(Fault::BlackHole), "within 1 s"),
        ("garbled", |g| g.faults("garbled").set(Fault::Garbage), "correct management_url"),
        ("failing", |g| g.answer_by("failing", Manner::Failing), "activity log"),
        ("plain", |g| g.put("plain", None), "of type Key Vault"),
        ("pinned", |g| g.put("pinned", Some(&format!("https://{HOST}/secrets/pinned/0123"))), "stays at one version"),
        ("other", |g| g.put("other", Some(&format!("https://{HOST}/secrets/others"))), "is not of"),
        ("locked-out", |g| g.lock_out("locked-out", true), "Key Vault Secrets User"),
    ];
    let named_values: Vec<_> = wrongs.iter().map(|(name, ..)| (*name, *name)).collect();
    let world = World::new(&named_values).await;
    for (_, spoil, _) in wrongs {
        spoil(&world.gateway);
    }
    let (broker, _vault, gateway, _entra) = world.serve().await;
    let client = rotations(&broker).await;
    for (name, _, says) in wrongs {
        eventually(&format!("{name} is complained of"), async || {
            let told = of(&client, name).await;
            told.version.is_empty() && told.rejection.contains(says)
        })
        .await;
    }
    let metrics = fetch(&broker, "/metrics").await;
    assert!(metrics.contains("keyferry_gateway_behind{gateway=\"apim\"} 10"), "{metrics}");
    for (name, _) in named_values {
        gateway.put(name, Some(&format!("https://{HOST}/secrets/{name}")));
        gateway.faults(name).clear();
        gateway.answer_by(name, Manner::AtOnce);
        gateway.lock_out(name, false);
    }
    for (name, ..) in wrongs {
        until_it_runs_what_is_current(&client, name).await;
        assert_eq!(of(&client, name).await.rejection, "");
        assert_eq!(gateway.value(name).as_deref(), Some("first"));
    }
    broker.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_that_azure_asks_for_is_given() {
    let world = World::new(&[("partner-key", "partner-key")]).await;
    let pause = Duration::from_secs(3);
    world.gateway.faults("partner-key").set_for(Fault::Throttle { retry_after: Some(pause) }, 1);
    let (broker, _vault, gateway, _entra) = world.serve().await;
    until_it_runs_what_is_current(&rotations(&broker).await, "partner-key").await;
    let asked = gateway.refreshes("partner-key");
    let [throttled, taken] = *asked else { panic!("{asked:?}") };
    assert!(taken.since(throttled) >= pause, "{asked:?}");
    broker.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_does_not_follow_an_answer_to_another_origin() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let stranger = serve(
        listener,
        None,
        Arc::new(move |request| {
            let _ = heard.send(request.uri().clone());
            async { json(http::StatusCode::OK, &serde_json::json!({})) }.boxed()
        }),
    );
    let world = World::new(&[("partner-key", "partner-key")]).await;
    world.gateway.answer_by("partner-key", Manner::Elsewhere(format!("http://{}", stranger.address())));
    let (broker, _vault, gateway, _entra) = world.serve().await;
    let client = rotations(&broker).await;
    let is_said = async || of(&client, "partner-key").await.rejection.contains("at another host");
    eventually("it is said", is_said).await;
    assert!(!gateway.refreshes("partner-key").is_empty());
    assert!(hears.try_recv().is_err(), "the stranger was asked");
    broker.broker.stop().await;
}
