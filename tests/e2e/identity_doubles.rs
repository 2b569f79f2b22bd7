//! A double counts only as long as the vendors' own clients accept it, and fail as they do at the real service.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use keyferry_broker::clock::{SharedClock, SystemClock};
use keyferry_tests::doubles::identity::{
    EntraIdentity, FederatedCredential, GoogleIdentity, OidcIssuer, PROJECT, PoolProvider, TENANT,
};
use keyferry_tests::pki::Ca;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

const AUDIENCE: &str = "api://AzureADTokenExchange";
const VAULT: &str = "https://vault.azure.net";

#[tokio::test]
async fn the_clients_of_google_and_microsoft_accept_the_identity_doubles() {
    let clock: SharedClock = Arc::new(SystemClock);
    let (ca, directory) = (Ca::new("test CA"), tempfile::tempdir().unwrap());
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, ca.pem()).unwrap();
    let google = GoogleIdentity::start(Arc::clone(&clock)).await;
    // Microsoft's clients insist on HTTPS for the authority; what Google verifies is discovered in plain.
    let entra = EntraIdentity::start_with_tls(Arc::clone(&clock), &ca).await;
    let plain = EntraIdentity::start(Arc::clone(&clock)).await;
    let cluster = OidcIssuer::start(clock).await;

    let [machine, account, stranger] =
        ["machine", "reader", "stranger"].map(|name| format!("{name}@{PROJECT}.iam.gserviceaccount.com"));
    let ids = [&machine, &account, &stranger].map(|email| google.add_service_account(email));
    google.attach(Some(&machine));
    let deleted_key = google.create_key(&account);
    google.delete_keys(&account);
    let key = google.create_key(&account);

    let resource = "api://keyferry-google";
    plain.add_resource(resource);
    let (own, assigned) = (plain.assign(), plain.assign());
    let mut provider = PoolProvider::new("azure", "entra", &plain.issuer());
    provider.allowed_audiences = vec![resource.to_owned()];
    google.add_provider(provider.clone());
    let federated = provider.principal(&own.object_id);
    google.grant_token_creator(&account, &federated);
    google.grant_token_creator(&account, &format!("serviceAccount:{machine}"));

    let trusted = |issuer: &str, subject: &str, audience: &str| {
        let client_id = entra.add_application();
        let [issuer, subject, audience] = [issuer, subject, audience].map(str::to_owned);
        entra.trust(&client_id, &[FederatedCredential { issuer, subject, audience }]);
        client_id
    };
    let issuer = google.url();
    let application = trusted(issuer, &ids[0], AUDIENCE);
    let pod = "system:serviceaccount:Shop:keyferry";
    // Google's subjects are numbers, so the case of a letter only tells in the cluster's.
    let pod_application = trusted(cluster.url(), pod, AUDIENCE);

    let given = json!({
        "google": issuer, "project": PROJECT, "machine": machine, "machine_id": ids[0], "account": account,
        "account_id": ids[1], "stranger": stranger, "key": key, "deleted_key": deleted_key,
        "user": google.sign_in_user("somebody@example.com"), "provider": provider.audience(), "resource": resource,
        "entra": entra.url(), "plain_entra": plain.url(), "tenant": TENANT, "ca": ca_file, "assigned": assigned.client_id,
        "identity_endpoint": plain.identity_endpoint(), "identity_header": plain.identity_header(),
        "misaddressed": plain.token_for(&own, VAULT), "application": application,
        "other_subject": trusted(issuer, "another", AUDIENCE), "other_issuer": trusted("https://another.test", &ids[0], AUDIENCE),
        "other_audience": trusted(issuer, &ids[0], "api://another"), "pod_application": pod_application,
        "pod_token": cluster.token(pod, AUDIENCE, json!({})),
        "other_case": trusted(cluster.url(), &pod.to_lowercase(), AUDIENCE),
    });
    let answered = judge("identity.py", &given).await;

    let token = |name: &str| answered[name].as_str().unwrap_or_default().to_owned();
    let service_account = |email: &str| Some(format!("serviceAccount:{email}"));
    assert_eq!(google.principal(&token("machine")), service_account(&machine));
    assert_eq!(google.principal(&token("impersonated")), service_account(&account));
    assert_eq!(google.principal(&token("by_key")), service_account(&account));
    assert_eq!(google.principal(&token("user")), Some("user:somebody@example.com".to_owned()));
    assert_eq!(google.principal(&token("federated")), Some(federated));
    assert_eq!(google.principal(&token("acting")), service_account(&account));
    assert_eq!(plain.principal(&token("in_app"), VAULT), Some(own.object_id));
    assert!(entra.principal(&token("application"), VAULT).is_some());
    assert!(entra.principal(&token("pod"), VAULT).is_some());
}

/// Gives a script of `tests/judges` one JSON object, and returns the one that it writes.
async fn judge(script: &str, given: &Value) -> Value {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut child = Command::new(tests.join("../.tools/pypi/cloud-clients/bin/python"))
        .arg(tests.join("judges").join(script))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the judges need tools/install cloud-clients");
    child.stdin.take().unwrap().write_all(given.to_string().as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
