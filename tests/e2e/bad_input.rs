//! What must be refused, clearly and without harm to anybody else.

use std::fs;
use std::net::TcpListener as StdListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use keyferry_proto::v1::{AddSecretVersionRequest, GetSecretRequest};
use keyferry_tests::broker::{TestBroker, get, prepare};
use keyferry_tests::pki::{Ca, trusting};
use keyferry_tests::process::keyferry;
use keyferry_tests::tls;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic::{Code, Request};

use crate::status::refused;

async fn serves_on(broker: &TestBroker) {
    let mut client = broker.secrets(&broker.client).await;
    assert_eq!(refused(get(&mut client, "none").await), "SECRET_NOT_FOUND");
}

/// Connects and calls; a refused handshake may show only with the first call.
async fn call_with(broker: &TestBroker, tls: tonic::transport::ClientTlsConfig) -> Result<(), String> {
    let channel = broker.connect(tls).await.map_err(|error| format!("{error:?}"))?;
    let mut client = keyferry_proto::v1::secret_service_client::SecretServiceClient::new(channel);
    match get(&mut client, "none").await {
        Ok(_) => Ok(()),
        // An answer from the broker means that it took the connection.
        Err(status) if !status.details().is_empty() => Ok(()),
        Err(status) => Err(status.to_string()),
    }
}

#[tokio::test]
async fn a_connection_without_a_certificate_or_with_a_foreign_one_is_refused() {
    let broker = TestBroker::start().await;
    let foreign = Ca::new("another CA").client("client");
    assert!(call_with(&broker, broker.client.client_tls(&broker.ca)).await.is_ok());
    assert!(call_with(&broker, trusting(&broker.ca)).await.is_err());
    assert!(call_with(&broker, foreign.client_tls(&broker.ca)).await.is_err());
    serves_on(&broker).await;
}

#[tokio::test]
async fn plain_text_and_garbage_are_closed() {
    let broker = TestBroker::start().await;
    let address = broker.broker.grpc_address();
    let plain = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let refused = match plain.connect().await {
        Err(_) => true,
        Ok(channel) => {
            let mut client = keyferry_proto::v1::secret_service_client::SecretServiceClient::new(channel);
            get(&mut client, "none").await.unwrap_err().details().is_empty()
        }
    };
    assert!(refused);

    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], &[0xff; 4096], b"\x16\x03\x01\xff\xff"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The broker may close while we still write.
        let _ = stream.write_all(garbage).await;
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "not closed after {garbage:?}");
        assert!(answer.len() < 64, "at most a TLS alert");
    }
    serves_on(&broker).await;
}

#[tokio::test]
async fn a_message_over_its_bound_is_refused_with_a_reason() {
    let broker = TestBroker::start().await;
    let mut operator = broker.secrets(&broker.operator).await;
    let add = |size: usize| AddSecretVersionRequest {
        parent: "stores/local/secrets/big".into(),
        payload: vec![b'x'; size].into(),
        allow_missing: true,
        ..Default::default()
    };
    operator.add_secret_version(add(65_536)).await.unwrap();
    assert_eq!(refused(operator.add_secret_version(add(65_537)).await), "INVALID_ARGUMENT");
    assert_eq!(refused(operator.add_secret_version(add(300 << 10)).await), "MESSAGE_TOO_LARGE");
    serves_on(&broker).await;
}

#[tokio::test]
async fn headers_over_their_bound_are_refused() {
    let broker = TestBroker::start().await;
    let mut client = broker.secrets(&broker.client).await;
    let mut request = Request::new(GetSecretRequest::default());
    request.metadata_mut().insert("x-large", "x".repeat(64 << 10).parse().unwrap());
    assert!(client.get_secret(request).await.is_err());
    serves_on(&broker).await;
}

#[tokio::test]
async fn a_bad_name_is_refused_before_anybody_is_asked() {
    let broker = TestBroker::start().await;
    let mut client = broker.secrets(&broker.client).await;
    for name in ["", "stores/local/secrets/..", "stores/local/secrets/a%2f..%2fb", "stores/local/secrets/a\0", "пароль"]
    {
        let request = GetSecretRequest { name: name.to_owned(), ..Default::default() };
        assert_eq!(refused(client.get_secret(request).await), "INVALID_NAME", "{name:?}");
    }
    let request = GetSecretRequest { name: "x".repeat(10_000), ..Default::default() };
    assert_eq!(refused(client.get_secret(request).await), "INVALID_NAME");
    let request = GetSecretRequest {
        name: "stores/local/secrets/a".into(),
        max_age: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        ..Default::default()
    };
    assert_eq!(refused(client.get_secret(request).await), "INVALID_ARGUMENT");
}

