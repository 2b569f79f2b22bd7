//! Issuers that others wrote, found by discovery over HTTPS and known by nothing but their URL.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyferry_broker::clock::{Clock as _, SystemClock};
use keyferry_proto::v1::operator_service_client::OperatorServiceClient;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::{CallerToken, GetSecretRequest, GetStatusRequest, WhoAmIRequest};
use keyferry_tests::broker::{POLICY, TestBroker, prepare};
use keyferry_tests::node::Script;
use keyferry_tests::pki::{Ca, trusting};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

const AUDIENCE: &str = "https://keyferry.test";

/// Within which a withdrawn key must be out of force.
const BOUND: Duration = Duration::from_secs(30);

const ABOUT_ONESELF: &str = r#"
permit (principal, action in [Keyferry::Action::"WhoAmI", Keyferry::Action::"ExplainSelf"], resource);
"#;

/// Each by what its callers are told apart by.
const BY_CLAIMS: &str = r#"
permit (principal, action == Keyferry::Action::"GetSecret", resource)
when { principal has token && principal.token.issuer == "entra"
    && principal.hasTag("roles") && principal.getTag("roles").contains("Secrets.Read")
    && principal.hasTag("oid") && principal.getTag("oid").contains("7d0e2c1a-0c52-4f0e-9a3b-2f6a1f6f9a11") };

permit (principal, action == Keyferry::Action::"GetSecret", resource)
when { principal has token && principal.token.issuer == "google"
    && principal.hasTag("email") && principal.getTag("email").contains("checkout@shop.iam.gserviceaccount.com")
    && principal.hasTag("email_verified") && principal.getTag("email_verified").contains("true") };

permit (principal, action == Keyferry::Action::"GetSecret", resource)
when { principal has token && principal.token.issuer == "cluster"
    && principal.hasTag("kubernetes.io/namespace") && principal.getTag("kubernetes.io/namespace").contains("shop")
    && principal.hasTag("kubernetes.io/serviceaccount/name")
    && principal.getTag("kubernetes.io/serviceaccount/name").contains("checkout") };

permit (principal, action == Keyferry::Action::"GetSecret", resource)
when { principal has token && principal.token.issuer == "github"
    && principal.token.subject == "repo:shop/checkout:ref:refs/heads/main" };

permit (principal, action == Keyferry::Action::"GetSecret", resource)
when { principal has token && principal.token.issuer == "spire"
    && principal.token.subject == "spiffe://shop.test/checkout" };
"#;

/// A broker, and issuers by the names of `paths` at one server.
struct Mocked {
    broker: TestBroker,
    issuers: Script,
    anonymous: Channel,
}

