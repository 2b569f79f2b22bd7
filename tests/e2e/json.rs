//! JSON over HTTP: what curl and a gateway's policy send, through the layers of every call.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use keyferry_broker::clock::SystemClock;
use keyferry_tests::broker::{TestBroker, get, prepare};
use keyferry_tests::curl::{Answer, curl};
use keyferry_tests::issuer::Issuer;
use keyferry_tests::pki::Ca;
use keyferry_tests::tls;
use prost::Message as _;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic_types::pb::ErrorInfo;

use crate::audit::records;
use crate::status::refused;
use crate::transport::{bytes, client, limited, never};

const GET: &str = "/keyferry.v1.SecretService/GetSecret";
const ADD: &str = "/keyferry.v1.SecretService/AddSecretVersion";
const WHO_AM_I: &str = "/keyferry.v1.OperatorService/WhoAmI";
const JSON: [&str; 2] = ["-H", "content-type: application/json"];

async fn post(broker: &TestBroker, path: &str, body: &str, more: &[&str]) -> Answer {
    // Over HTTP/2, some versions of curl lose an answer that comes before they have sent all of their request.
    let body = ["--http1.1", "--data-binary", body];
    curl(broker, Some(&broker.client), path, &[&JSON[..], &body, more].concat()).await
}

/// The reason that a refusal carries, which is to be the same in its bytes as in what is shown beside them.
fn reason(answer: &Answer) -> String {
    let answer = answer.json();
    let details = answer["details"].as_array().unwrap();
    let detail = details.iter().find(|detail| detail["type"] == "google.rpc.ErrorInfo").unwrap();
    let bytes = STANDARD_NO_PAD.decode(detail["value"].as_str().unwrap()).unwrap();
    let info = ErrorInfo::decode(bytes.as_slice()).unwrap();
    assert_eq!(detail["debug"], json!({"reason": info.reason, "domain": "keyferry"}));
    info.reason
}

