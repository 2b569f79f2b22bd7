//! Tokens of the clouds for their databases: minted by a caller, used at the doubles, and refused with a reason that
//! names what to grant.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use keyferry_broker::clock::{Clock as _, SharedClock};
use keyferry_proto::v1::mint_database_token_request::ClientKey;
use keyferry_proto::v1::mint_database_token_response::Credential;
use keyferry_proto::v1::token_service_client::TokenServiceClient;
use keyferry_proto::v1::{
    AccessTokenUsage, CredentialKind, DatabaseEngine, DatabaseKind, GetStatusRequest, ListDatabaseRolesRequest,
    MintDatabaseTokenRequest, MintDatabaseTokenResponse,
};
use keyferry_tests::broker::{TestBroker, prepare};
use keyferry_tests::clock::ManualClock;
use keyferry_tests::doubles::cloud_sql::CloudSql;
use keyferry_tests::doubles::faults::{Fault, Faults};
use keyferry_tests::doubles::identity::{
    EntraIdentity, EntraService, Flaw, GoogleIdentity, GoogleService, ManagedIdentity, PROJECT,
};
use keyferry_tests::doubles::logins::{Attempt, Logins};
use keyferry_tests::pki::Ca;
use keyferry_tests::postgres::Cluster;
use serde_json::json;
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::Channel;

use crate::cloud_doubles::{account, add_user, google, judge};
use crate::status::{reason, refused};

const POLICY: &str = r#"
@id("clients-mint")
permit (principal, action in [Keyferry::Action::"Mint"], resource)
when { principal has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == "/client" };
"#;

const LOGIN: &str = "https://www.googleapis.com/auth/sqlservice.login";
const DATA: &str = "https://www.googleapis.com/auth/spanner.data";
const OPEN_SOURCE: &str = "https://ossrdbms-aad.database.windows.net";
const SQL: &str = "https://database.windows.net";

/// The clouds around a broker, without a database behind them.
struct World {
    google: GoogleIdentity,
    entra: EntraIdentity,
    managed: ManagedIdentity,
    clock: Arc<ManualClock>,
    broker: TestBroker,
    cloud_sql: CloudSql,
    cluster: Option<Cluster>,
}

impl World {
    async fn new() -> Self {
        let ca = Ca::new("test CA");
        Self::on(ca, None).await
    }

    /// With a PostgreSQL behind the instance of Cloud SQL.
    async fn with_postgres() -> Self {
        let ca = Ca::new("test CA");
        let cluster = Cluster::start(&ca);
        Self::on(ca, Some(cluster)).await
    }

    async fn on(ca: Ca, cluster: Option<Cluster>) -> Self {
        let clock = Arc::new(ManualClock::new());
        let shared: SharedClock = Arc::clone(&clock) as SharedClock;
        let google = google(Arc::clone(&shared)).await;
        let cloud_sql = CloudSql::start(&google, cluster.as_ref(), Arc::clone(&shared)).await;
        cloud_sql.grant(&account("reader"));
        let entra = EntraIdentity::start(Arc::clone(&shared)).await;
        let [machine, managed] = [entra.assign(), entra.assign()];
        for resource in [OPEN_SOURCE, SQL] {
            entra.add_resource(resource);
        }
        assert_ne!(machine, managed);
        let directory = TempDir::new().unwrap();
        let more = configuration(&google, &cloud_sql, &entra, &managed);
        prepare(directory.path(), &ca, &more);
        std::fs::write(directory.path().join("policy/mint.cedar"), POLICY).unwrap();
        let broker = TestBroker::start_in(directory, ca, shared).await;
        Self { google, entra, managed, clock, broker, cloud_sql, cluster }
    }

    fn postgres(&self) -> &Cluster {
        self.cluster.as_ref().unwrap()
    }

    async fn client(&self) -> TokenServiceClient<Channel> {
        self.broker.tokens(&self.broker.client).await
    }

    async fn mint(&self, role: &str) -> Result<MintDatabaseTokenResponse, Status> {
        self.ask(request(role)).await
    }

