//! Google Secret Manager: the double is judged by Google's own client, and the `gcp` store by the double.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderValue, Response, StatusCode};
use futures_util::future::BoxFuture;
use keyferry_broker::clock::{SystemClock, Timestamp};
use keyferry_broker::config::GcpStore as Settings;
use keyferry_broker::error::{Detail, Failure, Reason};
use keyferry_broker::names::{SecretName, StoreName, VersionId};
use keyferry_broker::providers::credential::{Broken, Credential, Token, TokenSource};
use keyferry_broker::providers::gcp::GcpStore;
use keyferry_broker::providers::guard::{Budget, Guard, GuardSettings};
use keyferry_broker::secrets::{Page, Provider as _, SecretBytes};
use keyferry_proto::v1::batch_get_secrets_result::Result as Entry;
use keyferry_proto::v1::{AddSecretVersionRequest, BatchGetSecretsRequest, GetSecretRequest};
use keyferry_tests::broker::TestBroker;
use keyferry_tests::conformance::conforms_given;
use keyferry_tests::doubles::faults::Fault;
use keyferry_tests::doubles::http::{self, Handler, Server};
use keyferry_tests::doubles::secret_manager::{Lag, Method, PROJECT, SecretManager};
use serde_json::json;
use tokio::net::TcpListener;

use crate::status;
use crate::visibility::{HIDING, assert_alike, enforce};

pub(crate) const TOKEN: &str = "token-of-the-broker";
const PATIENCE: Duration = Duration::from_secs(10);
const REGION: &str = "europe-west3";

