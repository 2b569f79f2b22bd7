//! A broker inside the test's process, configured as users do, on a port of the kernel's choice.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use keyferry_broker::app::{self, Broker};
use keyferry_broker::clock::{SharedClock, SystemClock};
use keyferry_broker::config::Config;
use keyferry_broker::failpoints::{Failpoints, NoFailpoints};
use keyferry_broker::providers::local::LocalKey;
use keyferry_broker::telemetry::Telemetry;
use keyferry_proto::v1::operator_service_client::OperatorServiceClient;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::token_service_client::TokenServiceClient;
use keyferry_proto::v1::{AddSecretVersionRequest, AddSecretVersionResponse, GetSecretRequest, GetSecretResponse};
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::pki::{Ca, Issued};

#[derive(Debug)]
pub struct TestBroker {
    pub ca: Ca,
    pub client: Issued,
    pub operator: Issued,
    pub broker: Broker,
    pub directory: TempDir,
}

/// The policy that suites start from: `client` reads, `operator` does everything, others nothing.
pub const POLICY: &str = r#"
@id("client-reads")
permit (principal, action in [Keyferry::Action::"Read"], resource)
when { principal has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == "/client" };

@id("operator-does-everything")
permit (principal, action, resource)
when { principal has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == "/operator" };
"#;

impl TestBroker {
    pub async fn start() -> Self {
        Self::with("", Arc::new(SystemClock)).await
    }

    /// With further configuration, in TOML.
    pub async fn with(more: &str, clock: SharedClock) -> Self {
        let directory = TempDir::new().unwrap();
        let ca = Ca::new("test CA");
        prepare(directory.path(), &ca, more);
        Self::start_in(directory, ca, clock).await
    }

    /// On a directory that was prepared, and perhaps changed since.
    pub async fn start_in(directory: TempDir, ca: Ca, clock: SharedClock) -> Self {
        Self::start_failing(directory, ca, clock, Arc::new(NoFailpoints)).await
    }

    /// With somebody who is told of each step of a lease, and may stop it there.
    pub async fn start_failing(
        directory: TempDir,
        ca: Ca,
        clock: SharedClock,
        failpoints: Arc<dyn Failpoints>,
    ) -> Self {
        let broker = start_broker(load(directory.path()), clock, failpoints).await;
        Self { client: ca.client("client"), operator: ca.client("operator"), ca, broker, directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Connects anew.
    pub async fn connect(&self, tls: ClientTlsConfig) -> Result<Channel, tonic::transport::Error> {
        endpoint(self.broker.grpc_address().port(), tls).connect().await
    }

    pub async fn channel(&self, who: &Issued) -> Channel {
        self.connect(who.client_tls(&self.ca)).await.unwrap()
    }

    pub async fn secrets(&self, who: &Issued) -> SecretServiceClient<Channel> {
        SecretServiceClient::new(self.channel(who).await)
    }

    pub async fn operations(&self, who: &Issued) -> OperatorServiceClient<Channel> {
        OperatorServiceClient::new(self.channel(who).await)
    }

    pub async fn tokens(&self, who: &Issued) -> TokenServiceClient<Channel> {
        TokenServiceClient::new(self.channel(who).await)
    }

    /// Runs `keyferry` as somebody: its exit code, and what it said. Blocks.
    pub fn command(&self, who: &Issued, arguments: &[&str]) -> (i32, String) {
        who.write(self.path(), "caller");
        let output = std::process::Command::new(crate::process::keyferry())
            .args(arguments)
            .env("KEYFERRY_SERVER", format!("https://127.0.0.1:{}", self.broker.grpc_address().port()))
            .env("KEYFERRY_CA", self.path().join("ca.pem"))
            .env("KEYFERRY_CERT", self.path().join("caller.pem"))
            .env("KEYFERRY_KEY", self.path().join("caller.key"))
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        (output.status.code().unwrap(), text)
    }

    /// Adds a version as the operator, creating the secret.
    pub async fn put(&self, secret: &str, payload: &[u8], labels: &[(&str, &str)]) -> AddSecretVersionResponse {
        let request = AddSecretVersionRequest {
            parent: format!("stores/local/secrets/{secret}"),
            payload: payload.to_vec().into(),
            allow_missing: true,
            labels: labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
            ..AddSecretVersionRequest::default()
        };
        self.secrets(&self.operator).await.add_secret_version(request).await.unwrap().into_inner()
    }
}

/// As the command does, but that it leaves the process's log alone.
pub async fn start_broker(config: Config, clock: SharedClock, failpoints: Arc<dyn Failpoints>) -> Broker {
    let metrics = app::metrics(Arc::clone(&clock));
    let telemetry = Telemetry::start(&config.telemetry, &config.node.name, Arc::clone(&metrics)).unwrap();
    Broker::start_with(config, clock, metrics, telemetry.traces(), failpoints).await.unwrap()
}

pub fn endpoint(port: u16, tls: ClientTlsConfig) -> Endpoint {
    Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap().tls_config(tls).unwrap()
}

pub async fn get(client: &mut SecretServiceClient<Channel>, secret: &str) -> Result<GetSecretResponse, Status> {
    let name = format!("stores/local/secrets/{secret}");
    Ok(client.get_secret(GetSecretRequest { name, ..GetSecretRequest::default() }).await?.into_inner())
}

/// Writes all that a broker needs into `directory`.
pub fn prepare(directory: &Path, ca: &Ca, more: &str) {
    fs::write(directory.join("ca.pem"), ca.pem()).unwrap();
    ca.server("keyferry.test").write(directory, "server");
    fs::create_dir_all(directory.join("policy")).unwrap();
    fs::write(directory.join("policy/test.cedar"), POLICY).unwrap();
    LocalKey::generate_file(&directory.join("secrets.key")).unwrap();
    fs::write(
        directory.join("keyferry.toml"),
        format!("{CONFIGURATION}{}{more}", if more.contains("[quota]") { "" } else { QUOTA }),
    )
    .unwrap();
}

pub fn load(directory: &Path) -> Config {
    Config::load(&directory.join("keyferry.toml"), std::iter::empty(), "test-node").unwrap_or_else(|problems| {
        panic!("the harness wrote a configuration that is not accepted:\n{problems}");
    })
}

const CONFIGURATION: &str = r#"
[listen]
grpc = "127.0.0.1:0"
web = "127.0.0.1:0"
admin = "127.0.0.1:0"

[tls]
certificate = "server.pem"
key = "server.key"
client_ca = ["ca.pem"]
trust_domains = { "test.keyferry" = "ca.pem" }
reload_interval = "1s"

[policy]
directory = "policy"
reload_interval = "1s"

[stores.local]
kind = "local"
file = "secrets.redb"
key_file = "secrets.key"
"#;

const QUOTA: &str = r#"
# Suites ask faster than any caller should.
[quota]
read_rate = 1000000
read_burst = 1000000
change_rate = 1000000
change_burst = 1000000
operate_rate = 1000000
operate_burst = 1000000
mint_rate = 1000000
mint_burst = 1000000

"#;