    async fn ask(&self, request: MintDatabaseTokenRequest) -> Result<MintDatabaseTokenResponse, Status> {
        self.client().await.mint_database_token(request).await.map(tonic::Response::into_inner)
    }

    /// What is left of a credential's life, in seconds.
    fn left(&self, minted: &MintDatabaseTokenResponse) -> i64 {
        minted.expire_time.unwrap().seconds - self.clock.now().as_secs().cast_signed()
    }
}

fn configuration(
    google: &GoogleIdentity,
    cloud_sql: &CloudSql,
    entra: &EntraIdentity,
    managed: &ManagedIdentity,
) -> String {
    let (instance, admin, url, entra) = (cloud_sql.connection_name(), cloud_sql.url(), google.url(), entra.url());
    let (reader, stranger, client_id) = (account("reader"), account("stranger"), &managed.client_id);
    format!(
        r#"
[credentials.google]
kind = "google-metadata"
metadata_url = "{url}"

[credentials.orders]
kind = "azure-managed-identity"
identity_url = "{entra}"
client_id = "{client_id}"

[databases.sql]
kind = "cloud-sql"
instance = "{instance}"
database = "shop"
network = "public"
port = 3307
admin_url = "{admin}"
iam_url = "{url}"
request_timeout = "1s"
maximum_wait = "100ms"
[databases.sql.roles.reader]
description = "reads orders"
service_account = "{reader}"
[databases.sql.roles.certified]
credential = "google-certificate"
service_account = "{reader}"
[databases.sql.roles.ungranted]
service_account = "{stranger}"

[databases.ledger]
kind = "spanner"
database = "projects/{PROJECT}/instances/main/databases/ledger"
iam_url = "{url}"
request_timeout = "1s"
maximum_wait = "100ms"
[databases.ledger.roles.reader]
service_account = "{reader}"
creator_role = "orders_reader"
max_ttl = "30m"
[databases.ledger.roles.foreign]
service_account = "nobody@{PROJECT}.iam.gserviceaccount.com"

[databases.flexible]
kind = "azure-postgres"
host = "127.0.0.1"
database = "shop"
ca = "ca.pem"
request_timeout = "1s"
maximum_wait = "100ms"
[databases.flexible.roles.reader]
identity = "orders"
user = "orders-identity"
[databases.flexible.roles.brief]
identity = "orders"
user = "orders-identity"
longest_life = "30m"
[databases.flexible.roles.lasting]
identity = "orders"
user = "orders-identity"
may_outlive_caller = true

[databases.mysql]
kind = "azure-mysql"
host = "shop.mysql.database.azure.com"
[databases.mysql.roles.reader]
identity = "orders"
user = "orders-identity"

[databases.azuresql]
kind = "azure-sql"
host = "shop.database.windows.net"
database = "shop"
access_budget = 2
maximum_wait = "100ms"
[databases.azuresql.roles.reader]
identity = "orders"
user = "orders-identity"
"#
    )
}

fn request(role: &str) -> MintDatabaseTokenRequest {
    let (database, role) = role.split_once('/').unwrap();
    MintDatabaseTokenRequest { name: format!("databases/{database}/roles/{role}"), ..Default::default() }
}

fn for_seconds(role: &str, seconds: i64) -> MintDatabaseTokenRequest {
    MintDatabaseTokenRequest { ttl: Some(prost_types::Duration { seconds, nanos: 0 }), ..request(role) }
}

#[track_caller]
fn token(minted: &MintDatabaseTokenResponse) -> (&str, AccessTokenUsage) {
    match &minted.credential {
        Some(Credential::AccessToken(token)) => (&token.access_token, token.usage()),
        _ => panic!("no token for {}", minted.user),
    }
}