impl Mocked {
    async fn start(paths: &[(&str, &'static str)], policy: &str) -> Self {
        let (directory, ca) = ground();
        let mut arguments = vec!["mock.mjs"];
        arguments.extend(paths.iter().map(|(_, path)| *path));
        let (issuers, url) = start_issuer(directory.path(), &arguments);
        let named: Vec<_> = paths.iter().map(|(name, path)| (*name, format!("{url}{path}"))).collect();
        let (broker, anonymous) = start_broker(directory, ca, &named, policy).await;
        broker.put("a", b"value", &[]).await;
        Self { broker, issuers, anonymous }
    }

    fn token(&mut self, path: &str, claims: &Value) -> String {
        let mut all = json!({ "aud": AUDIENCE });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        text(&self.issuers.ask(&json!({ "issuer": path, "claims": all })), "token")
    }

    /// As a caller with this token, on the connection that all of them share.
    async fn read(&self, token: &str) -> Result<(), Status> {
        let request = GetSecretRequest { name: "stores/local/secrets/a".to_owned(), ..GetSecretRequest::default() };
        let mut client = SecretServiceClient::new(self.anonymous.clone());
        client.get_secret(bearing(token, request)).await.map(drop)
    }
}

#[tokio::test]
async fn tokens_of_a_real_issuer_are_accepted_by_discovery_over_https() {
    let mut mocked = Mocked::start(&[("mock", "/mock")], ABOUT_ONESELF).await;
    let token = mocked.token("/mock", &json!({ "sub": "checkout", "roles": ["reader"], "shop": { "team": "pay" } }));
    let (id, caller) = who_am_i(&mocked.anonymous, &token).await.unwrap();
    assert_eq!(id, "oidc/mock/checkout");
    assert_eq!(claim(&caller, "roles"), ["reader"]);
    assert_eq!(claim(&caller, "shop/team"), ["pay"]);
}

#[tokio::test]
async fn an_access_token_that_a_client_was_granted_for_this_broker_is_accepted() {
    let (directory, ca) = ground();
    let (mut provider, url) = start_issuer(directory.path(), &["provider.mjs"]);
    let (_broker, anonymous) = start_broker(directory, ca, &[("provider", url.clone())], ABOUT_ONESELF).await;

    let granted = text(&provider.ask(&json!({ "resource": AUDIENCE })), "token");
    let (id, caller) = who_am_i(&anonymous, &granted).await.unwrap();
    assert_eq!(id, "oidc/provider/checkout");
    assert_eq!((caller.issuer_url.as_str(), &*caller.audiences), (url.as_str(), &[AUDIENCE.to_owned()][..]));
    assert_eq!(claim(&caller, "client_id"), ["checkout"]);
    assert_eq!(claim(&caller, "roles"), ["reader"]);

    let elsewhere = text(&provider.ask(&json!({ "resource": "https://another.test" })), "token");
    assert_eq!(reason(&who_am_i(&anonymous, &elsewhere).await.unwrap_err()), "TOKEN_AUDIENCE");
}

#[tokio::test]
async fn tokens_shaped_as_those_of_known_issuers_decide_policies_as_they_are() {
    const TENANT: &str = "/5f1c1f0e-3a52-4c7e-8f0e-0d1f4b8f1a22/v2.0";
    let paths =
        [("entra", TENANT), ("google", "/google"), ("cluster", "/cluster"), ("github", "/github"), ("spire", "/spire")];
    let mut mocked = Mocked::start(&paths, BY_CLAIMS).await;
    let entra = json!({ "sub": "8Zk", "oid": "7d0e2c1a-0c52-4f0e-9a3b-2f6a1f6f9a11", "azp": "c0ffee00", "azpacr": "2",
        "tid": "5f1c1f0e-3a52-4c7e-8f0e-0d1f4b8f1a22", "ver": "2.0", "roles": ["Secrets.Read"] });
    let google = json!({ "sub": "1083", "azp": "1083", "email": "checkout@shop.iam.gserviceaccount.com",
        "email_verified": true });
    let cluster = json!({ "sub": "system:serviceaccount:shop:checkout", "aud": [AUDIENCE], "kubernetes.io": {
        "namespace": "shop", "pod": { "name": "checkout-1", "uid": "b1" },
        "serviceaccount": { "name": "checkout", "uid": "a1" } } });
    let github = json!({ "sub": "repo:shop/checkout:ref:refs/heads/main", "repository": "shop/checkout",
        "ref": "refs/heads/main", "job_workflow_ref": "shop/checkout/.github/workflows/a.yml@refs/heads/main" });
    let spire = json!({ "sub": "spiffe://shop.test/checkout", "aud": [AUDIENCE] });
    let (at_entra, at_google, at_cluster) = (TENANT, "/google", "/cluster");
    let cases = [
        (at_entra, &entra, json!({ "roles": ["Secrets.List"] })),
        (at_google, &google, json!({ "email_verified": false })),
        (at_cluster, &cluster, json!({ "kubernetes.io": { "namespace": "other" }, "kubernetes.io/namespace": "shop" })),
        ("/github", &github, json!({ "sub": "repo:shop/checkout:ref:refs/heads/feature" })),
        ("/spire", &spire, json!({ "sub": "spiffe://shop.test/other" })),
    ];
    for (path, claims, change) in cases {
        let good = mocked.token(path, claims);
        mocked.read(&good).await.unwrap_or_else(|status| panic!("{path}: {status:?}"));
        let mut changed = claims.clone();
        changed.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let bad = mocked.token(path, &changed);
        assert_eq!(mocked.read(&bad).await.unwrap_err().code(), Code::PermissionDenied, "{path} {change}");
    }
    // What one issuer says is nothing in another one's name.
    let forged = mocked.token("/google", &github);
    assert_eq!(mocked.read(&forged).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_rotated_key_is_found_and_the_withdrawn_one_refused_on_an_open_connection() {
    let mut mocked = Mocked::start(&[("mock", "/mock")], ABOUT_ONESELF).await;
    let old = mocked.token("/mock", &json!({ "sub": "checkout" }));
    who_am_i(&mocked.anonymous, &old).await.unwrap();

    mocked.issuers.ask(&json!({ "issuer": "/mock", "rotate": true }));
    let rotated = SystemClock.monotonic();
    let new = mocked.token("/mock", &json!({ "sub": "checkout" }));
    // Unknown, so that it is asked for at once and the first call has it.
    who_am_i(&mocked.anonymous, &new).await.unwrap();
    let refused = loop {
        match who_am_i(&mocked.anonymous, &old).await {
            Ok(_) => assert!(SystemClock.monotonic() - rotated < BOUND, "the withdrawn key is in force still"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&refused), "TOKEN_KEY_UNKNOWN");
    who_am_i(&mocked.anonymous, &new).await.unwrap();
}

#[tokio::test]
async fn a_token_for_another_audience_is_told_which_one_was_expected() {
    let mut mocked = Mocked::start(&[("mock", "/mock")], ABOUT_ONESELF).await;
    let token = mocked.token("/mock", &json!({ "sub": "checkout", "aud": "https://another.test" }));
    let refused = who_am_i(&mocked.anonymous, &token).await.unwrap_err();
    assert_eq!(reason(&refused), "TOKEN_AUDIENCE");
    assert!(refused.message().contains("\"https://another.test\"") && refused.message().contains(AUDIENCE));
}

#[tokio::test]
async fn tokens_with_known_keys_are_accepted_while_their_issuer_is_down() {
    let mut mocked = Mocked::start(&[("mock", "/mock")], ABOUT_ONESELF).await;
    let known = mocked.token("/mock", &json!({ "sub": "checkout" }));
    let unseen = mocked.token("/mock", &json!({ "sub": "billing" }));
    who_am_i(&mocked.anonymous, &known).await.unwrap();

    let Mocked { broker, issuers, anonymous } = mocked;
    issuers.kill();
    // Only once a fetch has failed is it shown that what failed took nothing away.
    let stopped = SystemClock.monotonic();
    while !fetching_fails(&broker).await {
        assert!(SystemClock.monotonic() - stopped < BOUND, "the status does not tell that the issuer is down");
    }
    for token in [known, unseen] {
        who_am_i(&anonymous, &token).await.unwrap();
    }
}

/// A broker's directory, with a certificate for the issuers in it.
fn ground() -> (TempDir, Ca) {
    let (directory, ca) = (tempfile::tempdir().unwrap(), Ca::new("test CA"));
    std::fs::write(directory.path().join("ca.pem"), ca.pem()).unwrap();
    ca.server("issuer.test").write(directory.path(), "issuer");
    (directory, ca)
}

/// The script's name, and what it takes beside the certificate.
fn start_issuer(directory: &Path, command: &[&str]) -> (Script, String) {
    let [certificate, key] = ["issuer.pem", "issuer.key"].map(|file| directory.join(file));
    let mut arguments = vec![certificate.to_str().unwrap(), key.to_str().unwrap()];
    arguments.extend(&command[1..]);
    let (script, greeting) = Script::start(command[0], &arguments, &directory.join("ca.pem"));
    (script, text(&greeting, "url"))
}

async fn start_broker(directory: TempDir, ca: Ca, issuers: &[(&str, String)], policy: &str) -> (TestBroker, Channel) {
    let mut more = String::new();
    for (name, url) in issuers {
        more += &format!(
            "[issuers.{name}]\nurl = \"{url}\"\naudiences = [\"{AUDIENCE}\"]\nca = \"ca.pem\"\nrefresh_interval = \"1s\"\n"
        );
    }
    prepare(directory.path(), &ca, &more);
    let config = directory.path().join("keyferry.toml");
    let configured = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, configured.replace("[tls]", "[tls]\nclient_certificate = \"optional\"")).unwrap();
    std::fs::write(directory.path().join("policy/test.cedar"), format!("{POLICY}{policy}")).unwrap();
    let broker = TestBroker::start_in(directory, ca, Arc::new(SystemClock)).await;
    let anonymous = broker.connect(trusting(&broker.ca)).await.unwrap();
    (broker, anonymous)
}

async fn fetching_fails(broker: &TestBroker) -> bool {
    let mut operator = broker.operations(&broker.operator).await;
    let status = operator.get_status(GetStatusRequest {}).await.unwrap().into_inner().status.unwrap();
    status.issuers[0].keys.as_ref().unwrap().last_error.is_some()
}

async fn who_am_i(channel: &Channel, token: &str) -> Result<(String, CallerToken), Status> {
    let mut client = OperatorServiceClient::new(channel.clone());
    let caller = client.who_am_i(bearing(token, WhoAmIRequest {})).await?.into_inner().caller.unwrap();
    Ok((caller.id, caller.token.unwrap()))
}

fn bearing<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

fn claim(token: &CallerToken, path: &str) -> Vec<String> {
    use prost_types::value::Kind;
    let text = |value: &prost_types::Value| match &value.kind {
        Some(Kind::StringValue(text)) => text.clone(),
        other => panic!("{path} is {other:?}"),
    };
    match token.claims.as_ref().and_then(|claims| claims.fields.get(path)).and_then(|value| value.kind.as_ref()) {
        Some(Kind::ListValue(list)) => list.values.iter().map(text).collect(),
        other => panic!("{path} is {other:?}"),
    }
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap().reason
}

fn text(answer: &Value, member: &str) -> String {
    answer[member].as_str().unwrap_or_else(|| panic!("the issuer answered {answer}")).to_owned()
}
