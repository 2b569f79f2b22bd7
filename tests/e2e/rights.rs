//! The golden table: every method for every kind of caller. Read it by eye; a method without a row fails the suite.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyferry_broker::clock::{Clock as _, SystemClock};
use keyferry_broker::databases::UserName;
use keyferry_broker::databases::leases::{LEASES, Lease, Stage};
use keyferry_broker::names::{LeaseName, RoleName};
use keyferry_broker::rpc::METHODS;
use keyferry_broker::state::{Embedded, EmbeddedSettings, Key, Outcome, Store as _, Txn};
use keyferry_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use keyferry_proto::v1::{AcknowledgeRotationRequest, RotationFilter, WatchRotationsRequest};
use keyferry_tests::broker::{POLICY, TestBroker, prepare};
use keyferry_tests::issuer::Issuer;
use keyferry_tests::pki::{Ca, trusting};
use prost::Message as _;
use serde_json::json;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

const GOLDEN: &str = include_str!("rights.golden.txt");

const TOKEN_POLICY: &str = r#"
@id("token-reads")
permit (principal, action in [Keyferry::Action::"Read"], resource)
when { principal.hasTag("roles") && principal.getTag("roles").contains("reader") };
@id("about-oneself")
permit (principal, action in [Keyferry::Action::"WhoAmI", Keyferry::Action::"ExplainSelf"], resource);
"#;

/// Nobody listens there: whoever may mint hears that the database is out.
const DATABASE: &str = r#"
[databases.shop]
kind = "postgres"
host = "127.0.0.1"
port = 1
database = "shop"
ca = "ca.pem"
user = "keyferry"
certificate = "server.pem"
key = "server.key"

[databases.shop.roles.reader]
groups = ["orders_read"]
"#;

const RESOURCE: &str = r#"
[envoy.a]
kind = "generic"
secret = "stores/local/secrets/a"
"#;

#[tokio::test]
async fn every_method_answers_every_kind_of_caller_as_the_golden_table_says() {
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::new("test CA");
    prepare(directory.path(), &ca, &format!("{}{DATABASE}{RESOURCE}", Issuer::configuration()));
    let config = directory.path().join("keyferry.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("[tls]", "[tls]\nclient_certificate = \"optional\"")).unwrap();
    std::fs::write(directory.path().join("policy/test.cedar"), format!("{POLICY}{TOKEN_POLICY}")).unwrap();
    let issuer = Issuer::new("k1");
    issuer.write_keys(directory.path());
    record_lease(directory.path()).await;
    let broker = TestBroker::start_in(directory, ca, Arc::new(SystemClock)).await;

    let stranger = broker.ca.client("stranger");
    let reader = issuer.token("reader", &json!({ "roles": ["reader"] }));
    let anonymous = broker.connect(trusting(&broker.ca)).await.unwrap();
    let client = broker.channel(&broker.client).await;
    let callers: Vec<(&str, Channel, Option<String>)> = vec![
        ("nobody", anonymous.clone(), None),
        ("certificate", client.clone(), None),
        ("stranger", broker.channel(&stranger).await, None),
        ("operator", broker.channel(&broker.operator).await, None),
        ("token", anonymous.clone(), Some(reader.clone())),
        ("both", client.clone(), Some(reader.clone())),
        ("bound elsewhere", client.clone(), Some(issuer.bound_token("reader", &stranger.der))),
        (
            "expired",
            anonymous.clone(),
            Some(issuer.token("reader", &json!({ "exp": 1_700_000_000, "iat": 1_699_999_000 }))),
        ),
        ("wrong audience", anonymous.clone(), Some(issuer.token("reader", &json!({ "aud": "other" })))),
        ("foreign key", anonymous.clone(), Some(Issuer::new("k1").token("reader", &json!({})))),
        // A good certificate does not make up for a bad token.
        ("bad token", client.clone(), Some("not.a.token".to_owned())),
    ];

    let mut table: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for method in METHODS {
        for (_, channel, token) in &callers {
            table.entry(method.name()).or_default().push(ask(channel.clone(), method.path, token.as_deref()).await);
        }
    }
    let mut text = String::new();
    for (method, answers) in &table {
        writeln!(text, "{method}").unwrap();
        for ((who, ..), answer) in callers.iter().zip(answers) {
            writeln!(text, "    {who:<16} {answer}").unwrap();
        }
    }
    if std::env::var_os("KEYFERRY_REGENERATE").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/rights.golden.txt"), &text).unwrap();
        return;
    }
    assert!(
        text == GOLDEN,
        "the rights differ from e2e/rights.golden.txt; if the change is meant, run with KEYFERRY_REGENERATE=1 and \
         review the difference by eye:\n{text}"
    );
}