#[tokio::test]
async fn a_bad_timeout_and_an_unknown_method_have_reasons() {
    let broker = TestBroker::start().await;
    let mut client = broker.secrets(&broker.client).await;
    let mut request = Request::new(GetSecretRequest::default());
    request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    assert_eq!(refused(client.get_secret(request).await), "INVALID_ARGUMENT");

    let mut grpc = tonic::client::Grpc::new(broker.channel(&broker.client).await);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<GetSecretRequest, GetSecretRequest>::default();
    let path = http::uri::PathAndQuery::from_static("/keyferry.v1.SecretService/Steal");
    let outcome = grpc.unary(Request::new(GetSecretRequest::default()), path, codec).await;
    assert_eq!(outcome.as_ref().unwrap_err().code(), Code::Unimplemented);
    assert_eq!(refused(outcome), "METHOD_UNKNOWN");
}

#[tokio::test]
async fn a_thousand_idle_handshakes_stop_nobody() {
    let broker = TestBroker::start().await;
    let address = broker.broker.grpc_address();
    let mut idle = Vec::new();
    for _ in 0..1_000 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    serves_on(&broker).await;
    // And they are ended: [limits] handshake_timeout is 5 s.
    let mut end = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(20), idle[0].read_to_end(&mut end)).await;
    assert!(closed.is_ok());
}

#[tokio::test]
async fn a_client_that_never_speaks_after_its_handshake_is_ended() {
    let broker = TestBroker::start().await;
    let address = broker.broker.grpc_address();
    let mut silent = tls::connect(address, &broker.ca, Some(&broker.client)).await.unwrap();
    let mut end = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(30), silent.read_to_end(&mut end)).await;
    assert!(closed.is_ok());
    serves_on(&broker).await;
}

#[test]
fn a_configuration_that_cannot_work_says_what_to_do_and_nothing_starts() {
    let taken = StdListener::bind("127.0.0.1:0").unwrap();
    let port_taken = format!("grpc = \"{}\"", taken.local_addr().unwrap());
    type Edit<'a> = (&'a str, &'a dyn Fn(&str) -> String, &'a [&'a str]);
    let edits: [Edit<'_>; 6] = [
        (
            "an unknown key",
            &|text| text.replace("client_ca", "client_cas"),
            &["client_cas", "client_ca", "keyferry.toml:"],
        ),
        ("a wrong type", &|text| text.replace("\"policy\"", "7"), &["[policy] directory", "keyferry.toml:"]),
        ("a missing file", &|text| text.replace("ca.pem", "nowhere.pem"), &["nowhere.pem"]),
        ("a certificate without its key", &|text| text.replace("key = \"server.key\"\n", ""), &["key", "certificate"]),
        (
            "a port that is taken",
            &|text| text.replace("grpc = \"127.0.0.1:0\"", &port_taken),
            &["cannot listen", "[listen]"],
        ),
        ("no TOML at all", &|_| "= = =".to_owned(), &["keyferry.toml:1:"]),
    ];
    for (what, edit, expected) in edits {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path(), &Ca::new("test CA"), "");
        let path = directory.path().join("keyferry.toml");
        fs::write(&path, edit(&fs::read_to_string(&path).unwrap())).unwrap();
        let (success, said) = serve(&path);
        assert!(!success, "{what} was accepted");
        for words in expected {
            assert!(said.contains(words), "{what}: {words:?} is not in: {said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn all_errors_of_a_configuration_are_told_together() {
    let directory = tempfile::tempdir().unwrap();
    prepare(directory.path(), &Ca::new("test CA"), "[limits]\nconnections = \"many\"\nhandshakes = -1\n[nonsense]\n");
    let (_, said) = serve(&directory.path().join("keyferry.toml"));
    for words in ["connections", "handshakes", "nonsense"] {
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
}

/// Runs a broker that is expected to end by itself.
fn serve(config: &Path) -> (bool, String) {
    let output = Command::new(keyferry()).args(["serve", "--config"]).arg(config).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}
