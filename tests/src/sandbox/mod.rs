//! A broker that runs on both clouds at once, each reached from the other by federation, and a switch for every fault.

mod command;
mod greeting;
mod parts;

use std::fs;
use std::sync::Arc;

use keyferry_broker::app::{self, Broker};
use keyferry_broker::clock::{SharedClock, SystemClock};
use keyferry_broker::telemetry::Telemetry;
use serde_json::json;
use tempfile::TempDir;

pub use self::command::{Command, HELP};
use crate::broker::{POLICY, load, prepare};
use crate::doubles::identity::{EntraIdentity, FederatedCredential, GoogleIdentity, OidcIssuer, PoolProvider, TENANT};
use crate::doubles::key_vault::KeyVault;
use crate::doubles::secret_manager::{Method, PROJECT, SecretManager};
use crate::pki::Ca;

const AUDIENCE: &str = "keyferry-sandbox";
const ASSERTION_AUDIENCE: &str = "api://AzureADTokenExchange";
const GOOGLE_AS_RESOURCE: &str = "api://keyferry-google";
const VAULT: &str = "https://vault.azure.net";

/// So short that a fault is felt at once.
const HASTE: &str = r#"latest_fresh_for = "1s"
pinned_fresh_for = "1s"
labels_fresh_for = "1s"
request_timeout = "2s"
maximum_wait = "2s""#;

/// Everything in one process: what it started ends with it.
#[derive(Debug)]
pub struct Sandbox {
    broker: Broker,
    clouds: Clouds,
    directory: TempDir,
}

/// Both clouds, each trusting the other, and an issuer for callers.
#[derive(Debug)]
pub struct Clouds {
    pub secret_manager: SecretManager,
    pub key_vault: KeyVault,
    google: GoogleIdentity,
    entra: EntraIdentity,
    /// Whom callers have their tokens from.
    callers: OidcIssuer,
    trust: Trust,
}

impl Sandbox {
    pub async fn start() -> Self {
        let clock: SharedClock = Arc::new(SystemClock);
        let directory = tempfile::Builder::new().prefix("keyferry-sandbox-").tempdir().unwrap();
        let ca = Ca::new("Keyferry sandbox");
        let clouds = Clouds::start(&ca, &clock).await;
        clouds.fill();
        prepare(directory.path(), &ca, &clouds.configuration());
        fs::write(directory.path().join("policy/test.cedar"), format!("{POLICY}{CALLERS}")).unwrap();
        for name in ["client", "operator"] {
            ca.client(name).write(directory.path(), name);
        }
        fs::write(directory.path().join("token.jwt"), clouds.token("reader")).unwrap();

        let config = load(directory.path());
        let metrics = app::metrics(Arc::clone(&clock));
        let telemetry = Telemetry::start(&config.telemetry, &config.node.name, Arc::clone(&metrics)).unwrap();
        telemetry.install().unwrap();
        let broker = Broker::start(config, clock, metrics, telemetry.traces()).await.unwrap();
        Self { broker, clouds, directory }
    }

    /// Does it, and says what is so now.
    pub fn obey(&self, command: Command) -> String {
        self.clouds.obey(command)
    }

    pub async fn stop(self) {
        self.broker.stop().await;
    }
}

/// Those who come with a token and no name.
const CALLERS: &str = r#"
@id("readers-read")
permit (principal, action in [Keyferry::Action::"Read"], resource)
when { principal.hasTag("roles") && principal.getTag("roles").contains("reader") };

@id("anyone-asks-about-itself")
permit (principal, action in [Keyferry::Action::"WhoAmI", Keyferry::Action::"ExplainSelf"], resource);
"#;

/// What the trust between the clouds came to.
#[derive(Debug)]
struct Trust {
    provider: PoolProvider,
    reader: String,
    application: String,
}

