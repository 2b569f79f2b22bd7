//! One rotation, and everybody whom it concerns: clients in four languages, a program under `exec`, a file of `render`, and
//! Envoy.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::{AddSecretVersionRequest, GetSecretRequest, ListSubscribersRequest};
use keyferry_tests::command::Caller;
use keyferry_tests::envoy::{Envoy, Surroundings};
use keyferry_tests::pki::{Ca, Issued};
use keyferry_tests::process::{Process, keyferry};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::envoy::{RESOURCES, bundle, request, upstream};
use crate::exec_command::Running;
use crate::languages::{Client, LANGUAGES, ROTATED, all_told, build, connect, rotate};
use crate::reload::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_reaches_everybody_in_their_own_way() {
    let projects = build();
    let dev = TempDir::new().unwrap();
    let broker = broker(dev.path());
    let port = broker.grpc().port();
    let operator = connect(dev.path(), &broker).await;

    let mut clients: Vec<_> =
        LANGUAGES.iter().map(|language| Client::start(language, projects.path(), dev.path(), port)).collect();
    let identity = Issued {
        certificate: fs::read_to_string(dev.path().join("client.pem")).unwrap(),
        key: fs::read_to_string(dev.path().join("client.key")).unwrap(),
        der: Vec::new(),
        serial: Vec::new(),
    };
    let caller = Caller::at(dev.path(), "client", &identity, port);
    let mut program =
        Running::start(&caller, &["--env", "KEY=local/db-password", "--", "bash", "-c", "echo $KEY; exec sleep 600"]);
    let (template, file) = (dev.path().join("key.tmpl"), dev.path().join("key"));
    fs::write(&template, "{{ secret \"local/db-password\" }}").unwrap();
    let mut render = caller.start(&["render", &format!("{}={}", template.display(), file.display())]);

    let (edge, customers) = (Ca::new("edge CA"), Ca::new("customers' CA"));
    put(&operator, "edge", bundle(&edge.server("keyferry.test")).as_bytes()).await;
    put(&operator, "clients", customers.pem().as_bytes()).await;
    let (upstream, _serving) = upstream().await;
    let envoy = Envoy::start(&Surroundings {
        broker: port,
        broker_ca: fs::read_to_string(dev.path().join("ca.pem")).unwrap(),
        identity: &identity,
        upstream,
        changes: &[("keyferry.test", "localhost")],
    });
    let customer = customers.client("customer");

    for version in 1..=3 {
        let name = format!("{ROTATED}/versions/{version}");
        if version > 1 {
            rotate(&mut RotationServiceClient::new(operator.clone())).await;
            all_told(&mut clients, &told(version));
        }
        let read = SecretServiceClient::new(operator.clone())
            .get_secret(GetSecretRequest { name, ..GetSecretRequest::default() })
            .await
            .unwrap()
            .into_inner();
        let value = String::from_utf8(read.payload.to_vec()).unwrap();
        assert_eq!(program.line(), value, "the program was started with it");
        eventually("the file has it", async || fs::read_to_string(&file).is_ok_and(|text| text == value)).await;
        eventually(&format!("Envoy sends it: {}", envoy.log()), async || {
            let Some(address) = envoy.listener().await else { return false };
            request(address, &edge, &customer).await.is_ok_and(|(_, key)| key == value)
        })
        .await;
        if version == 1 {
            all_told(&mut clients, &told(1));
        }
    }
    let listed =
        RotationServiceClient::new(operator).list_subscribers(ListSubscribersRequest::default()).await.unwrap();
    let newest = format!("{ROTATED}/versions/3");
    let runs_it = |name: &str| {
        let subscribers = &listed.get_ref().subscribers;
        let found = subscribers.iter().find(|subscriber| subscriber.subscriber == name);
        found.is_some_and(|it| it.versions.iter().any(|version| version.version == newest))
    };
    for name in LANGUAGES.map(|language| language.name).into_iter().chain(["edge-1.upstream-key"]) {
        assert!(runs_it(name), "{name} is not known to run {newest}: {listed:#?}");
    }
    render.kill().unwrap();
    render.wait().unwrap();
}

/// What each client has printed by the time it runs `version`.
fn told(version: u32) -> Vec<String> {
    let first =
        ["read stores/local/secrets/hello/versions/1", "refused SECRET_NOT_FOUND", "minted app"].map(str::to_owned);
    let snapshot = format!("snapshot {ROTATED}/versions/1");
    let events = (2..=version).map(|version| format!("event {ROTATED}/versions/{version}"));
    first.into_iter().chain([snapshot]).chain(events).collect()
}

/// As `dev` sets it up, and with what Envoy is to have.
fn broker(directory: &Path) -> Process {
    let ports = ["--listen", "--web", "--admin"].map(|port| [port, "127.0.0.1:0"]);
    Process::start(Command::new(keyferry()).arg("dev").args(ports.as_flattened()).arg("--dir").arg(directory)).kill();
    let mut configuration = fs::File::options().append(true).open(directory.join("keyferry.toml")).unwrap();
    configuration.write_all(RESOURCES.replace("secrets/key", "secrets/db-password").as_bytes()).unwrap();
    Process::serve(directory)
}

async fn put(operator: &Channel, secret: &str, payload: &[u8]) {
    let request = AddSecretVersionRequest {
        parent: format!("stores/local/secrets/{secret}"),
        payload: payload.to_vec().into(),
        allow_missing: true,
        ..AddSecretVersionRequest::default()
    };
    SecretServiceClient::new(operator.clone()).add_secret_version(request).await.unwrap();
}