/// What psql is answered with what was minted, and nothing else but where the instance listens.
fn psql(minted: &MintDatabaseTokenResponse, user: &str, password: &str, port: i32) -> Result<String, String> {
    let to = minted.connection.as_ref().unwrap();
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), &to.ca_pem).unwrap();
    let output = Command::new("psql")
        .args(["-X", "-q", "-A", "-t", "-h", &to.host, "-p", &port.to_string(), "-U", user, "-d", &to.database])
        .args(["-c", "SELECT current_user, count(*) FROM orders"])
        .env("PGPASSWORD", password)
        .env("PGSSLMODE", &to.parameters["sslmode"])
        .env("PGAPPNAME", &to.parameters["application_name"])
        .env("PGSSLROOTCERT", ca.path())
        .output()
        .unwrap();
    let said = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
    if output.status.success() { Ok(said(output.stdout)) } else { Err(said(output.stderr)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_of_cloud_sql_logs_in_as_the_role_s_service_account_and_no_longer_than_wished() {
    let world = World::with_postgres().await;
    let user = format!("reader@{PROJECT}.iam");
    add_user(world.postgres(), &user);
    let minted = world.ask(for_seconds("sql/reader", 600)).await.unwrap();
    assert_eq!(minted.user, user);
    assert_eq!(world.left(&minted), 600);
    assert!(minted.lease.is_none());
    let (value, usage) = token(&minted);
    assert_eq!(usage, AccessTokenUsage::Password);
    assert_eq!(world.google.holders(&[LOGIN])(value), Some(format!("serviceAccount:{}", account("reader"))));
    assert_eq!(world.google.principal(value), None, "opens nothing else");

    let to = minted.connection.as_ref().unwrap();
    let listening = world.cloud_sql.address();
    assert_eq!(
        (to.engine(), to.host.as_str(), to.port),
        (DatabaseEngine::Postgresql, &*listening.ip().to_string(), 3307)
    );
    assert_eq!(to.instance, world.cloud_sql.connection_name());
    assert_eq!(to.ca_pem, world.cloud_sql.ca().pem());
    assert_eq!(to.parameters["application_name"], "keyferry:x509/spiffe://test.keyferry/client");

    let port = listening.port().into();
    assert_eq!(psql(&minted, &user, value, port).unwrap(), format!("{user}|2"));
    assert!(psql(&minted, "postgres", value, port).unwrap_err().contains("authentication failed"));
    assert!(psql(&minted, &user, "guessed", port).unwrap_err().contains("authentication failed"));
    let another = world.mint("sql/reader").await.unwrap();
    assert_ne!(token(&another).0, value, "nobody shares a token");
    world.clock.advance(Duration::from_secs(601));
    assert!(psql(&minted, &user, value, port).unwrap_err().contains("authentication failed"), "it ended");
    assert!(psql(&another, &user, token(&another).0, port).is_ok());
}

/// Who PostgreSQL takes the holder of a certificate for.
async fn log_in(world: &World, user: &str, certificate: &str, key: &str) -> Result<String, tokio_postgres::Error> {
    use tokio_postgres::{Config, NoTls, config::SslMode};
    let identity = keyferry_tests::pki::Issued::from_pem(certificate, key);
    let config = keyferry_tests::tls::config(world.cloud_sql.ca(), Some(&identity));
    let stream = tokio::net::TcpStream::connect(world.cloud_sql.address()).await.unwrap();
    let name = rustls::pki_types::ServerName::from(world.cloud_sql.address().ip());
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let (client, connection) =
        Config::new().user(user).dbname("shop").ssl_mode(SslMode::Disable).connect_raw(stream, NoTls).await?;
    let connection = tokio::spawn(connection);
    let row = client.query_one("SELECT current_user::text FROM orders LIMIT 1", &[]).await?;
    drop(client);
    connection.await.unwrap()?;
    Ok(row.get(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_certificate_of_cloud_sql_logs_in_as_the_role_s_service_account_and_as_no_other() {
    let world = World::with_postgres().await;
    let user = format!("reader@{PROJECT}.iam");
    add_user(world.postgres(), &user);
    let minted = world.ask(for_seconds("sql/certified", 600)).await.unwrap();
    assert_eq!(minted.user, user);
    assert!((598..=600).contains(&world.left(&minted)));
    assert_eq!(minted.connection.as_ref().unwrap().port, 3307);
    let Some(Credential::Certificate(made)) = &minted.credential else { panic!("no certificate") };
    assert_eq!(log_in(&world, &user, &made.certificate_chain_pem, &made.private_key_pem).await.unwrap(), user);
    let stranger = log_in(&world, "postgres", &made.certificate_chain_pem, &made.private_key_pem).await.unwrap_err();
    assert_eq!(stranger.code(), Some(&tokio_postgres::error::SqlState::INVALID_PASSWORD));

    let own = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let client_key = Some(ClientKey::PublicKeyPem(own.public_key_pem()));
    let request = MintDatabaseTokenRequest { client_key, ..request("sql/certified") };
    let minted = world.ask(request.clone()).await.unwrap();
    let Some(Credential::Certificate(signed)) = &minted.credential else { panic!("no certificate") };
    assert_eq!(signed.private_key_pem, "", "the caller has it");
    assert_eq!(log_in(&world, &user, &signed.certificate_chain_pem, &own.serialize_pem()).await.unwrap(), user);

    let elliptic = rcgen::KeyPair::generate().unwrap().public_key_pem();
    let garbage = own.public_key_pem().replace("MII", "AAA");
    for key in [elliptic, garbage, own.serialize_pem(), String::new(), format!("{0}{0}", own.public_key_pem())] {
        let client_key = Some(ClientKey::PublicKeyPem(key));
        let outcome = world.ask(MintDatabaseTokenRequest { client_key, ..request.clone() }).await;
        assert_eq!(refused(outcome), "INVALID_PUBLIC_KEY");
    }
    world.cloud_sql.swap_keys();
    assert_eq!(refused(world.ask(request).await), "PROVIDER_UNAVAILABLE", "a certificate for somebody else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn google_s_client_reads_spanner_with_a_minted_token_alone() {
    let world = World::new().await;
    let minted = world.ask(for_seconds("ledger/reader", 86_400)).await.unwrap();
    assert_eq!(world.left(&minted), 1800, "clamped to max_ttl");
    assert_eq!(minted.user, account("reader"));
    let (value, usage) = token(&minted);
    assert_eq!(usage, AccessTokenUsage::Bearer);
    assert!(world.google.holders(&[DATA])(value).is_some());
    assert_eq!(world.google.principal(value), None, "opens nothing else");
    let to = minted.connection.as_ref().unwrap();
    assert_eq!((to.engine(), to.host.as_str(), to.port), (DatabaseEngine::Spanner, "spanner.googleapis.com", 443));

    let login = world.mint("sql/reader").await.unwrap();
    let directory = world.broker.path();
    world.broker.ca.server("localhost").write(directory, "spanner");
    let given = json!({
        "google": world.google.url(), "database": to.database, "creator_role": to.parameters["creator_role"],
        "ca": directory.join("ca.pem"), "certificate": directory.join("spanner.pem"),
        "key": directory.join("spanner.key"), "reader": account("reader"), "token": value,
        "login_token": token(&login).0,
    });
    judge("spanner.py", &given).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_of_entra_logs_in_as_the_role_s_own_identity() {
    let world = World::with_postgres().await;
    add_user(world.postgres(), "orders-identity");
    let minted = world.mint("flexible/reader").await.unwrap();
    let (value, usage) = token(&minted);
    assert_eq!((minted.user.as_str(), usage), ("orders-identity", AccessTokenUsage::Password));
    assert!((3598..=3600).contains(&world.left(&minted)));
    assert_eq!(world.entra.principal(value, OPEN_SOURCE), Some(world.managed.object_id.clone()));
    assert_eq!(world.entra.principal(value, SQL), None);
    assert_eq!(minted.connection.as_ref().unwrap().ca_pem, world.broker.ca.pem());

    let principals = world.entra.principals(OPEN_SOURCE);
    let managed = world.managed.object_id.clone();
    let judge = move |attempt: &Attempt| {
        let holder = attempt.password.as_deref().and_then(&principals);
        let known = attempt.user == "orders-identity" && holder.as_ref() == Some(&managed);
        known.then_some(()).ok_or_else(|| "The access token is not for this user".to_owned())
    };
    let tls = keyferry_tests::tls::server(&world.broker.ca.server("localhost"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let logins = Logins::serve(listener, tls, Arc::new(judge), Some(world.postgres()));
    let port = logins.address().port().into();
    assert_eq!(psql(&minted, "orders-identity", value, port).unwrap(), "orders-identity|2");
    assert!(psql(&minted, "postgres", value, port).unwrap_err().contains("access token"));
    let sql = world.mint("azuresql/reader").await.unwrap();
    assert!(psql(&minted, "orders-identity", token(&sql).0, port).unwrap_err().contains("access token"));

    assert_eq!(token(&sql).1, AccessTokenUsage::FederatedLogin);
    assert_eq!(world.entra.principal(token(&sql).0, SQL), Some(world.managed.object_id.clone()));
    assert_eq!(sql.connection.as_ref().unwrap().port, 1433);
    let mysql = world.mint("mysql/reader").await.unwrap();
    assert_eq!(world.entra.principal(token(&mysql).0, OPEN_SOURCE), Some(world.managed.object_id.clone()));
    let to = mysql.connection.as_ref().unwrap();
    assert_eq!((to.engine(), to.port), (DatabaseEngine::Mysql, 3306));
    assert_eq!(to.parameters["default-auth"], "mysql_clear_password");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_of_entra_that_would_live_too_long_stays_in_the_broker() {
    let world = World::new().await;
    assert_eq!(refused(world.ask(for_seconds("flexible/reader", 600)).await), "INVALID_ARGUMENT");
    world.ask(for_seconds("flexible/reader", 3600)).await.unwrap();
    assert_eq!(refused(world.mint("flexible/brief").await), "UNSUPPORTED_BY_STORE");

    let soon = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(world.clock.now().as_secs() + 600);
    let brief = world.broker.ca.issue(|params| {
        params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://test.keyferry/client".try_into().unwrap())];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = soon;
    });
    let mut client = world.broker.tokens(&brief).await;
    let outcome = client.mint_database_token(request("flexible/reader")).await.unwrap_err();
    assert_eq!(reason(&outcome), "UNSUPPORTED_BY_STORE");
    assert!(outcome.message().contains("may_outlive_caller"), "{outcome:?}");
    client.mint_database_token(request("flexible/lasting")).await.unwrap();
    let google = client.mint_database_token(request("sql/reader")).await.unwrap().into_inner();
    assert!((590..=600).contains(&world.left(&google)), "Google's end with the caller's");
}

/// What the operator reads where something is wrong, and the reason that a program branches on.
type Trouble = (Fault, &'static str, &'static str);

async fn each(world: &World, role: &str, faults: &Faults, troubles: &[Trouble]) {
    world.mint(role).await.unwrap_or_else(|status| panic!("{role} before any fault: {status:?}"));
    for (fault, expected, words) in troubles {
        faults.set(*fault);
        let status = world.mint(role).await.err().unwrap_or_else(|| panic!("{role} is minted in spite of {fault:?}"));
        assert_eq!(&reason(&status), expected, "{role} under {fault:?}: {status:?}");
        assert!(status.message().contains(words), "{role} under {fault:?}: {status:?}");
        assert!(!status.message().contains("ya29.") && !status.message().contains("eyJ"), "{status:?}");
        faults.clear();
        // Past what the guard was asked to wait, and what it waits of its own accord.
        world.clock.advance(Duration::from_secs(120));
        world.mint(role).await.unwrap_or_else(|status| panic!("{role} after {fault:?}: {status:?}"));
    }
}

const THROTTLE: Fault = Fault::Throttle { retry_after: None };

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_breaks_at_iam_is_told_with_what_to_grant() {
    let world = World::new().await;
    let troubles = [
        (Fault::Status(400), "PROVIDER_DENIED", "refuses the scope"),
        (Fault::Status(401), "PROVIDER_CREDENTIAL", "impersonation"),
        (Fault::Status(403), "PROVIDER_DENIED", "roles/iam.serviceAccountTokenCreator"),
        (Fault::Status(404), "PROVIDER_DENIED", "there is no service account"),
        (Fault::Bare(403), "PROVIDER_DENIED", "iam_url"),
        (THROTTLE, "PROVIDER_THROTTLED", "429"),
        (Fault::Status(500), "PROVIDER_UNAVAILABLE", "500"),
        (Fault::Garbage, "PROVIDER_UNAVAILABLE", "not an access token"),
        (Fault::TruncatedBody, "PROVIDER_UNAVAILABLE", "within its answer"),
        (Fault::Spill, "PROVIDER_UNAVAILABLE", "500"),
        (Fault::BlackHole, "PROVIDER_UNAVAILABLE", "did not answer within 1s"),
    ];
    let service = world.google.service(GoogleService::IamCredentials);
    each(&world, "ledger/reader", service.faults(), &troubles).await;
    service.flaw(Flaw::Expired);
    let status = world.mint("ledger/reader").await.unwrap_err();
    assert_eq!(reason(&status), "PROVIDER_UNAVAILABLE");
    assert!(status.message().contains("clock"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_breaks_at_the_admin_api_is_told_with_what_to_grant() {
    let world = World::new().await;
    let troubles = [
        (Fault::Status(400), "PROVIDER_DENIED", "cloudsql.iam_authentication"),
        (Fault::Status(401), "PROVIDER_CREDENTIAL", "refuses the token"),
        (Fault::Status(403), "PROVIDER_DENIED", "roles/cloudsql.client"),
        (Fault::Status(404), "PROVIDER_DENIED", "there is no instance"),
        (THROTTLE, "PROVIDER_THROTTLED", "429"),
        (Fault::Status(503), "PROVIDER_UNAVAILABLE", "503"),
        (Fault::Garbage, "PROVIDER_UNAVAILABLE", "admin_url"),
        (Fault::Bare(418), "PROVIDER_UNAVAILABLE", "admin_url"),
        (Fault::BlackHole, "PROVIDER_UNAVAILABLE", "did not answer within 1s"),
    ];
    each(&world, "sql/certified", world.cloud_sql.service().faults(), &troubles).await;
    // Where the instance is has been known, so that tokens go on without the Admin API.
    world.cloud_sql.service().faults().set(Fault::Status(503));
    world.mint("sql/reader").await.unwrap_err();
    world.cloud_sql.service().faults().clear();
    world.clock.advance(Duration::from_secs(120));
    world.mint("sql/reader").await.unwrap();
    world.clock.advance(Duration::from_secs(400));
    world.cloud_sql.service().faults().set(Fault::Status(503));
    world.mint("sql/reader").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_breaks_at_entra_is_told_with_its_link() {
    let world = World::new().await;
    let troubles = [
        (Fault::Status(400), "PROVIDER_CREDENTIAL", "client_id"),
        (Fault::Status(403), "PROVIDER_CREDENTIAL", "identity endpoint"),
        (THROTTLE, "PROVIDER_THROTTLED", "managed-identity"),
        (Fault::Status(500), "PROVIDER_UNAVAILABLE", "managed-identity"),
        (Fault::Garbage, "PROVIDER_UNAVAILABLE", "not an access token"),
        (Fault::BlackHole, "PROVIDER_UNAVAILABLE", "did not answer within 1s"),
    ];
    let service = world.entra.service(EntraService::Imds);
    each(&world, "flexible/reader", service.faults(), &troubles).await;
    world.entra.unassign_all();
    assert_eq!(refused(world.mint("flexible/reader").await), "PROVIDER_CREDENTIAL");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_misconfigured_cloud_is_told_as_what_it_is() {
    let world = World::new().await;
    let told = async |role: &str, expected: &str, words: &str| {
        let status = world.mint(role).await.unwrap_err();
        assert_eq!(reason(&status), expected, "{role}: {status:?}");
        assert!(status.message().contains(words), "{role}: {status:?}");
    };
    told("sql/ungranted", "PROVIDER_DENIED", "roles/cloudsql.client").await;
    told("ledger/foreign", "PROVIDER_DENIED", "roles/iam.serviceAccountTokenCreator").await;
    world.cloud_sql.change_settings(|settings| settings["ipAddresses"] = json!([]));
    told("sql/reader", "PROVIDER_DENIED", "network").await;
    world.cloud_sql.change_settings(|settings| settings["region"] = "us-east1".into());
    told("sql/reader", "PROVIDER_DENIED", "not in the region").await;
    world.google.revoke_token_creator(&account("reader"), &format!("serviceAccount:{}", account("machine")));
    told("ledger/reader", "PROVIDER_DENIED", &account("machine")).await;

    // The broker's own token, withdrawn: the next one is obtained at once.
    world.google.grant_token_creator(&account("reader"), &format!("serviceAccount:{}", account("machine")));
    world.mint("ledger/reader").await.unwrap();
    world.google.revoke_all();
    world.mint("ledger/reader").await.unwrap();
    world.google.attach(None);
    world.google.revoke_all();
    told("ledger/reader", "PROVIDER_CREDENTIAL", "refuses the token").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bad_wishes_are_refused_and_greedy_ones_cut() {
    let world = World::new().await;
    for role in ["sql/reader", "sql/certified", "ledger/reader", "flexible/reader"] {
        for seconds in [0, -1, i64::MIN] {
            assert_eq!(refused(world.ask(for_seconds(role, seconds)).await), "INVALID_ARGUMENT", "{role} {seconds}");
        }
        let minted = world.ask(for_seconds(role, 315_576_000_000)).await.unwrap();
        assert!((1..=3600).contains(&world.left(&minted)), "{role}");
    }
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().public_key_pem();
    for role in ["sql/reader", "ledger/reader", "flexible/reader", "mysql/reader"] {
        let client_key = Some(ClientKey::PublicKeyPem(key.clone()));
        let outcome = world.ask(MintDatabaseTokenRequest { client_key, ..request(role) }).await;
        assert_eq!(refused(outcome), "UNSUPPORTED_BY_STORE", "{role}");
    }
    for role in ["sql/reader", "sql/certified", "ledger/reader", "flexible/reader"] {
        let rehearsed = world.ask(MintDatabaseTokenRequest { validate_only: true, ..request(role) }).await.unwrap();
        assert!(rehearsed.credential.is_none() && rehearsed.user.is_empty(), "{role}");
    }
    world.mint("azuresql/reader").await.unwrap();
    world.mint("azuresql/reader").await.unwrap();
    assert_eq!(refused(world.mint("azuresql/reader").await), "PROVIDER_BUDGET_EXHAUSTED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn roles_and_databases_of_the_clouds_are_listed_as_what_they_are() {
    let world = World::new().await;
    let listed = ListDatabaseRolesRequest { parent: "databases/-".into(), ..Default::default() };
    let roles = world.client().await.list_database_roles(listed).await.unwrap().into_inner().roles;
    let role = |name: &str| roles.iter().find(|role| role.name == name).unwrap_or_else(|| panic!("no {name}"));
    let certified = role("databases/sql/roles/certified");
    assert_eq!((certified.kind(), certified.engine()), (DatabaseKind::CloudSql, DatabaseEngine::Postgresql));
    assert_eq!(certified.credential_kind(), CredentialKind::Certificate);
    assert!(certified.accepts_public_key && !certified.revocable && !certified.renewable);
    let reader = role("databases/sql/roles/reader");
    assert_eq!((reader.credential_kind(), reader.description.as_str()), (CredentialKind::AccessToken, "reads orders"));
    assert_eq!(role("databases/ledger/roles/reader").kind(), DatabaseKind::Spanner);
    assert_eq!(role("databases/flexible/roles/reader").kind(), DatabaseKind::AzurePostgresql);
    assert_eq!(role("databases/mysql/roles/reader").kind(), DatabaseKind::AzureMysql);
    assert_eq!(role("databases/azuresql/roles/reader").kind(), DatabaseKind::AzureSql);

    world.mint("sql/ungranted").await.unwrap_err();
    let mut operations = world.broker.operations(&world.broker.operator).await;
    let status = operations.get_status(GetStatusRequest::default()).await.unwrap().into_inner().status.unwrap();
    let database = status.databases.iter().find(|database| database.name == "databases/sql").unwrap();
    assert_eq!(database.kind(), DatabaseKind::CloudSql);
    assert!(database.last_error.as_ref().unwrap().message.contains("roles/cloudsql.client"));
}
