//! The admin port: what operators' tools read.

use keyferry_tests::broker::{TestBroker, get};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) async fn fetch(broker: &TestBroker, path: &str) -> String {
    let mut stream = TcpStream::connect(broker.broker.admin_address().unwrap()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn metrics_count_what_was_called_and_hold_no_secret() {
    let broker = TestBroker::start().await;
    broker.put("db", b"canary-payload", &[]).await;
    let mut client = broker.secrets(&broker.client).await;
    get(&mut client, "db").await.unwrap();
    get(&mut client, "none").await.unwrap_err();

    let metrics = fetch(&broker, "/metrics").await;
    let counted = |method: &str, code: &str| {
        metrics.lines().any(|line| {
            line.starts_with("rpc_server_call_duration_seconds_count")
                && line.contains(method)
                && line.contains(&format!("\"{code}\""))
                && line.ends_with(" 1")
        })
    };
    assert!(counted("keyferry.v1.SecretService/GetSecret", "OK"), "{metrics}");
    assert!(counted("keyferry.v1.SecretService/GetSecret", "NOT_FOUND"), "{metrics}");
    assert!(metrics.contains("keyferry_call_failures_total{reason=\"SECRET_NOT_FOUND\"} 1"), "{metrics}");
    assert!(
        metrics.contains("keyferry_audit_healthy 1") && metrics.contains("keyferry_connections_open{"),
        "{metrics}"
    );
    assert!(!metrics.contains("canary-payload") && !metrics.contains("secrets/db"), "{metrics}");
}

#[tokio::test]
async fn health_is_told_over_http_too() {
    let broker = TestBroker::start().await;
    assert!(fetch(&broker, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(fetch(&broker, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(fetch(&broker, "/nothing").await.starts_with("HTTP/1.1 404"));
}
