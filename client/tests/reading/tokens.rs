//! Token sources against the clouds' doubles. That the broker looks at the issuer shows that a token was sent.

use std::sync::Arc;
use std::time::Duration;

use keyferry_broker::clock::{Clock as _, SystemClock};
use keyferry_client::{AzureIdentity, Client, Error, Options, Reason, TokenSource};
use keyferry_tests::broker::{TestBroker, prepare};
use keyferry_tests::clock::ManualClock;
use keyferry_tests::doubles::faults::Fault;
use keyferry_tests::doubles::identity::{
    EntraIdentity, EntraService, FederatedCredential, GoogleIdentity, GoogleService, TENANT,
};

use keyferry_tests::issuer::Issuer;
use keyferry_tests::pki::Ca;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::options;

const RESOURCE: &str = "api://keyferry";

async fn with(broker: &TestBroker, token: TokenSource) -> Result<Client, Error> {
    Client::connect(Options { token: Some(token), ..options(broker, &broker.client) }).await
}

async fn reason(client: &Client) -> Reason {
    client.get_secret("stores/local/secrets/db").await.unwrap_err().refusal().unwrap().reason
}

#[tokio::test]
async fn a_token_of_googles_metadata_server_is_sent() {
    let broker = TestBroker::start().await;
    let google = GoogleIdentity::start(Arc::new(SystemClock)).await;
    let source = || TokenSource::Google { audience: RESOURCE.into(), metadata: google.url().into() };
    let error = with(&broker, source()).await.unwrap_err();
    assert!(error.to_string().ends_with("it knows no service account; attach one to this workload"), "{error}");
    google.add_service_account("app@test.iam.gserviceaccount.com");
    google.attach(Some("app@test.iam.gserviceaccount.com"));
    let client = with(&broker, source()).await.unwrap();
    assert_eq!(reason(&client).await, Reason::TokenIssuerUnknown);
    assert_eq!(reason(&client).await, Reason::TokenIssuerUnknown);
    assert_eq!(google.service(GoogleService::Metadata).requests(), 2, "one failed, one fetched for all calls");
}

#[tokio::test]
async fn a_token_of_azures_identities_is_sent() {
    let broker = TestBroker::start().await;
    let entra = EntraIdentity::start(Arc::new(SystemClock)).await;
    entra.add_resource(RESOURCE);
    entra.assign();
    let machine = AzureIdentity::VirtualMachine { endpoint: entra.url().into(), client_id: None };
    let app = AzureIdentity::AppService {
        endpoint: entra.identity_endpoint(),
        header: entra.identity_header().to_owned().into(),
        client_id: None,
    };
    let federated = entra.assign();
    let assertion = entra.token_for(&federated, "api://AzureADTokenExchange");
    let client_id = entra.add_application();
    let trusted = FederatedCredential {
        issuer: entra.issuer(),
        subject: federated.object_id,
        audience: "api://AzureADTokenExchange".into(),
    };
    entra.trust(&client_id, &[trusted]);
    let token_file = broker.path().join("federated.jwt");
    std::fs::write(&token_file, assertion).unwrap();
    let (authority, tenant) = (entra.url().to_owned(), TENANT.to_owned());
    let workload = AzureIdentity::Workload { authority, tenant, client_id, token_file };
    for identity in [machine, app, workload] {
        let shown = format!("{identity:?}");
        let source = TokenSource::Azure { resource: RESOURCE.into(), identity };
        let client = with(&broker, source).await.unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert_eq!(reason(&client).await, Reason::TokenIssuerUnknown, "{shown}");
        assert!(!shown.contains(entra.identity_header()), "{shown}");
    }
}

#[tokio::test]
async fn a_token_that_has_ended_by_the_brokers_clock_is_renewed_at_once() {
    let (directory, ca, clock) = (TempDir::new().unwrap(), Ca::new("test CA"), Arc::new(ManualClock::new()));
    prepare(directory.path(), &ca, &Issuer::configuration());
    let issuer = Issuer::new("one");
    issuer.write_keys(directory.path());
    let file = directory.path().join("token.jwt");
    std::fs::write(&file, issuer.token("app", &json!({}))).unwrap();
    let broker = TestBroker::start_in(directory, ca, Arc::clone(&clock) as _).await;
    let command = vec!["cat".to_owned(), file.to_str().unwrap().to_owned()];
    let client = with(&broker, TokenSource::Command(command)).await.unwrap();
    assert_eq!(reason(&client).await, Reason::SecretNotFound, "the token was taken");

    let ahead = Duration::from_secs(700);
    clock.set_forward(ahead);
    let now = SystemClock.now().as_secs() + ahead.as_secs();
    std::fs::write(&file, issuer.token("app", &json!({ "iat": now, "exp": now + 600 }))).unwrap();
    // But for the second after it was fetched; by itself it would be renewed in minutes.
    let renewed = timeout(Duration::from_secs(60), async {
        loop {
            let reason = reason(&client).await;
            if reason != Reason::TokenExpired {
                return reason;
            }
        }
    });
    assert_eq!(renewed.await.expect("the token is renewed"), Reason::SecretNotFound);
}

#[tokio::test]
async fn a_source_that_fails_is_named_and_what_it_said_is_not_repeated() {
    let broker = TestBroker::start().await;
    let entra = EntraIdentity::start(Arc::new(SystemClock)).await;
    entra.service(EntraService::Imds).faults().set(Fault::Status(500));
    let identity = AzureIdentity::VirtualMachine { endpoint: entra.url().into(), client_id: None };
    let error = with(&broker, TokenSource::Azure { resource: RESOURCE.into(), identity }).await.unwrap_err();
    let told = format!("no token from Azure's metadata service at {}: it answers 500 ", entra.url());
    assert!(error.to_string().starts_with(&told), "{error}");
}
