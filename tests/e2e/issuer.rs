//! The broker as an issuer: its tokens before a judge that applies CockroachDB's rules with CockroachDB's own library.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use bytes::Bytes;
use http::{Request, StatusCode};
use keyferry_broker::clock::{Clock as _, SharedClock, SystemClock};
use keyferry_proto::v1::mint_database_token_request::ClientKey;
use keyferry_proto::v1::mint_database_token_response::Credential;
use keyferry_proto::v1::{
    AccessTokenUsage, DisableSecretVersionRequest, GetStatusRequest, MintDatabaseTokenRequest,
    MintDatabaseTokenResponse,
};
use keyferry_tests::broker::{TestBroker, prepare};
use keyferry_tests::clock::ManualClock;
use keyferry_tests::pki::Ca;
use keyferry_tests::web;
use rcgen::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Status;

use crate::audit::records;
use crate::reload::eventually;
use crate::status::{reason, refused};

const ROLE: &str = "databases/orders/roles/app";
const HOUR: u64 = 3600;

struct World {
    broker: TestBroker,
    url: String,
}

impl World {
    async fn new(clock: SharedClock) -> Self {
        let directory = TempDir::new().unwrap();
        let ca = Ca::new("test CA");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("https://127.0.0.1:{port}");
        prepare(directory.path(), &ca, &configuration(&url));
        let file = directory.path().join("keyferry.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("web = \"127.0.0.1:0\"", &format!("web = \"127.0.0.1:{port}\""))).unwrap();
        Self { broker: TestBroker::start_in(directory, ca, clock).await, url }
    }

    /// With a key that signs.
    async fn signing(clock: SharedClock) -> (Self, KeyPair) {
        let world = Self::new(clock).await;
        let key = KeyPair::generate().unwrap();
        world.put_key(&key).await;
        eventually("the key signs", async || world.mint(None).await.is_ok()).await;
        (world, key)
    }

    async fn put_key(&self, key: &KeyPair) -> String {
        self.broker.put("issuer-key", key.serialize_pem().as_bytes(), &[]).await.version.unwrap().name
    }

    async fn mint(&self, ttl: Option<i64>) -> Result<MintDatabaseTokenResponse, Status> {
        let ttl = ttl.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
        self.ask(MintDatabaseTokenRequest { name: ROLE.into(), ttl, ..Default::default() }).await
    }

    async fn ask(&self, request: MintDatabaseTokenRequest) -> Result<MintDatabaseTokenResponse, Status> {
        let answer = self.broker.tokens(&self.broker.operator).await.mint_database_token(request).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn get(&self, path: &str) -> http::Response<Bytes> {
        let address = self.broker.broker.web_address().unwrap();
        web::send(address, &self.broker.ca, Request::get(path).body(Bytes::new()).unwrap()).await
    }

    /// The ids of the published keys.
    async fn published(&self) -> Vec<String> {
        let answer = self.get("/.well-known/jwks.json").await;
        if answer.status() != StatusCode::OK {
            return Vec::new();
        }
        let set: Value = serde_json::from_slice(answer.body()).unwrap();
        set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    /// A login that is let in.
    fn login(&self, token: &str) -> Value {
        json!({
            "token": token,
            "user": "app",
            "issuers": [self.url],
            "audience": ["elsewhere", "orders-cluster"],
            "ca": self.broker.ca.pem(),
        })
    }
}

fn configuration(url: &str) -> String {
    format!(
        r#"
[issuer]
url = "{url}"
signing_key = "stores/local/secrets/issuer-key"
refresh_interval = "1s"

[databases.orders]
kind = "cockroach"
host = "crdb.example.com"
database = "orders"
ca = "ca.pem"
audience = "orders-cluster"

[databases.orders.roles.app]
user = "app"
"#
    )
}

fn token_of(answer: &MintDatabaseTokenResponse) -> String {
    let Some(Credential::AccessToken(token)) = &answer.credential else { panic!("no token: {answer:?}") };
    assert_eq!(token.usage(), AccessTokenUsage::Password);
    token.access_token.clone()
}

fn part(token: &str, index: usize) -> Value {
    serde_json::from_slice(&BASE64URL.decode(token.split('.').nth(index).unwrap()).unwrap()).unwrap()
}

fn with(mut login: Value, key: &str, value: Value) -> Value {
    login[key] = value;
    login
}

/// What refuses each login; nothing where it is let in.
async fn judge(logins: &[Value]) -> Vec<String> {
    let logins = serde_json::to_vec(logins).unwrap();
    let work = move || {
        let mut judge = Command::new("jwt-judge")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the judge needs tools/install jwt-judge");
        judge.stdin.take().unwrap().write_all(&logins).unwrap();
        let output = judge.wait_with_output().unwrap();
        assert!(output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn unsigned(header: &Value, claims: &Value) -> String {
    [header, claims].map(|part| BASE64URL.encode(part.to_string())).join(".")
}

/// With any header and claims, truly signed.
fn forge(key: &KeyPair, header: &Value, claims: &Value) -> String {
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.serialized_der()).unwrap();
    let signed = unsigned(header, claims);
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64URL.encode(signature))
}

#[tokio::test]
async fn a_cluster_lets_a_minted_token_in_and_none_that_breaks_a_rule() {
    let (world, key) = World::signing(Arc::new(SystemClock)).await;
    let answer = world.mint(None).await.unwrap();
    let token = token_of(&answer);
    let (header, claims) = (part(&token, 0), part(&token, 1));
    let (begins, ends) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
    let good = world.login(&token);

    let set = world.get("/.well-known/jwks.json").await;
    let encrypting = String::from_utf8(set.body().to_vec()).unwrap().replace("\"sig\"", "\"enc\"");
    let claiming = |name: &str, value: Value| forge(&key, &header, &with(claims.clone(), name, value));
    let heading = |name: &str, value: Value| forge(&key, &with(header.clone(), name, value), &claims);
    let mut unnamed = header.clone();
    unnamed.as_object_mut().unwrap().remove("kid");
    let of_hmac = {
        let signed = unsigned(&with(header.clone(), "alg", json!("HS256")), &claims);
        let public = hmac::Key::new(hmac::HMAC_SHA256, key.public_key_raw());
        format!("{signed}.{}", BASE64URL.encode(hmac::sign(&public, signed.as_bytes())))
    };
    let tampered = {
        let mut parts: Vec<_> = token.split('.').map(ToOwned::to_owned).collect();
        parts[1] = BASE64URL.encode(with(claims.clone(), "exp", json!(ends + 1)).to_string());
        parts.join(".")
    };
    let cases = [
        ("as it was minted", good.clone(), ""),
        ("by a clock that is behind", with(good.clone(), "now", json!(begins + 1)), ""),
        ("in its last second", with(good.clone(), "now", json!(ends - 1)), ""),
        ("made again with the same claims", world.login(&forge(&key, &header, &claims)), ""),
        ("for another audience", with(good.clone(), "audience", json!(["elsewhere"])), "audience"),
        ("from the future", with(good.clone(), "now", json!(begins - 2)), "verification"),
        ("expired", with(good.clone(), "now", json!(ends + 1)), "verification"),
        (
            "of an issuer that is not configured",
            with(good.clone(), "issuers", json!([world.url.clone() + "/"])),
            "issuer",
        ),
        ("naming another issuer", world.login(&claiming("iss", json!("https://127.0.0.1:1"))), "issuer"),
        ("by keys that are for encryption", with(good.clone(), "jwks", json!(encrypting)), "verification"),
        ("with an unknown kid", world.login(&heading("kid", json!("other"))), "verification"),
        ("without a kid", world.login(&forge(&key, &unnamed, &claims)), "verification"),
        ("signed by another key", world.login(&forge(&KeyPair::generate().unwrap(), &header, &claims)), "verification"),
        ("signed by nobody", world.login(&(unsigned(&json!({ "alg": "none" }), &claims) + ".")), "verification"),
        ("signed with the public key as a secret", world.login(&of_hmac), "verification"),
        ("changed after it was signed", world.login(&tampered), "verification"),
        ("for another user", with(good.clone(), "user", json!("batch")), "subject"),
        ("for root", with(world.login(&claiming("sub", json!("root"))), "user", json!("root")), "user"),
        ("for the nodes", with(world.login(&claiming("sub", json!("node"))), "user", json!("node")), "user"),
        ("cut short", world.login(&token[..token.len() / 2]), "token"),
    ];
    let logins: Vec<_> = cases.iter().map(|(_, login, _)| login.clone()).collect();
    for ((case, _, rule), verdict) in cases.iter().zip(judge(&logins).await) {
        let found = verdict.split(':').next().unwrap();
        assert_eq!(found, *rule, "{case}: {verdict}");
    }
}

#[tokio::test]
async fn a_token_names_its_caller_and_comes_with_all_that_a_client_needs() {
    let (world, _) = World::signing(Arc::new(SystemClock)).await;
    let answer = world.mint(Some(60)).await.unwrap();
    let (first, second) = (part(&token_of(&answer), 1), part(&token_of(&world.mint(None).await.unwrap()), 1));
    let caller = "x509/spiffe://test.keyferry/operator";
    assert_eq!((&first["sub"], &first["act"]["sub"], &first["role"]), (&json!("app"), &json!(caller), &json!(ROLE)));
    assert_ne!(first["jti"], second["jti"]);
    let on_record = records(&world.broker.path().join("audit"));
    let [.., one, other] = on_record.as_slice() else { panic!("{on_record:?}") };
    assert_eq!((&one["credential"], &other["credential"]), (&first["jti"], &second["jti"]));
    assert_eq!(first["exp"].as_i64(), answer.expire_time.map(|time| time.seconds));
    assert_eq!(first["exp"].as_i64().unwrap() - first["iat"].as_i64().unwrap(), 90);
    assert_eq!((answer.user.as_str(), answer.lease), ("app", None));
    let connection = answer.connection.unwrap();
    assert_eq!(
        (connection.host.as_str(), connection.port, connection.database.as_str()),
        ("crdb.example.com", 26257, "orders")
    );
    assert_eq!(connection.parameters["options"], "--crdb:jwt_auth_enabled=true");
    assert_eq!(connection.parameters["sslmode"], "verify-full");
    assert_eq!(connection.parameters["application_name"], caller);
    assert_eq!(connection.ca_pem, world.broker.ca.pem());

    let discovery = world.get("/.well-known/openid-configuration").await;
    assert_eq!(discovery.headers()["content-type"], "application/json");
    let discovery: Value = serde_json::from_slice(discovery.body()).unwrap();
    assert_eq!(discovery["issuer"], world.url);
    assert_eq!(discovery["jwks_uri"], format!("{}/.well-known/jwks.json", world.url));
    assert_eq!(world.get("/.well-known/jwks.json").await.headers()["cache-control"], "public, max-age=1");
}

#[tokio::test]
async fn a_life_is_what_was_wished_within_what_the_role_allows() {
    let (world, _) = World::signing(Arc::new(SystemClock)).await;
    let life = async |ttl| {
        let claims = part(&token_of(&world.mint(ttl).await.unwrap()), 1);
        claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap() - 30
    };
    assert_eq!((life(None).await, life(Some(1)).await, life(Some(1 << 40)).await), (900, 1, HOUR));
    for ttl in [0, -1, i64::MIN] {
        assert_eq!(refused(world.mint(Some(ttl)).await), "INVALID_ARGUMENT", "{ttl}");
    }
    let own = Some(ClientKey::PublicKeyPem(KeyPair::generate().unwrap().public_key_pem()));
    let request = MintDatabaseTokenRequest { name: ROLE.into(), client_key: own, ..Default::default() };
    assert_eq!(refused(world.ask(request).await), "UNSUPPORTED_BY_STORE");
    let request = MintDatabaseTokenRequest { name: ROLE.into(), validate_only: true, ..Default::default() };
    assert_eq!(world.ask(request).await.unwrap(), MintDatabaseTokenResponse::default());
}

#[tokio::test]
async fn without_a_key_that_signs_a_mint_says_what_is_wrong_with_it() {
    let world = World::new(Arc::new(SystemClock)).await;
    let told = async |fault: &str| {
        eventually(fault, async || {
            let status = world.mint(None).await.unwrap_err();
            assert_eq!(reason(&status), "PROVIDER_CREDENTIAL");
            status.message().contains(fault)
        })
        .await;
    };
    told("stores/local/secrets/issuer-key, which the broker works with, cannot be read").await;
    assert_eq!(world.get("/.well-known/jwks.json").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    world.broker.put("issuer-key", b"hunter2", &[]).await;
    told("stores/local/secrets/issuer-key is no PEM").await;
    let certificate = world.broker.ca.pem();
    world.broker.put("issuer-key", certificate.as_bytes(), &[]).await;
    told("stores/local/secrets/issuer-key holds no private key").await;
    // What is good makes up for what is bad before it, and what is bad after it changes nothing.
    let key = KeyPair::generate().unwrap();
    world.put_key(&key).await;
    eventually("the key signs", async || world.mint(None).await.is_ok()).await;
    let published = world.published().await;
    world.broker.put("issuer-key", b"hunter3", &[]).await;
    eventually("the fault is reported", async || {
        let status = world.broker.operations(&world.broker.operator).await.get_status(GetStatusRequest {}).await;
        let databases = status.unwrap().into_inner().status.unwrap().databases;
        databases.iter().any(|database| format!("{database:?}").contains("is no PEM"))
    })
    .await;
    assert_eq!((published.len(), world.published().await), (1, published));
    assert!(world.mint(None).await.is_ok());
}

#[tokio::test]
async fn keys_change_without_a_token_that_nobody_verifies() {
    let clock = Arc::new(ManualClock::new());
    let (world, _) = World::signing(Arc::clone(&clock) as _).await;
    let kid = |token: &str| part(token, 0)["kid"].as_str().unwrap().to_owned();
    let now = || clock.now().as_secs();
    let first = token_of(&world.mint(Some(3600)).await.unwrap());
    let old = kid(&first);

    // Published before it signs.
    let second_version = world.put_key(&KeyPair::generate().unwrap()).await;
    eventually("both are published", async || world.published().await.len() == 2).await;
    let new = world.published().await.into_iter().find(|id| *id != old).unwrap();
    assert_eq!(kid(&token_of(&world.mint(None).await.unwrap())), old);
    clock.advance(Duration::from_secs(3));
    eventually("the new one signs", async || kid(&token_of(&world.mint(None).await.unwrap())) == new).await;

    // Both verify until the last token of the old one has ended.
    clock.advance(Duration::from_secs(HOUR - 10));
    let second = token_of(&world.mint(None).await.unwrap());
    let logins = [&first, &second].map(|token| with(world.login(token), "now", json!(now())));
    assert_eq!(judge(&logins).await, ["", ""]);
    clock.advance(Duration::from_secs(20));
    eventually("the old one is gone", async || world.published().await == [new.clone()]).await;
    let before_its_end = with(world.login(&first), "now", json!(now() - 30));
    let verdicts = judge(&[before_its_end, with(world.login(&second), "now", json!(now()))]).await;
    assert!(verdicts[0].starts_with("verification"), "{verdicts:?}");
    assert_eq!(verdicts[1], "");

    // Taken out of use, it is gone at once, and nothing older comes back.
    let mut secrets = world.broker.secrets(&world.broker.operator).await;
    let request = DisableSecretVersionRequest { name: second_version, ..Default::default() };
    secrets.disable_secret_version(request).await.unwrap();
    eventually("nothing is published", async || world.published().await.is_empty()).await;
    assert_eq!(refused(world.mint(None).await), "PROVIDER_CREDENTIAL");
    let third = KeyPair::generate().unwrap();
    world.put_key(&third).await;
    eventually("its successor signs at once", async || world.mint(None).await.is_ok()).await;
    assert_eq!(world.published().await.len(), 1);
}
