//! Client certificates for users of a real PostgreSQL.

use std::fs;
use std::sync::Arc;

use keyferry_broker::clock::SystemClock;
use keyferry_proto::v1::mint_database_token_request::ClientKey;
use keyferry_proto::v1::mint_database_token_response::Credential;
use keyferry_proto::v1::{CertificateCredential, MintDatabaseTokenRequest, MintDatabaseTokenResponse};
use keyferry_tests::broker::{TestBroker, prepare};
use keyferry_tests::pki::{Ca, restrict};
use keyferry_tests::postgres::Cluster;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use tempfile::TempDir;
use tonic::Status;

use crate::audit::records;
use crate::reload::eventually;
use crate::status::{reason, refused};

struct World {
    broker: TestBroker,
    cluster: Cluster,
}

const ROLES: &str = r#"
[databases.mapped]
kind = "postgres"
host = "127.0.0.1"
port = PORT
database = "shop"
ca = "ca.pem"
client_ca_certificate = "stores/local/secrets/client-ca"
client_ca_key = "stores/local/secrets/client-ca-key"

[databases.mapped.roles.app]
credential = "certificate"
user = "app"
"#;

impl World {
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let ca = Ca::new("test CA");
        let cluster = Cluster::start(&ca);
        prepare(directory.path(), &ca, &ROLES.replace("PORT", &cluster.port().to_string()));
        let broker = TestBroker::start_in(directory, ca, Arc::new(SystemClock)).await;
        Self { broker, cluster }
    }

    async fn signing() -> Self {
        let world = Self::new().await;
        world.broker.put("client-ca", world.broker.ca.pem().as_bytes(), &[]).await;
        world.broker.put("client-ca-key", world.broker.ca.key_pem().as_bytes(), &[]).await;
        eventually("the CA signs", async || world.mint(None, None).await.is_ok()).await;
        world
    }

    async fn mint(&self, ttl: Option<i64>, client_key: Option<ClientKey>) -> Result<MintDatabaseTokenResponse, Status> {
        let ttl = ttl.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
        let request = MintDatabaseTokenRequest {
            name: "databases/mapped/roles/app".into(),
            ttl,
            client_key,
            ..Default::default()
        };
        let answer = self.broker.tokens(&self.broker.operator).await.mint_database_token(request).await;
        answer.map(tonic::Response::into_inner)
    }

    /// Logs in as any user with a certificate and its key.
    fn query(&self, user: &str, chain: &str, key: &str, sql: &str) -> Result<String, String> {
        let directory = TempDir::new().unwrap();
        let (certificate, key_file) = (directory.path().join("client.pem"), directory.path().join("client.key"));
        fs::write(&certificate, chain).unwrap();
        fs::write(&key_file, key).unwrap();
        restrict(&key_file);
        self.cluster.query_with_certificate(user, &certificate, &key_file, sql)
    }
}

fn certificate(answer: &MintDatabaseTokenResponse) -> &CertificateCredential {
    let Some(Credential::Certificate(certificate)) = &answer.credential else { panic!("no certificate: {answer:?}") };
    certificate
}

#[tokio::test]
async fn logs_in_as_its_user_and_as_no_other_and_shows_who_asked() {
    let world = World::signing().await;
    let answer = world.mint(None, None).await.unwrap();
    let CertificateCredential { certificate_chain_pem: chain, private_key_pem: key } = certificate(&answer);
    assert_eq!((answer.user.as_str(), answer.lease.is_none()), ("app", true));
    let login = |user: &str, sql: &str| world.query(user, chain, key, sql);
    assert_eq!(login("app", "SELECT current_user"), Ok("app".to_owned()));
    assert_eq!(login("app", "SELECT count(*) FROM orders"), Ok("2".to_owned()));
    assert!(login("app", "SELECT * FROM ledger").unwrap_err().contains("permission denied"));
    for (user, words) in [
        ("batch", "certificate authentication failed for user"),
        ("keyferry", "certificate authentication failed for user"),
        ("postgres", "no password supplied"),
    ] {
        let refusal = login(user, "SELECT 1").unwrap_err();
        assert!(refusal.contains(words), "{user}: {refusal}");
    }
    let shown = login("app", "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()").unwrap();
    assert!(
        shown.contains("O=x509/spiffe:\\/\\/test.keyferry/operator")
            || shown.contains("O=x509/spiffe://test.keyferry/operator"),
        "{shown}"
    );
    let connection = answer.connection.as_ref().unwrap();
    assert_eq!(connection.parameters["application_name"], "x509/spiffe://test.keyferry/operator");
    let serial = login("app", "SELECT client_serial FROM pg_stat_ssl WHERE pid = pg_backend_pid()").unwrap();
    assert_eq!(records(&world.broker.path().join("audit")).last().unwrap()["credential"], serial);
}

#[tokio::test]
async fn ends_when_it_says() {
    let world = World::signing().await;
    let answer = world.mint(Some(3), None).await.unwrap();
    let CertificateCredential { certificate_chain_pem: chain, private_key_pem: key } = certificate(&answer);
    assert!(world.query("app", chain, key, "SELECT 1").is_ok());
    eventually("it has ended", async || match world.query("app", chain, key, "SELECT 1") {
        Ok(_) => false,
        Err(refusal) => {
            assert!(refusal.contains("certificate expired"), "{refusal}");
            true
        }
    })
    .await;
    for ttl in [0, -1] {
        assert_eq!(refused(world.mint(Some(ttl), None).await), "INVALID_ARGUMENT");
    }
}

#[tokio::test]
async fn the_callers_own_key_logs_in_and_no_private_key_travels() {
    let world = World::signing().await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "app");
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    for own in [ClientKey::PublicKeyPem(key.public_key_pem()), ClientKey::CsrPem(request)] {
        let answer = world.mint(None, Some(own)).await.unwrap();
        let CertificateCredential { certificate_chain_pem: chain, private_key_pem } = certificate(&answer);
        assert_eq!(private_key_pem, "");
        assert_eq!(world.query("app", chain, &key.serialize_pem(), "SELECT current_user"), Ok("app".to_owned()));
    }
    params.subject_alt_names = vec![SanType::DnsName("postgres".try_into().unwrap())];
    let more = params.serialize_request(&key).unwrap().pem().unwrap();
    for bad in [ClientKey::CsrPem(more), ClientKey::PublicKeyPem("x".into()), ClientKey::CsrPem("y".into())] {
        assert_eq!(refused(world.mint(None, Some(bad)).await), "INVALID_PUBLIC_KEY");
    }
}

#[tokio::test]
async fn without_a_ca_that_signs_a_mint_says_what_is_wrong_with_it() {
    let world = World::new().await;
    let status = world.mint(None, None).await.unwrap_err();
    assert_eq!(reason(&status), "PROVIDER_CREDENTIAL");
    assert!(status.message().contains("stores/local/secrets/client-ca, which the broker works with"), "{status:?}");
}
