//! Azure Key Vault: the double is judged by Microsoft's own client, and the `azure` store by the double.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use http::StatusCode;
use keyferry_broker::clock::{Clock as _, SystemClock, Timestamp};
use keyferry_broker::config::AzureStore as Settings;
use keyferry_broker::error::{Detail, Failure, Reason};
use keyferry_broker::names::{SecretName, StoreName, VersionId, VersionName};
use keyferry_broker::providers::azure::AzureStore;
use keyferry_broker::providers::credential::{Broken, Credential, Token, TokenSource};
use keyferry_broker::providers::guard::{Budget, Guard, GuardSettings};
use keyferry_broker::secrets::{Labels, Page, Provider as _, SecretBytes};
use keyferry_proto::v1::GetSecretRequest;
use keyferry_tests::broker::TestBroker;
use keyferry_tests::conformance::conforms_given;
use keyferry_tests::doubles::faults::Fault;
use keyferry_tests::doubles::http::{Answer, json as answer, serve};
use keyferry_tests::doubles::key_vault::{HOST, KeyVault, Operation, SCOPE};
use keyferry_tests::pki::Ca;
use serde_json::json;
use tempfile::TempDir;

const TOKEN: &str = "token-of-the-broker";
/// Long enough for a pause between two attempts.
const PATIENCE: Duration = Duration::from_secs(10);
const SUBJECT: &str = "11f0c0de-0000-4000-8000-000000000001";