#[tokio::test]
async fn curl_reads_a_secret_over_either_version_of_http() {
    let broker = TestBroker::start().await;
    broker.put("db", b"a \xff payload", &[]).await;
    for version in ["--http1.1", "--http2"] {
        let answer = post(&broker, GET, r#"{"name": "stores/local/secrets/db"}"#, &[version]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let told = answer.json();
        assert_eq!(told["name"], "stores/local/secrets/db/versions/1");
        assert_eq!(told["payload"], STANDARD.encode(b"a \xff payload"));
        assert!(matches!(told["source"].as_str(), Some("READ_SOURCE_PROVIDER" | "READ_SOURCE_CACHE")));
    }
    let records = records(&broker.path().join("audit"));
    let protocols: Vec<_> = records.iter().map(|record| record["protocol"].as_str().unwrap()).collect();
    assert_eq!(protocols, ["grpc", "grpc", "connect", "connect"]);
    assert_eq!(records[3]["caller"], "x509/spiffe://test.keyferry/client");
    assert_eq!(records[3]["resource"], "stores/local/secrets/db");
}

#[tokio::test]
async fn a_read_may_come_as_an_address() {
    let broker = TestBroker::start().await;
    broker.put("db", b"x", &[]).await;
    let message = r#"{"name":"stores/local/secrets/db"}"#;
    let encoded = URL_SAFE_NO_PAD.encode(message);
    let proto = URL_SAFE_NO_PAD.encode([&[0x0a, 23][..], b"stores/local/secrets/db"].concat());
    for query in [
        format!("connect=v1&encoding=json&base64=1&message={encoded}"),
        "encoding=json&message=%7B%22name%22%3A+%22stores/local/secrets/db%22%7D".to_owned(),
    ] {
        let answer = curl(&broker, Some(&broker.client), &format!("{GET}?{query}"), &[]).await;
        assert_eq!((answer.status, &answer.json()["payload"]), (200, &json!("eA==")), "{query}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    let query = format!("connect=v1&encoding=proto&base64=1&message={proto}");
    let answer = curl(&broker, Some(&broker.client), &format!("{GET}?{query}"), &[]).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/proto")));
    assert!(answer.body.contains("stores/local/secrets/db/versions/1"));

    for (query, says) in [
        ("", "encoding=json"),
        ("encoding=json", "message is missing"),
        ("encoding=xml&message={}", "encoding"),
        ("encoding=json&message=%7", "percent-encoded"),
        ("encoding=json&message=*&base64=1", "URL-safe base64"),
        ("encoding=json&message=a&message=b", "twice"),
        ("connect=v2&encoding=json&message=a", "not v1"),
    ] {
        let answer = curl(&broker, Some(&broker.client), &format!("{GET}?{query}"), &["-g"]).await;
        let said = answer.json()["message"].as_str().unwrap().replace(": ", " ");
        assert!(answer.status == 400 && said.contains(says), "{query}: {answer:?}");
    }
    let query = "encoding=json&message=%7B%7D&compression=gzip";
    assert_eq!(curl(&broker, Some(&broker.client), &format!("{GET}?{query}"), &[]).await.status, 501);
    for path in [ADD, "/keyferry.v1.OperatorService/ExplainAccess"] {
        let query = "encoding=json&message=%7B%7D";
        let answer = curl(&broker, Some(&broker.operator), &format!("{path}?{query}"), &[]).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{path}");
    }
    assert_eq!(curl(&broker, Some(&broker.client), "/nothing", &[]).await.status, 404);
}

#[tokio::test]
async fn a_change_and_a_token_travel_as_json_too() {
    let issuer = Issuer::new("key-1");
    let (directory, ca) = (tempfile::TempDir::new().unwrap(), Ca::new("test CA"));
    issuer.write_keys(directory.path());
    prepare(directory.path(), &ca, &Issuer::configuration());
    let config = directory.path().join("keyferry.toml");
    let configured = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, configured.replace("[tls]", "[tls]\nclient_certificate = \"optional\"")).unwrap();
    let broker = TestBroker::start_in(directory, ca, Arc::new(SystemClock)).await;
    let body = r#"{"parent": "stores/local/secrets/new", "payload": "c2VjcmV0", "allowMissing": true,
                   "labels": {"team": "cart"}}"#;
    let arguments = [&JSON[..], &["--data-binary", body]].concat();
    let answer = curl(&broker, Some(&broker.operator), ADD, &arguments).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["version"]["name"], "stores/local/secrets/new/versions/1");
    let mut grpc = broker.secrets(&broker.client).await;
    assert_eq!(&get(&mut grpc, "new").await.unwrap().payload[..], b"secret");

    let token = format!("authorization: Bearer {}", issuer.token("alice", &json!({})));
    let arguments = [&JSON[..], &["-d", "{}", "-H", &token]].concat();
    let answer = curl(&broker, Some(&broker.operator), WHO_AM_I, &arguments).await;
    assert_eq!(answer.json()["caller"]["id"], "oidc/test/alice", "{answer:?}");
    let answer = post(&broker, WHO_AM_I, "{}", &["-H", "authorization: Bearer nonsense"]).await;
    assert_eq!((answer.status, reason(&answer).as_str()), (401, "TOKEN_MALFORMED"));
    let answer = curl(&broker, None, WHO_AM_I, &[&JSON[..], &["--http1.1", "-d", "{}"]].concat()).await;
    assert_eq!((answer.status, reason(&answer).as_str()), (401, "CREDENTIAL_MISSING"));
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
}