#[tokio::test(flavor = "multi_thread")]
async fn googles_own_client_accepts_the_double() {
    let google = SecretManager::start().await;
    google.grant(TOKEN, &Method::ALL);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let judged = tokio::process::Command::new(here.join("../.tools/pypi/cloud-clients/bin/python"))
        .arg(here.join("judges/secret_manager.py"))
        .args([&google.endpoint(), &google.grpc_endpoint(), TOKEN])
        .kill_on_drop(true)
        .output()
        .await
        .expect("the judge needs its packages: tools/install cloud-clients");
    let (said, complaint) = (String::from_utf8_lossy(&judged.stdout), String::from_utf8_lossy(&judged.stderr));
    assert!(judged.status.success() && said.trim() == "accepted", "{said}{complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gcp_store_conforms_globally_and_regionally() {
    for location in [None, Some(REGION)] {
        let google = SecretManager::start().await;
        google.grant(TOKEN, &Method::ALL);
        let store = open(&google, location).await;
        let create = async |secret: &SecretName| google.create_secret(location, secret.id(), &[]);
        conforms_given(&store, &name(), create).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tells_labels_and_the_real_version_behind_latest() {
    let google = with_versions(&[b"1", b"2"]).await;
    google.create_secret(None, "labelled", &[("team", "payments"), ("tier", "1")]);
    let store = open(&google, None).await;
    let labels = store.describe(&secret("labelled")).await.unwrap().labels;
    let told: Vec<_> = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(told, [("team", "payments"), ("tier", "1")]);

    assert_eq!(&*store.fetch(&secret("db"), &VersionId::Latest).await.unwrap().version.id, "2");
    google.set_lag(Lag::Lasting);
    let added = store.add(&secret("db"), bytes(b"3"), None).await.unwrap();
    assert_eq!(&*store.fetch(&secret("db"), &VersionId::Latest).await.unwrap().version.id, "2", "Google's own lag");
    let exact = VersionId::exact(&added.id).unwrap();
    assert_eq!(&*store.fetch(&secret("db"), &exact).await.unwrap().version.id, "3", "a number never lags");
    google.set_lag(Lag::Reads(1));
    for expected in ["2", "3"] {
        assert_eq!(&*store.fetch(&secret("db"), &VersionId::Latest).await.unwrap().version.id, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_in_the_wrong_state_is_told_from_one_that_is_not_there() {
    let google = with_versions(&[b"1", b"2", b"3"]).await;
    let store = open(&google, None).await;
    google.destroy_version(None, "db", 1);
    store.set_enabled(&secret("db"), &version("2"), false).await.unwrap();
    google.create_secret(None, "empty", &[]);
    for (id, asked, reason) in [
        ("db", version("1"), Reason::VersionDestroyed),
        ("db", version("2"), Reason::VersionDisabled),
        ("db", version("4"), Reason::VersionNotFound),
        ("empty", VersionId::Latest, Reason::VersionNotFound),
        ("absent", VersionId::Latest, Reason::SecretNotFound),
        ("absent", version("1"), Reason::SecretNotFound),
    ] {
        assert_eq!(refused(&store, id, &asked).await.reason(), reason, "{id} {asked:?}");
    }
    for enabled in [true, false] {
        let refused = store.set_enabled(&secret("db"), &version("1"), enabled).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::VersionDestroyed);
    }
    let newest = store.set_enabled(&secret("db"), &VersionId::Latest, false).await.unwrap();
    assert_eq!(&*newest.version.id, "3", "latest is resolved before it is changed");
    assert_eq!(refused(&store, "db", &VersionId::Latest).await.reason(), Reason::VersionDisabled);

    // A broker that may read values and nothing else cannot take the second look, and says what it knows.
    google.grant(TOKEN, &[Method::AccessSecretVersion]);
    assert_eq!(refused(&store, "db", &version("1")).await.reason(), Reason::VersionDisabled);
    assert_eq!(refused(&store, "db", &version("4")).await.reason(), Reason::VersionNotFound);
    assert_eq!(refused(&store, "absent", &VersionId::Latest).await.reason(), Reason::SecretNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_stands_whatever_becomes_of_the_second_look() {
    let google = with_versions(&[b"1", b"2"]).await;
    open(&google, None).await.set_enabled(&secret("db"), &version("2"), false).await.unwrap();
    let refusals = [
        ("db", version("2"), Reason::VersionDisabled, Method::GetSecretVersion),
        ("db", VersionId::Latest, Reason::VersionDisabled, Method::GetSecretVersion),
        ("db", version("3"), Reason::VersionNotFound, Method::GetSecret),
        ("absent", VersionId::Latest, Reason::SecretNotFound, Method::GetSecret),
    ];
    for (id, asked, reason, second) in refusals {
        let store = open(&google, None).await;
        // The budget's only request is made.
        let spent = with_metadata_budget(&google.endpoint(), None, PATIENCE, 1).await;
        spent.describe(&secret("db")).await.unwrap();
        google.spoil_only(second);
        google.faults().set(Fault::Status(503));
        assert_eq!(refused(&store, id, &asked).await.reason(), reason, "out: {id} {asked:?}");
        google.faults().clear();
        let before = google.count(second);
        assert_eq!(refused(&spent, id, &asked).await.reason(), reason, "no budget: {id} {asked:?}");
        assert_eq!(google.count(second), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_google_cannot_have_costs_no_request() {
    let google = with_versions(&[b"1"]).await;
    let store = open(&google, None).await;
    for asked in ["0", "01", "1a", "latest1", "18446744073709551616", "0123456789abcdef0123456789abcdef"] {
        let asked = version(asked);
        assert_eq!(refused(&store, "db", &asked).await.reason(), Reason::VersionNotFound, "{asked:?}");
        let changed = store.set_enabled(&secret("db"), &asked, false).await;
        assert_eq!(changed.unwrap_err().reason(), Reason::VersionNotFound, "{asked:?}");
    }
    assert_eq!(google.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn takes_payloads_of_1_to_65536_bytes() {
    let google = with_versions(&[]).await;
    let store = open(&google, None).await;
    for length in [1, 65_536] {
        let added = store.add(&secret("db"), SecretBytes::new(vec![0xa5; length]), None).await.unwrap();
        let read = store.fetch(&secret("db"), &version(&added.id)).await.unwrap();
        assert_eq!((read.payload.len(), read.crc32c), (length, crc32c::crc32c(&vec![0xa5; length])));
    }
    for length in [0, 65_537] {
        let refused = store.add(&secret("db"), SecretBytes::new(vec![0xa5; length]), None).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::InvalidArgument);
        assert!(matches!(refused.detail(), Detail::BadField { field, .. } if field == "payload"), "{refused}");
        assert!(refused.message().contains(&length.to_string()) && refused.message().contains("65536"), "{refused}");
    }
    assert_eq!(google.count(Method::AddSecretVersion), 2, "what cannot be kept is not sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_does_not_match_its_checksum_is_read_once_more() {
    let google = with_versions(&[b"1"]).await;
    let store = open(&google, None).await;
    google.faults().set_for(Fault::WrongCrc, 1);
    assert!(store.fetch(&secret("db"), &VersionId::Latest).await.is_ok());
    assert_eq!(google.count(Method::AccessSecretVersion), 2);
    google.faults().set(Fault::WrongCrc);
    assert_eq!(refused(&store, "db", &VersionId::Latest).await.reason(), Reason::PayloadCorrupt);
    assert_eq!(google.count(Method::AccessSecretVersion), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broken_answer_has_its_reason() {
    let google = with_versions(&[b"value-nobody-may-see"]).await;
    for (fault, reason) in [
        (Fault::Garbage, Reason::ProviderUnavailable),
        (Fault::TruncatedBody, Reason::ProviderUnavailable),
        (Fault::SlowBody, Reason::ProviderUnavailable),
        (Fault::BlackHole, Reason::ProviderUnavailable),
        (Fault::Status(500), Reason::ProviderUnavailable),
        (Fault::Status(502), Reason::ProviderUnavailable),
        (Fault::Status(503), Reason::ProviderUnavailable),
        (Fault::Status(504), Reason::ProviderUnavailable),
        (Fault::Throttle { retry_after: None }, Reason::ProviderThrottled),
        (Fault::Bare(403), Reason::ProviderUnavailable),
        (Fault::Bare(404), Reason::ProviderUnavailable),
        (Fault::Status(403), Reason::ProviderDenied),
        (Fault::Status(401), Reason::ProviderCredential),
    ] {
        google.faults().set(fault);
        let never_ends = matches!(fault, Fault::SlowBody | Fault::BlackHole);
        let patience = if never_ends { Duration::from_millis(300) } else { PATIENCE };
        // One store for each, as a guard that has seen enough of this asks no more.
        let store = async || open_at(&google.endpoint(), None, patience).await;
        // Enabling what is enabled: garbage may come after the deed, and the other requests are under way.
        let (read, described, listed, versions, added, enabled) = futures_util::join!(
            async { refused(&store().await, "db", &VersionId::Latest).await },
            async { store().await.describe(&secret("db")).await.unwrap_err() },
            async { store().await.list(page(None)).await.unwrap_err() },
            async { store().await.versions(&secret("db"), page(None)).await.unwrap_err() },
            async { store().await.add(&secret("db"), bytes(b"value-nobody-may-see"), None).await.unwrap_err() },
            async { store().await.set_enabled(&secret("db"), &version("1"), true).await.unwrap_err() },
        );
        for failure in [read, described, listed, versions, added, enabled] {
            assert_eq!(failure.reason(), reason, "{fault:?}: {failure}");
            let told = format!("{failure:?}");
            for private in ["value-nobody-may-see", "A fault was switched on", "it works", TOKEN] {
                assert!(!told.contains(private), "{fault:?} quotes the other side: {told}");
            }
        }
        google.faults().clear();
    }
    let store = open(&google, None).await;
    assert!(store.fetch(&secret("db"), &VersionId::Latest).await.is_ok(), "and all is well again");

    let gone = google.endpoint();
    drop(google);
    let store = open_at(&gone, None, PATIENCE).await;
    assert_eq!(refused(&store, "db", &VersionId::Latest).await.reason(), Reason::ProviderUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let google = with_versions(&[b"1"]).await;
    let target = google.endpoint();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let handler: Handler = Arc::new(move |request| {
        let mut answer = http::json(StatusCode::TEMPORARY_REDIRECT, &json!({}));
        let place = format!("{target}{}", request.uri());
        answer.headers_mut().insert("location", HeaderValue::try_from(place).unwrap());
        Box::pin(std::future::ready(answer))
    });
    let elsewhere = http::serve(listener, None, handler);
    let store = open_at(&format!("http://{}", elsewhere.address()), None, PATIENCE).await;
    assert_eq!(refused(&store, "db", &VersionId::Latest).await.reason(), Reason::ProviderUnavailable);
    assert_eq!(google.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_is_passed_on_with_the_wait_that_google_asks_for() {
    let google = with_versions(&[b"1"]).await;
    let store = open(&google, None).await;
    let wait = Duration::from_secs(7);
    google.faults().set(Fault::Throttle { retry_after: Some(wait) });
    assert_eq!(*refused(&store, "db", &VersionId::Latest).await.detail(), Detail::RetryAfter(wait));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_names_the_permission_the_role_and_the_account() {
    let google = with_versions(&[b"1"]).await;
    google.grant(TOKEN, &[]);
    let store = open(&google, None).await;
    for (failure, permission, role) in [
        (refused(&store, "db", &VersionId::Latest).await, "versions.access", "secretAccessor"),
        (store.describe(&secret("db")).await.unwrap_err(), "secrets.get", "viewer"),
        (store.list(page(None)).await.unwrap_err(), "secrets.list", "viewer"),
        (store.versions(&secret("db"), page(None)).await.unwrap_err(), "versions.list", "viewer"),
        (store.add(&secret("db"), bytes(b"x"), None).await.unwrap_err(), "versions.add", "secretVersionAdder"),
        (
            store.set_enabled(&secret("db"), &version("1"), true).await.unwrap_err(),
            "versions.enable",
            "secretVersionManager",
        ),
    ] {
        assert_eq!(failure.reason(), Reason::ProviderDenied);
        for part in [&format!("secretmanager.{permission} "), &format!("roles/secretmanager.{role} "), SUBJECT] {
            assert!(failure.message().contains(part), "{part}: {failure}");
        }
        assert!(!failure.message().contains("may not exist"), "quotes Google: {failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_tried_once_more_and_reported() {
    let google = with_versions(&[b"1"]).await;
    let store = open(&google, None).await;
    google.faults().set_for(Fault::Status(401), 1);
    assert!(store.fetch(&secret("db"), &VersionId::Latest).await.is_ok());
    google.faults().set_for(Fault::Status(401), 1);
    assert!(store.add(&secret("db"), bytes(b"2"), None).await.is_ok());
    assert_eq!(google.count(Method::AddSecretVersion), 2, "a refused add added nothing");
    google.revoke(TOKEN);
    let before = google.requests();
    assert_eq!(refused(&store, "db", &VersionId::Latest).await.reason(), Reason::ProviderCredential);
    assert_eq!(google.requests() - before, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_of_another_list_is_named() {
    let google = with_versions(&[b"1"]).await;
    let store = open(&google, None).await;
    let failures = [
        store.list(page(Some("x"))).await.unwrap_err(),
        store.versions(&secret("db"), page(Some("x"))).await.unwrap_err(),
    ];
    for failure in failures {
        assert_eq!(failure.reason(), Reason::InvalidPageToken, "{failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_reads_googles_secrets_with_the_token_of_its_machine() {
    let google = with_versions(&[b"of old", b"of now"]).await;
    let (broker, _metadata) = broker_on(&google, "").await;
    let mut client = broker.secrets(&broker.client).await;
    let mut get = async |name: &str| {
        let request = GetSecretRequest { name: name.to_owned(), ..GetSecretRequest::default() };
        client.get_secret(request).await.map(tonic::Response::into_inner)
    };
    let read = get("stores/google/secrets/db").await.unwrap();
    assert_eq!(read.payload.as_ref(), b"of now");
    assert_eq!(read.name, "stores/google/secrets/db/versions/2");
    assert_eq!(get("stores/google/secrets/db/versions/1").await.unwrap().payload.as_ref(), b"of old");

    let before = google.requests();
    let long = "x".repeat(10_000);
    for id in ["..", ".", "%2f..%2fdb", "db%2fversions%2f1", "db\0", "db/../db", "пароль", "db:access", "", &long]
    {
        assert_eq!(status::refused(get(&format!("stores/google/secrets/{id}")).await), "INVALID_NAME", "{id:?}");
    }
    assert_eq!(google.requests(), before, "a name that is wrong by itself costs no request");
    assert_eq!(status::refused(get("stores/google/secrets/absent").await), "SECRET_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_nothing_has_a_store_asked_no_further_than_quota_goes() {
    let google = with_versions(&[b"1"]).await;
    let (broker, _metadata) = broker_on(&google, "[quota]\ndistinct_secrets = 5\n").await;
    enforce(&broker, HIDING).await;
    let stranger = broker.ca.client("stranger");
    let invented = |index| GetSecretRequest { name: format!("stores/google/secrets/s{index}"), ..Default::default() };
    let requests = (0..100).map(invented).collect();
    let batch = broker.secrets(&stranger).await.batch_get_secrets(BatchGetSecretsRequest { requests }).await;
    let mut told = BTreeMap::new();
    for entry in batch.unwrap().into_inner().results {
        let Some(Entry::Error(error)) = entry.result else { panic!("{entry:?}") };
        *told.entry(format!("{:?}", error.reason())).or_insert(0) += 1;
    }
    assert_eq!(told, [("AccessDenied".to_owned(), 5), ("DistinctSecretsExceeded".to_owned(), 95)].into());
    assert_eq!(google.count(Method::GetSecret), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_addition_tells_hidden_from_absent_no_more_and_creates_nothing() {
    let google = with_versions(&[b"1"]).await;
    google.create_secret(None, "hidden", &[("env", "prod")]);
    let (broker, _metadata) = broker_on(&google, "").await;
    enforce(&broker, HIDING).await;
    let mut client = broker.secrets(&broker.client).await;
    let mut add = async |id: &str, payload: &'static [u8], allow_missing, validate_only, env: &str| {
        let request = AddSecretVersionRequest {
            parent: format!("stores/google/secrets/{id}"),
            payload: payload.into(),
            allow_missing,
            validate_only,
            labels: [("env".to_owned(), env.to_owned())].into(),
            ..Default::default()
        };
        client.add_secret_version(request).await
    };
    for (payload, allow_missing, env, told) in [
        (&b"x"[..], false, "dev", "SECRET_NOT_FOUND"),
        (b"x", true, "dev", "UNSUPPORTED_BY_STORE"),
        (b"x", true, "prod", "UNSUPPORTED_BY_STORE"),
        (b"", false, "dev", "INVALID_ARGUMENT"),
        (b"", true, "dev", "INVALID_ARGUMENT"),
    ] {
        for validate_only in [true, false] {
            let hidden = add("hidden", payload, allow_missing, validate_only, env).await.unwrap_err();
            let absent = add("absent", payload, allow_missing, validate_only, env).await.unwrap_err();
            assert_alike(&hidden, &absent, told);
        }
    }
    let added = add("db", b"2", true, false, "prod").await.unwrap().into_inner();
    assert_eq!(added.version.unwrap().name, "stores/google/secrets/db/versions/2", "what exists need not be created");
}

async fn broker_on(google: &SecretManager, more: &str) -> (TestBroker, Server) {
    let metadata = metadata_server().await;
    let configuration = format!("{}{more}", on_google(google, &metadata));
    (TestBroker::with(&configuration, Arc::new(SystemClock)).await, metadata)
}

/// The configuration of a store `google`.
pub(crate) fn on_google(google: &SecretManager, metadata: &Server) -> String {
    format!(
        "[credentials.machine]\nkind = \"google-metadata\"\nmetadata_url = \"http://{}\"\n\
         [stores.google]\nkind = \"gcp\"\nproject = \"{PROJECT}\"\ncredential = \"machine\"\nendpoint = \"{}\"\n",
        metadata.address(),
        google.endpoint()
    )
}

/// Of a virtual machine in Google's cloud, as far as tokens go.
pub(crate) async fn metadata_server() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let handler: Handler = Arc::new(|request| {
        let token = json!({ "access_token": TOKEN, "expires_in": 3_599, "token_type": "Bearer" });
        let mut answer = match request.uri().path().rsplit('/').next() {
            Some("token") => http::json(StatusCode::OK, &token),
            Some("email") => Response::new(http::whole(SUBJECT)),
            _ => http::json(StatusCode::NOT_FOUND, &json!({})),
        };
        answer.headers_mut().insert("metadata-flavor", HeaderValue::from_static("Google"));
        Box::pin(std::future::ready(answer))
    });
    http::serve(listener, None, handler)
}

/// Serves a secret `db` with these versions.
pub(crate) async fn with_versions(payloads: &[&[u8]]) -> SecretManager {
    let google = SecretManager::start().await;
    google.grant(TOKEN, &Method::ALL);
    google.create_secret(None, "db", &[]);
    for payload in payloads {
        google.add_version(None, "db", payload);
    }
    google
}

async fn open(google: &SecretManager, location: Option<&str>) -> GcpStore {
    open_at(&google.endpoint(), location, PATIENCE).await
}

/// `patience` is what one answer may take.
async fn open_at(endpoint: &str, location: Option<&str>, patience: Duration) -> GcpStore {
    with_metadata_budget(endpoint, location, patience, 90_000).await
}

async fn with_metadata_budget(endpoint: &str, location: Option<&str>, patience: Duration, limit: u32) -> GcpStore {
    let budget = Budget { limit: 90_000, window: Duration::from_secs(60) };
    let guard = GuardSettings {
        access: budget,
        metadata: Budget { limit, ..budget },
        write: budget,
        maximum_wait: Duration::from_secs(5),
        request_timeout: patience,
    };
    let settings = Settings {
        project: PROJECT.to_owned(),
        project_number: None,
        location: location.map(str::to_owned),
        credential: "google".to_owned(),
        endpoint: Some(endpoint.to_owned()),
        poll_interval: Duration::ZERO,
        guard: guard.clone(),
    };
    let credential = Credential::new(Box::new(Fixed), Arc::new(SystemClock));
    GcpStore::open(name(), &settings, credential, Guard::new(name().as_str().into(), guard, Arc::new(SystemClock)))
        .await
        .unwrap()
}

const SUBJECT: &str = "broker@keyferry-test.iam.gserviceaccount.com";

/// One token that never ends.
struct Fixed;

impl TokenSource for Fixed {
    fn chain(&self) -> Vec<&'static str> {
        vec!["fixed"]
    }

    fn obtain<'a>(&'a self, scope: &'a str) -> BoxFuture<'a, Result<Token, Broken>> {
        assert_eq!(scope, "https://www.googleapis.com/auth/cloud-platform");
        let token = Token::new(TOKEN.to_owned(), Timestamp::from_secs(u64::MAX / 1_000_000), Some(SUBJECT.into()));
        Box::pin(std::future::ready(Ok(token)))
    }
}

async fn refused(store: &GcpStore, id: &str, asked: &VersionId) -> Failure {
    match store.fetch(&secret(id), asked).await {
        Ok(_) => panic!("{id} was read"),
        Err(failure) => failure,
    }
}

fn name() -> StoreName {
    StoreName::from_id("google").unwrap()
}

fn secret(id: &str) -> SecretName {
    name().secret(id).unwrap()
}

fn version(id: &str) -> VersionId {
    VersionId::exact(id).unwrap()
}

fn bytes(payload: &[u8]) -> SecretBytes {
    SecretBytes::new(payload.to_vec())
}

fn page(token: Option<&str>) -> Page {
    Page { size: 10, token: token.map(str::to_owned) }
}