#[tokio::test(flavor = "multi_thread")]
async fn microsofts_own_client_accepts_the_double() {
    let azure = Azure::start().await;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let judged = tokio::process::Command::new(here.join("../.tools/pypi/cloud-clients/bin/python"))
        .arg(here.join("judges/key_vault.py"))
        .args([&azure.vault.vault_url(), &azure.vault.address().to_string()])
        .args([azure.ca_file().as_os_str(), TOKEN.as_ref()])
        .kill_on_drop(true)
        .output()
        .await
        .expect("the judge needs its packages: tools/install cloud-clients");
    let (said, complaint) = (String::from_utf8_lossy(&judged.stdout), String::from_utf8_lossy(&judged.stderr));
    assert!(judged.status.success() && said.trim() == "accepted", "{said}{complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_azure_store_conforms() {
    let azure = Azure::start().await;
    let create = async |secret: &SecretName| drop(azure.vault.put(secret.id(), "", &[]));
    conforms_given(&azure.open(), &store(), create).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_reads_a_key_vault_with_its_managed_identity() {
    let azure = Azure::start().await;
    let version = azure.vault.put("db-password", "a value from the vault", &[("team", "payments")]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let identity = serve(listener, None, Arc::new(|_| Box::pin(async { managed_identity() })));
    let configuration = format!(
        "[credentials.azure]\nkind = \"azure-managed-identity\"\nidentity_url = \"http://{}\"\n\
         [stores.vault]\nkind = \"azure\"\nvault_url = \"https://{HOST}\"\naddress = \"{}\"\nca = \"{}\"\n",
        identity.address(),
        azure.vault.address(),
        azure.ca_file().display(),
    );
    let broker = TestBroker::with(&configuration, Arc::new(SystemClock)).await;
    let mut client = broker.secrets(&broker.client).await;
    let name = "stores/vault/secrets/db-password".to_owned();
    let read = client.get_secret(GetSecretRequest { name, ..GetSecretRequest::default() }).await.unwrap().into_inner();
    assert_eq!(read.payload, "a value from the vault");
    assert!(format!("{read:?}").contains(&version), "{read:?}");

    for name in ["stores/vault/secrets/under_score", "stores/vault/secrets/a%2f..%2fb", "stores/vault/secrets/.."] {
        let before = azure.vault.requests();
        let request = GetSecretRequest { name: name.to_owned(), ..GetSecretRequest::default() };
        client.get_secret(request).await.unwrap_err();
        assert_eq!(azure.vault.requests(), before, "{name}");
    }
}

fn managed_identity() -> Answer {
    let token = json!({ "access_token": TOKEN, "expires_in": "3600", "token_type": "Bearer",
        "expires_on": (SystemClock.now().as_secs() + 3_600).to_string(), "resource": "https://vault.azure.net" });
    answer(StatusCode::OK, &token)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_vault_cannot_have_costs_no_request() {
    let azure = Azure::start().await;
    let opened = azure.open();
    let long = "x".repeat(128);
    for id in ["under_score", "_", &long] {
        let secret = secret(id);
        for failure in [
            refused(&opened, &secret, &VersionId::Latest).await,
            opened.describe(&secret).await.unwrap_err(),
            opened.versions(&secret, page(None)).await.unwrap_err(),
            opened.add(&secret, bytes(b"x"), None).await.unwrap_err(),
            opened.set_enabled(&secret, &VersionId::Latest, true).await.unwrap_err(),
        ] {
            assert_eq!(failure.reason(), Reason::InvalidName, "{failure}");
        }
    }
    let hexadecimal = "0123456789abcdef0123456789abcdef";
    for id in ["1", "latest1", &hexadecimal[1..], &format!("{hexadecimal}0"), &hexadecimal.to_uppercase()] {
        let version = VersionId::exact(id).unwrap();
        assert_eq!(refused(&opened, &secret("db"), &version).await.reason(), Reason::VersionNotFound, "{id}");
        let changed = opened.set_enabled(&secret("db"), &version, false).await;
        assert_eq!(changed.unwrap_err().reason(), Reason::VersionNotFound, "{id}");
    }
    for (payload, said) in [(vec![b'x'; 25_601], "25601"), (b"\xff".to_vec(), "UTF-8")] {
        let failure = opened.add(&secret("db"), SecretBytes::new(payload), None).await.unwrap_err();
        assert_eq!(failure.reason(), Reason::InvalidArgument);
        assert!(matches!(failure.detail(), Detail::BadField { field, .. } if field == "payload"), "{failure}");
        assert!(failure.message().contains(said) && failure.message().contains("25600"), "{failure}");
    }
    // What could lead out of `/secrets/` is no name of a secret to begin with.
    let huge = "x".repeat(10_000);
    for id in ["..", "../keys/k", "a%2f..%2fb", "a\0", "a?x=1", "a#b", "пароль", "", &huge] {
        let name = format!("stores/azure/secrets/{id}");
        assert!(VersionName::parse_or_latest(&name).is_err(), "{name}");
    }
    assert_eq!(azure.vault.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn takes_text_of_0_to_25600_bytes() {
    let azure = Azure::with_secret().await;
    let opened = azure.open();
    for length in [0, 1, 25_600] {
        let added = opened.add(&secret("db"), SecretBytes::new(vec![b'x'; length]), None).await.unwrap();
        let exact = VersionId::exact(&added.id).unwrap();
        let read = opened.fetch(&secret("db"), &exact).await.unwrap();
        assert_eq!((read.payload.len(), read.crc32c), (length, crc32c::crc32c(&vec![b'x'; length])));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_out_of_use_says_why() {
    let azure = Azure::with_secret().await;
    let opened = azure.open();
    let now = SystemClock.now().as_secs();
    for (name, change, why) in [
        ("disabled", json!({ "attributes": { "enabled": false } }), "is disabled; enable it"),
        ("early", json!({ "attributes": { "nbf": now + 3_600 } }), "is not valid before "),
        ("late", json!({ "attributes": { "exp": now - 3_600 } }), "expired at "),
    ] {
        let version = azure.vault.put(name, "value", &[]);
        azure.vault.update(name, &change);
        for asked in [VersionId::Latest, VersionId::exact(&version).unwrap()] {
            let failure = refused(&opened, &secret(name), &asked).await;
            assert_eq!(failure.reason(), Reason::VersionDisabled, "{failure}");
            assert!(failure.message().contains(why), "{failure}");
        }
        opened.describe(&secret(name)).await.unwrap();
    }
    azure.vault.put("valid", "value", &[]);
    azure.vault.update("valid", &json!({ "attributes": { "nbf": now - 3_600, "exp": now + 3_600 } }));
    let version = opened.fetch(&secret("valid"), &VersionId::Latest).await.unwrap().version;
    let hour = |from: u64| Some(Timestamp::from_secs(from));
    assert_eq!((version.not_before, version.expires), (hour(now - 3_600), hour(now + 3_600)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_stands_whatever_becomes_of_the_second_look() {
    let azure = Azure::with_secret().await;
    let absent = VersionId::exact("0123456789abcdef0123456789abcdef").unwrap();
    azure.vault.spoil_only(Operation::ListVersions);
    for fault in [Fault::Status(503), Fault::Status(403), Fault::Throttle { retry_after: None }, Fault::Garbage] {
        azure.vault.faults().set(fault);
        let failure = refused(&azure.open(), &secret("db"), &absent).await;
        assert_eq!(failure.reason(), Reason::VersionNotFound, "{fault:?}: {failure}");
        azure.vault.faults().clear();
    }
    let guard = GuardSettings { metadata: Budget { limit: 1, window: Duration::from_secs(60) }, ..unhurried() };
    let opened = open(&Settings { guard, ..azure.settings() }, Tokens::good());
    opened.describe(&secret("db")).await.unwrap();
    assert_eq!(refused(&opened, &secret("db"), &absent).await.reason(), Reason::VersionNotFound);
    assert_eq!(refused(&azure.open(), &secret("gone"), &absent).await.reason(), Reason::SecretNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_takes_over_tags_and_content_type() {
    let azure = Azure::start().await;
    let opened = azure.open();
    azure.vault.put("db", "1", &[("team", "payments"), ("tier", "1")]);
    azure.vault.update("db", &json!({ "contentType": "application/json" }));
    let added = opened.add(&secret("db"), bytes(b"2"), None).await.unwrap();
    assert_eq!(added.content_type.as_deref(), Some("application/json"));
    let labels = opened.describe(&secret("db")).await.unwrap().labels;
    let told: Vec<_> = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(told, [("team", "payments"), ("tier", "1")]);
    assert_eq!(azure.vault.count(Operation::Get), 0, "a description costs no value");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_secret_is_absent_and_not_made_anew() {
    let azure = Azure::with_secret().await;
    let opened = azure.open();
    azure.vault.delete("db");
    let failure = opened.add(&secret("db"), bytes(b"x"), None).await.unwrap_err();
    assert_eq!(failure.reason(), Reason::SecretNotFound);
    let failure = opened.add(&secret("db"), bytes(b"x"), Some(Labels::default())).await.unwrap_err();
    assert_eq!(failure.reason(), Reason::UnsupportedByStore);
    assert_eq!(refused(&opened, &secret("db"), &VersionId::Latest).await.reason(), Reason::SecretNotFound);
    assert!(opened.list(page(None)).await.unwrap().items.is_empty());
    assert_eq!(azure.vault.count(Operation::Set), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_spelling_is_another_secret() {
    let azure = Azure::start().await;
    let opened = azure.open();
    let version = azure.vault.put("Db-Password", "value", &[]);
    for id in ["db-password", "DB-PASSWORD"] {
        let secret = secret(id);
        for failure in [
            refused(&opened, &secret, &VersionId::Latest).await,
            refused(&opened, &secret, &VersionId::exact(&version).unwrap()).await,
            opened.describe(&secret).await.unwrap_err(),
            opened.versions(&secret, page(None)).await.unwrap_err(),
            opened.add(&secret, bytes(b"x"), None).await.unwrap_err(),
            opened.set_enabled(&secret, &VersionId::Latest, false).await.unwrap_err(),
        ] {
            assert_eq!(failure.reason(), Reason::SecretNotFound, "{failure}");
        }
    }
    opened.fetch(&secret("Db-Password"), &VersionId::Latest).await.unwrap();
    assert_eq!(azure.vault.count(Operation::Set) + azure.vault.count(Operation::Update), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broken_answer_has_its_reason() {
    let azure = Azure::with_secret().await;
    for (fault, reason) in [
        (Fault::Garbage, Reason::ProviderUnavailable),
        (Fault::TruncatedBody, Reason::ProviderUnavailable),
        (Fault::Status(302), Reason::ProviderUnavailable),
        (Fault::Status(500), Reason::ProviderUnavailable),
        (Fault::Status(503), Reason::ProviderUnavailable),
        (Fault::Throttle { retry_after: None }, Reason::ProviderThrottled),
        (Fault::Bare(403), Reason::ProviderUnavailable),
        (Fault::Bare(404), Reason::ProviderUnavailable),
        (Fault::Status(403), Reason::ProviderDenied),
        (Fault::Status(401), Reason::ProviderCredential),
    ] {
        azure.vault.faults().set(fault);
        for (what, failure) in everything(&azure).await {
            assert_eq!(failure.reason(), reason, "{what}, {fault:?}: {failure}");
            let told = format!("{failure:?}");
            for private in ["value-nobody-may-see", "Something failed", "it works", TOKEN] {
                assert!(!told.contains(private), "{what}, {fault:?} quotes the other side: {told}");
            }
        }
        azure.vault.faults().clear();
    }
    azure.open().fetch(&secret("db"), &VersionId::Latest).await.unwrap();

    let (address, settings) = (azure.vault.address(), azure.settings());
    drop(azure.vault);
    let failure = refused(&open(&settings, Tokens::good()), &secret("db"), &VersionId::Latest).await;
    assert_eq!(failure.reason(), Reason::ProviderUnavailable, "{address}");
    assert!(failure.message().contains("cannot be reached"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_never_answers_is_not_waited_for() {
    for fault in [Fault::BlackHole, Fault::SlowBody] {
        let azure = Azure::with_secret().await;
        azure.vault.faults().set(fault);
        let opened = azure.open();
        let reads = (0..20).map(|_| async { refused(&opened, &secret("db"), &VersionId::Latest).await });
        for failure in join_all(reads).await {
            assert_eq!(failure.reason(), Reason::ProviderUnavailable, "{fault:?}: {failure}");
            assert!(failure.message().contains("did not answer within"), "{fault:?}: {failure}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_addition_is_sent_once_and_its_doubt_is_told() {
    for fault in [Fault::Garbage, Fault::TruncatedBody, Fault::Status(503), Fault::BlackHole] {
        let azure = Azure::with_secret().await;
        azure.vault.spoil_only(Operation::Set);
        azure.vault.faults().set(fault);
        let settings = Settings { guard: GuardSettings { maximum_wait: PATIENCE, ..unhurried() }, ..azure.settings() };
        let added = open(&settings, Tokens::good()).add(&secret("db"), bytes(b"x"), None).await;
        let failure = added.unwrap_err();
        assert_eq!(failure.reason(), Reason::ProviderUnavailable);
        assert!(failure.message().contains("may have been"), "{fault:?}: {failure}");
        assert_eq!(azure.vault.count(Operation::Set), 1, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_repeated_where_the_guard_allows() {
    let azure = Azure::with_secret().await;
    azure.vault.faults().set_for(Fault::Status(503), 1);
    let settings = Settings { guard: GuardSettings { maximum_wait: PATIENCE, ..unhurried() }, ..azure.settings() };
    open(&settings, Tokens::good()).fetch(&secret("db"), &VersionId::Latest).await.unwrap();
    assert_eq!(azure.vault.count(Operation::Get), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_leads_elsewhere_is_not_followed() {
    let azure = Azure::start().await;
    for number in 0..26 {
        azure.vault.put(&format!("secret-{number}"), "value", &[]);
    }
    azure.vault.lead_pages_to("https://another.vault.azure.net");
    let failure = azure.open().list(page(None)).await.unwrap_err();
    assert_eq!(failure.reason(), Reason::ProviderUnavailable);
    assert!(failure.message().contains("not as a key vault does"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_is_passed_on_with_the_wait_that_azure_asks_for() {
    let azure = Azure::with_secret().await;
    let wait = Duration::from_secs(7);
    azure.vault.faults().set(Fault::Throttle { retry_after: Some(wait) });
    let failure = refused(&azure.open(), &secret("db"), &VersionId::Latest).await;
    assert_eq!((failure.reason(), failure.detail()), (Reason::ProviderThrottled, &Detail::RetryAfter(wait)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_says_what_to_grant_and_to_whom() {
    for (code, reading, writing) in [
        ("ForbiddenByRbac", "Key Vault Secrets User", "Key Vault Secrets Officer"),
        ("ForbiddenByPolicy", "permissions get and list", "permissions get, list and set"),
        ("ForbiddenByFirewall", "firewall", "firewall"),
    ] {
        let azure = Azure::with_secret().await;
        let told = |what: &str, failure: &Failure, grant: &str| {
            assert_eq!(failure.reason(), Reason::ProviderDenied, "{what}: {failure}");
            assert!(failure.message().contains(grant), "{what}: {failure}");
            assert!(code == "ForbiddenByFirewall" || failure.message().contains(SUBJECT), "{what}: {failure}");
            assert!(!failure.message().contains("is not allowed"), "quotes Azure: {failure}");
        };
        azure.vault.deny(&[Operation::Get, Operation::List, Operation::ListVersions], code);
        for (what, failure) in everything(&azure).await {
            told(what, &failure, reading);
        }
        azure.vault.deny(&[Operation::Set, Operation::Update], code);
        told("add", &azure.open().add(&secret("db"), bytes(b"x"), None).await.unwrap_err(), writing);
        let changed = azure.open().set_enabled(&secret("db"), &VersionId::Latest, false).await;
        told("set_enabled", &changed.unwrap_err(), writing);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_replaced_once() {
    let azure = Azure::with_secret().await;
    let tokens = Tokens::in_turn(&["an-old-token", TOKEN]);
    let opened = open(&azure.settings(), tokens);
    opened.fetch(&secret("db"), &VersionId::Latest).await.unwrap();
    assert_eq!(azure.vault.count(Operation::Get), 2);

    azure.vault.withdraw_tokens();
    let failure = refused(&opened, &secret("db"), &VersionId::Latest).await;
    assert_eq!(failure.reason(), Reason::ProviderCredential, "{failure}");
    assert_eq!(azure.vault.count(Operation::Get), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_for_something_else_gets_no_token() {
    for resource in ["https://vault.azure.cn", "https://azure.net", "https://graph.microsoft.com", "nonsense"] {
        let azure = Azure::with_secret().await;
        azure.vault.challenge_for(resource);
        let failure = refused(&azure.open(), &secret("db"), &VersionId::Latest).await;
        assert_eq!(failure.reason(), Reason::ProviderUnavailable, "{resource}: {failure}");
        assert_eq!(azure.vault.requests(), azure.vault.count(Operation::Challenge), "{resource}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_read_once_for_all_its_pages() {
    let azure = Azure::start().await;
    for number in 0..60 {
        azure.vault.put(&format!("secret-{number:02}"), "value", &[]);
    }
    let opened = azure.open();
    let mut next = None;
    for page_number in 0..6 {
        let listing = opened.list(page(next.as_deref())).await.unwrap();
        assert_eq!(listing.items[0].name.id(), format!("secret-{page_number}0"));
        next = listing.next;
    }
    assert_eq!((next, azure.vault.count(Operation::List)), (None, 3));

    let begun = opened.list(page(None)).await.unwrap();
    opened.list(page(None)).await.unwrap();
    azure.vault.delete("secret-09");
    let rest = opened.list(page(begun.next.as_deref())).await.unwrap();
    assert_eq!(rest.items[0].name.id(), "secret-10", "a list that was forgotten goes on where it was");

    for token in ["", "x", ":", "1:..", "1:"] {
        let failure = opened.list(page(Some(token))).await.unwrap_err();
        assert_eq!(failure.reason(), Reason::InvalidPageToken, "{token:?}");
        let failure = opened.versions(&secret("secret-00"), page(Some(token))).await.unwrap_err();
        assert_eq!(failure.reason(), Reason::InvalidPageToken, "{token:?}");
    }
}

/// A vault, and the CA that vouches for it.
struct Azure {
    vault: KeyVault,
    directory: TempDir,
}

impl Azure {
    async fn start() -> Self {
        let ca = Ca::new("vault CA");
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("vault-ca.pem"), ca.pem()).unwrap();
        let vault = KeyVault::start(&ca).await;
        vault.accept_token(TOKEN);
        Self { vault, directory }
    }

    /// Serves a secret `db` with one version.
    async fn with_secret() -> Self {
        let azure = Self::start().await;
        azure.vault.put("db", "value-nobody-may-see", &[]);
        azure
    }

    fn ca_file(&self) -> std::path::PathBuf {
        self.directory.path().join("vault-ca.pem")
    }

    fn settings(&self) -> Settings {
        Settings {
            vault_url: format!("https://{HOST}/"),
            credential: "azure".to_owned(),
            address: Some(self.vault.address()),
            ca: Some(self.ca_file()),
            poll_interval: Duration::ZERO,
            guard: unhurried(),
        }
    }

    fn open(&self) -> AzureStore {
        open(&self.settings(), Tokens::good())
    }
}

/// How each operation on the secret `db` fails, at a store of its own.
async fn everything(azure: &Azure) -> Vec<(&'static str, Failure)> {
    let db = secret("db");
    vec![
        ("fetch", refused(&azure.open(), &db, &VersionId::Latest).await),
        ("describe", azure.open().describe(&db).await.unwrap_err()),
        ("list", azure.open().list(page(None)).await.unwrap_err()),
        ("versions", azure.open().versions(&db, page(None)).await.unwrap_err()),
        ("add", azure.open().add(&db, bytes(b"value-nobody-may-see"), None).await.unwrap_err()),
        ("set_enabled", azure.open().set_enabled(&db, &VersionId::Latest, false).await.unwrap_err()),
    ]
}

fn open(settings: &Settings, tokens: Tokens) -> AzureStore {
    let clock = Arc::new(SystemClock);
    let credential = Credential::new(Box::new(tokens), Arc::clone(&clock) as _);
    let guard = Guard::new(store().as_str().into(), settings.guard.clone(), Arc::clone(&clock) as _);
    AzureStore::open(store(), settings, credential, guard, clock).unwrap()
}

/// Lets everything through, once: what the vault said is what the test hears.
fn unhurried() -> GuardSettings {
    let budget = Budget { limit: 1_000_000, window: Duration::from_secs(1) };
    GuardSettings {
        access: budget,
        metadata: budget,
        write: budget,
        maximum_wait: Duration::ZERO,
        request_timeout: Duration::from_secs(3),
    }
}

/// Each of these tokens once, the last one for ever.
struct Tokens {
    values: Vec<&'static str>,
    given: AtomicUsize,
}

impl Tokens {
    fn good() -> Self {
        Self::in_turn(&[TOKEN])
    }

    fn in_turn(values: &[&'static str]) -> Self {
        Self { values: values.to_vec(), given: AtomicUsize::new(0) }
    }
}

impl TokenSource for Tokens {
    fn chain(&self) -> Vec<&'static str> {
        vec!["fixed"]
    }

    fn obtain<'a>(&'a self, scope: &'a str) -> BoxFuture<'a, Result<Token, Broken>> {
        assert_eq!(scope, SCOPE);
        let given = self.given.fetch_add(1, Ordering::Relaxed).min(self.values.len() - 1);
        let expires = SystemClock.now().plus(Duration::from_secs(3_600));
        let token = Token::new(self.values[given].to_owned(), expires, Some(SUBJECT.into()));
        Box::pin(std::future::ready(Ok(token)))
    }
}

async fn refused(store: &AzureStore, secret: &SecretName, asked: &VersionId) -> Failure {
    match store.fetch(secret, asked).await {
        Ok(_) => panic!("{secret} was read"),
        Err(failure) => failure,
    }
}

fn store() -> StoreName {
    StoreName::from_id("azure").unwrap()
}

fn secret(id: &str) -> SecretName {
    store().secret(id).unwrap()
}

fn bytes(payload: &[u8]) -> SecretBytes {
    SecretBytes::new(payload.to_vec())
}

fn page(token: Option<&str>) -> Page {
    Page { size: 10, token: token.map(str::to_owned) }
}
