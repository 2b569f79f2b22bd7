//! The web port: who may reach it, and what it answers to what it does not know.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use keyferry_tests::broker::TestBroker;
use keyferry_tests::{tls, web};

use crate::admin::fetch;

fn request(method: Method, path: &str) -> Request<Bytes> {
    Request::builder().method(method).uri(path).body(Bytes::new()).unwrap()
}

#[tokio::test]
async fn a_stranger_without_a_certificate_is_answered_and_finds_no_call() {
    let broker = TestBroker::start().await;
    let address = broker.broker.web_address().unwrap();
    for path in ["/", "/keyferry.v1.SecretService/GetSecret", "/metrics", "/../policy", "/%2e%2e/"] {
        for method in [Method::GET, Method::POST, Method::OPTIONS] {
            let answer = web::send(address, &broker.ca, request(method.clone(), path)).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{method} {path}");
            let answer = web::send_http2(address, &broker.ca, request(method.clone(), path)).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{method} {path} over HTTP/2");
        }
    }
    let metrics = fetch(&broker, "/metrics").await;
    assert!(metrics.contains("keyferry_web_requests_total{route=\"_OTHER\",status=\"404\"} 30"), "{metrics}");
    assert!(metrics.contains("keyferry_connections_accepted_total{listener=\"web\"} 30"), "{metrics}");
}

#[tokio::test]
async fn the_port_closes_with_the_broker() {
    let TestBroker { broker, ca, .. } = TestBroker::start().await;
    let address = broker.web_address().unwrap();
    let stream = TokioIo::new(web::connect(address, &ca, b"http/1.1").await);
    let (mut sender, connection) = http1::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let asked = Request::get("/").header("host", "keyferry.test").body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(sender.send_request(asked).await.unwrap().status(), StatusCode::NOT_FOUND);
    broker.stop().await;
    connection.await.unwrap().unwrap();
    assert!(tls::connect(address, &ca, None).await.is_err());
}
