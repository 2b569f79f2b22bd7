//! What browsers need: gRPC-Web, and a say in whose pages may call.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use keyferry_broker::clock::SystemClock;
use keyferry_proto::v1::{GetSecretResponse, RotationFilter, WatchRotationsRequest, WatchRotationsResponse};
use keyferry_tests::broker::{TestBroker, prepare};
use keyferry_tests::curl::curl;
use keyferry_tests::pki::Ca;
use prost::Message as _;

use crate::audit::records;
use crate::transport::{Sent, bytes, client};

const GET: &str = "/keyferry.v1.SecretService/GetSecret";
const WATCH: &str = "/keyferry.v1.RotationService/WatchRotations";
const PAGE: &str = "https://ops.example.com";

/// A request for that secret, framed.
fn asking_for(secret: &str) -> Vec<u8> {
    let name = format!("stores/local/secrets/{secret}");
    let length = u8::try_from(name.len()).unwrap();
    [&[0, 0, 0, 0, length + 2, 0x0a, length], name.as_bytes()].concat()
}

async fn sent(broker: &TestBroker, path: &str, kind: &str, body: Sent) -> Response<Incoming> {
    let request = Request::post(format!("https://keyferry.test{path}")).header("content-type", kind);
    client(broker, 65_535).await.send_request(request.body(body).unwrap()).await.unwrap()
}

/// The frames of a whole answer: each with its flag.
fn frames(mut body: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [flag, a, b, c, d, rest @ ..] = body {
        let (frame, more) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        frames.push((*flag, frame.to_vec()));
        body = more;
    }
    assert!(body.is_empty());
    frames
}

/// From the text of one frame after the other, each with its own padding.
fn decoded(text: &[u8]) -> Vec<u8> {
    text.chunks(4).flat_map(|quantum| STANDARD.decode(quantum).unwrap()).collect()
}

async fn origin_allowed() -> TestBroker {
    let (directory, ca) = (tempfile::TempDir::new().unwrap(), Ca::new("test CA"));
    prepare(directory.path(), &ca, "");
    let config = directory.path().join("keyferry.toml");
    let configured = std::fs::read_to_string(&config).unwrap();
    let listed = format!("[listen]\nweb_origins = [\"http://localhost:8080\", \"{PAGE}\"]");
    std::fs::write(&config, configured.replace("[listen]", &listed)).unwrap();
    TestBroker::start_in(directory, ca, Arc::new(SystemClock)).await
}

#[tokio::test]
async fn grpc_web_has_its_trailers_in_the_body() {
    let broker = TestBroker::start().await;
    broker.put("db", b"payload", &[]).await;
    let text = STANDARD.encode(asking_for("db"));
    // Some clients encode what they have at hand, and go on after the padding.
    let pieces = format!("{}{}", STANDARD.encode(&asking_for("db")[..5]), STANDARD.encode(&asking_for("db")[5..]));
    for (kind, body, answered) in [
        ("application/grpc-web", asking_for("db"), "application/grpc-web+proto"),
        ("application/grpc-web+proto", asking_for("db"), "application/grpc-web+proto"),
        ("application/grpc-web-text", text.into(), "application/grpc-web-text+proto"),
        ("application/grpc-web-text+proto", pieces.into(), "application/grpc-web-text+proto"),
    ] {
        let response = sent(&broker, GET, kind, bytes(&body)).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &answered.parse().unwrap())
        );
        assert_eq!(response.headers()["cache-control"], "no-store");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let frames = frames(&if answered.contains("text") { decoded(&body) } else { body.to_vec() });
        let [(0, message), (0x80, trailers)] = frames.as_slice() else { panic!("{frames:?}") };
        assert_eq!(&GetSecretResponse::decode(message.as_slice()).unwrap().payload[..], b"payload");
        assert_eq!(trailers, b"grpc-status: 0\r\n");
    }
    let records = records(&broker.path().join("audit"));
    assert!(records[2..].iter().all(|record| record["protocol"] == "grpc-web"), "{records:?}");
}

#[tokio::test]
async fn grpc_web_refuses_as_grpc_does() {
    let broker = TestBroker::start().await;
    for (kind, path, body, code) in [
        ("application/grpc-web", GET, asking_for("none"), "5"),
        ("application/grpc-web", GET, b"\x80\0\0\0\0".to_vec(), "3"),
        ("application/grpc-web", GET, b"\0\0\0\0\x09short".to_vec(), "3"),
        ("application/grpc-web-text", GET, b"!not base64!".to_vec(), "3"),
        ("application/grpc-web-text", GET, vec![b'A'; 400 * 1024], "8"),
        ("application/grpc-web", "/keyferry.v1.SecretService/Steal", Vec::new(), "12"),
    ] {
        let response = sent(&broker, path, kind, bytes(&body)).await;
        assert_eq!(response.headers()["grpc-status"], code, "{kind} {body:?}");
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
    }
}