/// Sends a request that names one existing thing in the fields that the methods share, and tells what came back.
async fn ask(channel: Channel, path: &'static str, token: Option<&str>) -> String {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let mut request = Request::new(body_for(path));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let path = http::uri::PathAndQuery::from_static(path);
    let outcome = grpc.server_streaming(request, path, Raw).await;
    let ended = match outcome {
        Err(status) => Err(status),
        Ok(response) => response.into_inner().message().await.map(drop),
    };
    match ended {
        Ok(()) => "allowed".to_owned(),
        Err(status) => verdict(&status),
    }
}

/// What was decided about the caller; what became of an allowed call is another matter.
fn verdict(status: &Status) -> String {
    match status.get_details_error_info() {
        None => format!("{:?}", status.code()),
        Some(info) if REFUSALS.contains(&info.reason.as_str()) || info.reason.starts_with("TOKEN_") => info.reason,
        Some(info) => format!("allowed ({})", info.reason),
    }
}

const REFUSALS: [&str; 4] =
    ["CREDENTIAL_MISSING", "CERTIFICATE_REJECTED", "ACCESS_DENIED", "CLIENT_CERTIFICATE_REQUIRED"];

/// A lease of the operator's, whose database is out.
async fn record_lease(directory: &Path) {
    let settings =
        EmbeddedSettings { file: directory.join("state.redb"), history_age: Duration::ZERO, history_changes: 0 };
    let state = Embedded::open(&settings, "test", Arc::new(SystemClock)).unwrap();
    let (now, day) = (SystemClock.now(), Duration::from_secs(24 * 3600));
    let lease = Lease {
        name: LeaseName::from_id("0123").unwrap(),
        role: RoleName::parse("databases/shop/roles/reader").unwrap(),
        owner: "x509/spiffe://test.keyferry/operator".into(),
        user: UserName::parse("kf_reader_a").unwrap(),
        minter: "another".into(),
        created: now,
        expires: now.plus(day),
        max_expires: now.plus(2 * day),
        issue: 0,
        stage: Stage::Active,
    };
    let txn = Txn::new().put(&Key::new(&LEASES, &["0123"]).unwrap(), &lease);
    assert!(matches!(state.txn(txn).await, Ok(Outcome::Committed(_))));
    state.close().await;
}

/// Field 1 is the name or parent in all methods that are about one thing. The lease to be renewed is the operator's, and
/// hidden from all others; of a rotation that there is not, all hear the same; `RevokeLease` is asked for all leases of a
/// database.
fn body_for(path: &str) -> Vec<u8> {
    const SECRET: &str = "stores/local/secrets/a";
    let name: &str = match path.rsplit('/').next().unwrap() {
        "ListSecrets" => "stores/local",
        "EnableSecretVersion" | "DisableSecretVersion" => "stores/local/secrets/a/versions/1",
        "BatchGetSecrets" => return [&[0x0a, 24, 0x0a, 22][..], b"stores/local/secrets/a"].concat(),
        "ListDatabaseRoles" => "databases/shop",
        "MintDatabaseToken" => "databases/shop/roles/reader",
        "RenewLease" => "leases/0123",
        "RotateSecret" => "stores/local/secrets/a",
        "GetRotation" | "CancelRotation" | "RetireRotation" => "rotations/0123",
        "RevokeLease" => return [&[0x12, 16, 0x0a, 14][..], b"databases/shop"].concat(),
        "WatchRotations" => {
            let filter = RotationFilter { names: vec![SECRET.to_owned()], ..RotationFilter::default() };
            let request = WatchRotationsRequest { filter: Some(filter), ..WatchRotationsRequest::default() };
            return request.encode_to_vec();
        }
        "AcknowledgeRotation" => {
            let (subscriber, versions) = ("gateway".to_owned(), vec![format!("{SECRET}/versions/1")]);
            let request = AcknowledgeRotationRequest { subscriber, versions, ..AcknowledgeRotationRequest::default() };
            return request.encode_to_vec();
        }
        "StreamSecrets" | "FetchSecrets" => {
            let resource_names = vec!["a".to_owned()];
            return DiscoveryRequest { resource_names, ..DiscoveryRequest::default() }.encode_to_vec();
        }
        "DeltaSecrets" => {
            let resource_names_subscribe = vec!["a".to_owned()];
            return DeltaDiscoveryRequest { resource_names_subscribe, ..DeltaDiscoveryRequest::default() }
                .encode_to_vec();
        }
        _ if path.contains("SecretService") || path.ends_with("RefreshSecret") => SECRET,
        _ => return Vec::new(),
    };
    [&[0x0a, u8::try_from(name.len()).unwrap()][..], name.as_bytes()].concat()
}

/// Messages as bytes.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = bytes::Buf::remaining(buffer);
        let mut item = vec![0; length];
        bytes::Buf::copy_to_slice(buffer, &mut item);
        Ok(Some(item))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}