#[tokio::test]
async fn what_is_wrong_is_told_as_connect_tells_it() {
    let broker = TestBroker::with("[limits]\nmessage_bytes = \"1KiB\"\n", Arc::new(SystemClock)).await;
    let large = format!(r#"{{"name": "{}"}}"#, "x".repeat(1024));
    let deep = format!(r#"{{"describedCaller": {{"claims": {{"a": {}{}}}}}}}"#, "[".repeat(40), "]".repeat(40));
    let named = r#"{"name": "stores/local/secrets/none"}"#;
    for (path, body, more, status, code, named) in [
        (GET, r#"{"nmae": "hunter2"}"#, "", 400, "invalid_argument", "INVALID_ARGUMENT"),
        (GET, r#"{"name": 12345}"#, "", 400, "invalid_argument", "INVALID_ARGUMENT"),
        (GET, r#"{"name": "hunter2"#, "", 400, "invalid_argument", "INVALID_ARGUMENT"),
        (GET, r#"{"name": "a"} hunter2"#, "", 400, "invalid_argument", "INVALID_ARGUMENT"),
        (GET, "", "", 400, "invalid_argument", "INVALID_ARGUMENT"),
        (GET, r#"{"name": "hunter2"}"#, "", 400, "invalid_argument", "INVALID_NAME"),
        (ADD, r#"{"payload": "hunter2!"}"#, "", 400, "invalid_argument", "INVALID_ARGUMENT"),
        ("/keyferry.v1.OperatorService/ExplainAccess", &deep, "", 400, "invalid_argument", "INVALID_ARGUMENT"),
        (GET, &large, "", 429, "resource_exhausted", "MESSAGE_TOO_LARGE"),
        (GET, named, "", 404, "not_found", "SECRET_NOT_FOUND"),
        (GET, named, "connect-timeout-ms: soon", 400, "invalid_argument", "INVALID_ARGUMENT"),
        (GET, named, "connect-timeout-ms: 12345678901", 400, "invalid_argument", "INVALID_ARGUMENT"),
        (GET, named, "connect-timeout-ms: 0", 504, "deadline_exceeded", "DEADLINE_EXCEEDED"),
        (GET, named, "connect-protocol-version: 2", 400, "invalid_argument", "INVALID_ARGUMENT"),
        (GET, named, "content-encoding: gzip", 501, "unimplemented", "UNIMPLEMENTED"),
        ("/keyferry.v1.RotationService/WatchRotations", "{}", "", 501, "unimplemented", "UNIMPLEMENTED"),
        ("/keyferry.v1.SecretService/Steal", "{}", "", 501, "unimplemented", "METHOD_UNKNOWN"),
    ] {
        let more = if more.is_empty() { vec![] } else { vec!["-H", more] };
        let answer = post(&broker, path, body, &more).await;
        assert_eq!(answer.status, status, "{path} {body} {more:?}: {answer:?}");
        assert_eq!((answer.json()["code"].as_str(), reason(&answer).as_str()), (Some(code), named), "{path} {body}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(!answer.body.contains("hunter2"), "{answer:?}");
    }
    let answer = post(&broker, GET, r#"{"name": "a", "maxAge": 5}"#, &[]).await.json();
    let violation = &answer["details"][1]["debug"]["fieldViolations"][0];
    assert_eq!(violation["field"], "maxAge", "{answer}");
    assert_eq!(violation["description"], "is a number; write a string such as \"300s\"");
    // Each was a call like any other, and one is on record for each.
    assert_eq!(records(&broker.path().join("audit")).len(), 18);
}

#[tokio::test]
async fn what_speaks_no_known_way_reaches_nothing() {
    let broker = TestBroker::start().await;
    let send = async |arguments: &[&str]| {
        curl(&broker, Some(&broker.client), GET, &[&["--http1.1"], arguments].concat()).await
    };
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml", "text/json"]
    {
        let answer = send(&["-H", &format!("content-type: {kind}"), "-d", "{}"]).await;
        assert_eq!(answer.status, 415, "{kind}");
        assert_eq!(answer.header("accept-post"), Some("application/json, application/proto"));
        assert!(answer.body.contains("send content-type application/json"), "{answer:?}");
    }
    assert_eq!(send(&["-H", "content-type;", "-d", "{}"]).await.status, 415);
    for method in ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
        let answer = send(&[&JSON[..], &["-X", method, "-d", "{}"]].concat()).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, POST")), "{method}");
    }
    let answer = send(&["-H", "content-type: application/grpc", "-d", "x"]).await;
    assert_eq!(answer.status, 505);
    assert!(records(&broker.path().join("audit")).is_empty());
}

#[tokio::test]
async fn a_stranger_gets_in_by_json_no_more_than_by_grpc() {
    let broker = TestBroker::start().await;
    broker.put("db", b"canary", &[]).await;
    let arguments = [&JSON[..], &["-d", r#"{"name": "stores/local/secrets/db"}"#]].concat();
    let stranger = broker.ca.client("stranger");
    let answer = curl(&broker, Some(&stranger), GET, &arguments).await;
    let mut grpc = broker.secrets(&stranger).await;
    assert_eq!((answer.status, reason(&answer)), (403, refused(get(&mut grpc, "db").await)));
    assert!(!answer.body.contains(&STANDARD.encode("canary")));
}

#[tokio::test]
async fn a_body_that_does_not_arrive_ends_its_call() {
    let broker = limited("request_timeout = \"100ms\"").await;
    let mut sender = client(&broker, 65_535).await;
    let request = Request::post(format!("https://keyferry.test{GET}")).header("content-type", "application/json");
    let response = sender.send_request(request.body(never()).unwrap()).await.unwrap();
    assert_eq!((response.status().as_u16(), code(response).await), (504, "deadline_exceeded".to_owned()));
    let said = raw(
        &broker,
        &format!("POST {GET} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{{"),
    )
    .await;
    assert!(said.starts_with("HTTP/1.1 504 ") && said.contains("deadline_exceeded"), "{said}");
    for record in records(&broker.path().join("audit")) {
        assert_eq!(record["outcome"], "DEADLINE_EXCEEDED");
    }
}

#[tokio::test]
async fn an_answer_in_json_keeps_its_place_until_it_was_taken() {
    let limits = "calls_in_flight = 1\nkeepalive_interval = \"1s\"\nkeepalive_timeout = \"1s\"";
    let broker = limited(limits).await;
    broker.put("db", &[b'x'; 32 << 10], &[]).await;
    let mut others = broker.secrets(&broker.client).await;
    let mut greedy = client(&broker, 0).await;
    let asked = bytes(br#"{"name": "stores/local/secrets/db"}"#);
    let request = Request::post(format!("https://keyferry.test{GET}")).header("content-type", "application/json");
    let untaken = greedy.send_request(request.body(asked).unwrap()).await.unwrap();
    assert_eq!(untaken.status(), 200);
    assert_eq!(refused(get(&mut others, "db").await), "OVERLOADED");
    let shed = post(&broker, GET, "{}", &[]).await;
    assert_eq!((shed.status, reason(&shed).as_str(), shed.header("retry-after")), (429, "OVERLOADED", Some("1")));
    while get(&mut others, "db").await.is_err() {}
    assert!(untaken.into_body().collect().await.is_err(), "its stream was reset");
}

#[tokio::test]
async fn http_1_is_read_in_one_way_only() {
    let broker = TestBroker::start().await;
    let head = format!("POST {GET} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n");
    let smuggled = format!("{head}content-length: 2\r\n\r\n{{}}");
    // A request whose end could be read in two ways is the connection's last, whichever way it was read.
    for lengths in [
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
        "content-length: 4\r\ncontent-length: 5\r\n",
        "content-length: +4\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding : chunked\r\n",
    ] {
        let said = raw(&broker, &format!("{head}{lengths}\r\n0\r\n\r\n{smuggled}")).await;
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{lengths}: {said}");
        assert!(said.starts_with("HTTP/1.1 400 "), "{lengths}: {said}");
    }
    // One that is only told of its length by chunks is as good as another, and so is one that asks before it sends.
    let chunked = "23\r\n{\"name\": \"stores/local/secrets/no\"}\r\n0\r\n\r\n";
    let said = raw(&broker, &format!("{head}transfer-encoding: chunked\r\nconnection: close\r\n\r\n{chunked}")).await;
    assert!(said.starts_with("HTTP/1.1 404 ") && said.contains("SECRET_NOT_FOUND"), "{said}");
    let answer =
        post(&broker, GET, r#"{"name": "stores/local/secrets/no"}"#, &["--http1.1", "-H", "expect: 100-continue"])
            .await;
    assert_eq!(answer.status, 404, "{answer:?}");
    let headers = format!("{head}x-large: {}\r\n\r\n", "x".repeat(20 * 1024));
    assert!(raw(&broker, &headers).await.starts_with("HTTP/1.1 431 "));
}

/// Sends that over HTTP/1.1 and reads until the connection ends.
async fn raw(broker: &TestBroker, text: &str) -> String {
    let mut stream = http1(broker).await;
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    let mut part = [0; 4096];
    // A refused connection may end without TLS's good-bye.
    while let Ok(read @ 1..) = stream.read(&mut part).await {
        said.extend_from_slice(&part[..read]);
        if text.contains("content-length: 9") && said.ends_with(b"}") {
            break;
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

async fn http1(broker: &TestBroker) -> TlsStream<TcpStream> {
    let mut config = tls::config(&broker.ca, Some(&broker.client));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(broker.broker.grpc_address()).await.unwrap();
    let name = ServerName::try_from("keyferry.test").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

async fn code(response: Response<Incoming>) -> String {
    let body: Bytes = response.into_body().collect().await.unwrap().to_bytes();
    let told: Value = serde_json::from_slice(&body).unwrap();
    told["code"].as_str().unwrap().to_owned()
}