#[tokio::test]
async fn a_watch_comes_as_grpc_web_and_ends_with_a_reason() {
    let broker = TestBroker::start().await;
    broker.put("db", b"payload", &[]).await;
    let filter = RotationFilter { prefixes: vec!["stores/local/".into()], ..RotationFilter::default() };
    let asked = WatchRotationsRequest { filter: Some(filter), ..WatchRotationsRequest::default() }.encode_to_vec();
    let asked = [&[0, 0, 0, 0, u8::try_from(asked.len()).unwrap()], asked.as_slice()].concat();
    let response = sent(&broker, WATCH, "application/grpc-web+proto", bytes(&asked)).await;
    assert!(!response.headers().contains_key("grpc-status"));
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let (flag, message) = &frames(&first)[0];
    assert_eq!(*flag, 0);
    WatchRotationsResponse::decode(message.as_slice()).unwrap();
    let stopping = tokio::spawn(broker.broker.stop());
    let rest = frames(&body.collect().await.unwrap().to_bytes());
    let (flag, trailers) = rest.last().unwrap();
    let trailers = String::from_utf8_lossy(trailers);
    assert!(*flag == 0x80 && trailers.contains("grpc-status: 14\r\n"), "{trailers}");
    stopping.await.unwrap();
}

#[tokio::test]
async fn no_page_may_call_unless_its_origin_is_listed() {
    let closed = TestBroker::start().await;
    let open = origin_allowed().await;
    let json = ["--http1.1", "-H", "content-type: application/json", "-d", "{\"name\": \"stores/local/secrets/none\"}"];
    let query = format!("{GET}?encoding=json&message=%7B%7D");
    for foreign in [
        "origin: https://evil.example",
        "origin: null",
        "origin: https://ops.example.com.evil",
        "sec-fetch-site: cross-site",
    ] {
        for broker in [&closed, &open] {
            for (path, arguments) in [(GET, &json[..]), (query.as_str(), &[])] {
                let answer = curl(broker, Some(&broker.client), path, &[arguments, &["-H", foreign]].concat()).await;
                assert_eq!(answer.status, 403, "{foreign} {path}");
                assert!(answer.body.contains("[listen] web_origins"), "{answer:?}");
                assert_eq!(answer.header("access-control-allow-origin"), None);
            }
            let preflight = ["-X", "OPTIONS", "-H", "access-control-request-method: POST", "-H", foreign];
            assert_eq!(curl(broker, Some(&broker.client), GET, &preflight).await.status, 403);
        }
    }
    assert!(records(&closed.path().join("audit")).is_empty());
    let listed = format!("origin: {PAGE}");
    assert_eq!(curl(&closed, Some(&closed.client), GET, &[&json[..], &["-H", &listed]].concat()).await.status, 403);
    let answer = curl(&open, Some(&open.client), GET, &[&json[..], &["-H", &listed]].concat()).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (404, Some(PAGE)));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    assert_eq!(answer.header("vary"), Some("origin"));
}

#[tokio::test]
async fn no_page_makes_an_old_browser_call_by_an_address_alone() {
    let broker = TestBroker::start().await;
    let query = format!("{GET}?encoding=json&message=%7B%22name%22%3A%22stores%2Flocal%2Fsecrets%2Fnone%22%7D");
    let call = async |path: &str, arguments: &[&str]| curl(&broker, Some(&broker.client), path, arguments).await.status;
    let old = ["-H", "user-agent: Mozilla/5.0 (Windows NT 6.1; rv:52.0) Gecko/20100101 Firefox/52.0"];
    assert_eq!(call(&query, &old).await, 403);
    assert!(records(&broker.path().join("audit")).is_empty());
    assert_eq!(call(&query, &[]).await, 404, "what is no browser may");
    let post = ["-H", "content-type: application/json", "-d", "{\"name\": \"stores/local/secrets/none\"}"];
    assert_eq!(call(GET, &[&old[..], &post].concat()).await, 404, "where a page posts, its origin is told");
}

#[tokio::test]
async fn a_listed_page_is_told_what_it_may_send_and_read() {
    let broker = origin_allowed().await;
    let request = Request::builder()
        .method(Method::OPTIONS)
        .uri(format!("https://keyferry.test{GET}"))
        .header("origin", "http://localhost:8080")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type,x-grpc-web");
    let response = client(&broker, 65_535).await.send_request(request.body(bytes(b"")).unwrap()).await.unwrap();
    assert_eq!(response.status(), 204);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("access-control-allow-origin"), "http://localhost:8080");
    assert_eq!(header("access-control-allow-methods"), "GET, POST");
    for name in ["authorization", "content-type", "x-grpc-web", "grpc-timeout", "connect-timeout-ms"] {
        assert!(header("access-control-allow-headers").contains(name), "{name}");
    }
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
        assert!(header("access-control-expose-headers").contains(name), "{name}");
    }
    assert!(records(&broker.path().join("audit")).is_empty());
}