impl Clouds {
    pub async fn start(ca: &Ca, clock: &SharedClock) -> Self {
        let (secret_manager, key_vault) = (SecretManager::start().await, KeyVault::start(ca).await);
        let google = GoogleIdentity::start(Arc::clone(clock)).await;
        let entra = EntraIdentity::start(Arc::clone(clock)).await;
        let callers = OidcIssuer::start_with_tls(Arc::clone(clock), ca).await;
        let trust = Trust::establish(&google, &entra);
        let (principal_of, allowed) = (google.principals(), format!("serviceAccount:{}", trust.reader));
        secret_manager.grant_where(move |token| principal_of(token).as_ref() == Some(&allowed), &Method::ALL);
        let principal_of = entra.principals(VAULT);
        key_vault.accept(move |token| principal_of(token).is_some());
        Self { secret_manager, key_vault, google, entra, callers, trust }
    }

    /// For a caller with this role.
    pub fn token(&self, role: &str) -> String {
        self.callers.token("somebody", AUDIENCE, json!({ "roles": [role] }))
    }

    fn fill(&self) {
        self.secret_manager.create_secret(None, "db-password", &[("env", "dev")]);
        self.secret_manager.add_version(None, "db-password", b"correct-horse");
        self.key_vault.put("api-key", "battery-staple", &[("env", "dev")]);
    }

    /// For a broker whose directory has the CA in `ca.pem`.
    pub fn configuration(&self) -> String {
        let Trust { provider, reader, application } = &self.trust;
        let provider = provider.audience();
        format!(
            r#"
[issuers.callers]
url = "{callers}"
audiences = ["{AUDIENCE}"]
ca = "ca.pem"
refresh_interval = "1s"

[credentials.on-azure]
kind = "azure-managed-identity"
identity_url = "{entra}"

[credentials.google]
kind = "google-federation"
from = "on-azure"
provider = "{provider}"
resource = "{GOOGLE_AS_RESOURCE}"
service_account = "{reader}"
sts_url = "{google}/v1/token"
iam_url = "{google}"

[credentials.on-google]
kind = "google-metadata"
metadata_url = "{google}"

[credentials.azure]
kind = "azure-federation"
from = "on-google"
tenant = "{TENANT}"
client_id = "{application}"
authority_url = "{entra}"

[stores.gcp]
kind = "gcp"
project = "{PROJECT}"
endpoint = "{secret_manager}"
{HASTE}

[stores.azure]
kind = "azure"
vault_url = "{vault}"
address = "{vault_address}"
ca = "ca.pem"
{HASTE}
"#,
            callers = self.callers.url(),
            entra = self.entra.url(),
            google = self.google.url(),
            provider = provider.trim_start_matches("//iam.googleapis.com/"),
            secret_manager = self.secret_manager.endpoint(),
            vault = self.key_vault.vault_url(),
            vault_address = self.key_vault.address(),
        )
    }
}

impl Trust {
    /// As an administrator of both clouds would set it up.
    fn establish(google: &GoogleIdentity, entra: &EntraIdentity) -> Self {
        let [machine, reader] = ["machine", "reader"].map(|name| format!("{name}@{PROJECT}.iam.gserviceaccount.com"));

        // Azure to Google: the machine's identity, a pool that trusts Entra, a service account that may read.
        entra.add_resource(GOOGLE_AS_RESOURCE);
        let identity = entra.assign();
        let mut provider = PoolProvider::new("azure", "entra", &entra.issuer());
        provider.allowed_audiences = vec![GOOGLE_AS_RESOURCE.to_owned()];
        google.add_provider(provider.clone());
        google.add_service_account(&reader);
        google.grant_token_creator(&reader, &provider.principal(&identity.object_id));

        // Google to Azure: the machine's service account, and an application that trusts it.
        let subject = google.add_service_account(&machine);
        google.attach(Some(&machine));
        let application = entra.add_application();
        let (issuer, audience) = (google.url().to_owned(), ASSERTION_AUDIENCE.to_owned());
        entra.trust(&application, &[FederatedCredential { issuer, subject, audience }]);
        Self { provider, reader, application }
    }
}
