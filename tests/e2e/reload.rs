//! What changes while calls are under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use keyferry_broker::clock::SystemClock;
use keyferry_proto::v1::GetStatusRequest;
use keyferry_tests::broker::{TestBroker, get, prepare};
use keyferry_tests::issuer::Issuer;
use keyferry_tests::pki::Ca;
use tokio_stream::StreamExt as _;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest::ListServices;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::status::{reason, refused};

/// Asks again and again, for a bounded time, until it holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let patience = tokio::time::timeout(Duration::from_secs(30), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(patience.await.is_ok(), "never came true: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_swapped_under_10_000_calls_fails_none_and_new_connections_see_it() {
    const CALLS: usize = 10_000;
    let broker = Arc::new(TestBroker::start().await);
    broker.put("db", b"one", &[]).await;
    let (done, swapped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));

    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (broker, done, swapped) = (Arc::clone(&broker), Arc::clone(&done), Arc::clone(&swapped));
            tokio::spawn(async move {
                let mut client = broker.secrets(&broker.client).await;
                // On past the count until the swap was seen, so that calls surround it.
                while done.fetch_add(1, Ordering::Relaxed) < CALLS || !swapped.load(Ordering::Relaxed) {
                    get(&mut client, "db").await.unwrap();
                    if done.load(Ordering::Relaxed) % 100 == 0 {
                        client = broker.secrets(&broker.client).await;
                    }
                }
            })
        })
        .collect();

    let before = broker.broker.parts().tls.status().thumbprint;
    broker.ca.server("keyferry.test").write(broker.path(), "server");
    eventually("the new certificate is in use", async || broker.broker.parts().tls.status().thumbprint != before).await;
    swapped.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(done.load(Ordering::Relaxed) >= CALLS);

    let presented = presented_certificate(&broker).await;
    assert_eq!(presented, broker.broker.parts().tls.status().thumbprint.to_string());
}

#[tokio::test]
async fn a_key_that_does_not_fit_its_certificate_is_reported_and_not_used() {
    let broker = TestBroker::start().await;
    let before = presented_certificate(&broker).await;
    let other = broker.ca.server("keyferry.test");
    std::fs::write(broker.path().join("server.pem"), &other.certificate).unwrap();
    let mut operator = broker.operations(&broker.operator).await;
    let mut complaint = String::new();
    for _ in 0..1500 {
        let status = operator.get_status(GetStatusRequest {}).await.unwrap().into_inner().status.unwrap();
        if let Some(error) = status.tls.unwrap().certificate.unwrap().last_error {
            complaint = error.message;
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(complaint.contains("server.pem") && complaint.contains("server.key"), "{complaint:?}");
    assert_eq!(presented_certificate(&broker).await, before);
}

#[tokio::test]
async fn a_new_policy_holds_for_open_connections_and_a_bad_one_does_not() {
    let broker = TestBroker::start().await;
    broker.put("db", b"one", &[]).await;
    let mut client = broker.secrets(&broker.client).await;
    get(&mut client, "db").await.unwrap();

    let policy = broker.path().join("policy/test.cedar");
    std::fs::write(&policy, "permit (principal, action, resource) when { principal.nonsense };").unwrap();
    let rejected = || broker.broker.parts().gate.policies().status().rejected;
    eventually("the bad policy is reported", async || rejected().is_some()).await;
    get(&mut client, "db").await.unwrap();

    let tightened = keyferry_tests::broker::POLICY.replace("/client", "/somebody-else");
    std::fs::write(&policy, tightened).unwrap();
    eventually("the new policy is in force", async || rejected().is_none()).await;
    assert_eq!(refused(get(&mut client, "db").await), "ACCESS_DENIED");
}

#[tokio::test]
async fn a_ca_that_is_withdrawn_ends_the_rights_of_open_connections() {
    let broker = TestBroker::start().await;
    broker.put("db", b"one", &[]).await;
    let mut client = broker.secrets(&broker.client).await;
    get(&mut client, "db").await.unwrap();
    let generation = broker.broker.parts().tls.status().generation;
    std::fs::write(broker.path().join("ca.pem"), Ca::new("another CA").pem()).unwrap();
    let now = async || broker.broker.parts().tls.status().generation != generation;
    eventually("the new CA is in force", now).await;
    assert_eq!(refused(get(&mut client, "db").await), "CERTIFICATE_REJECTED");
}

/// Opens a stream that its client would keep for ever.
async fn open_stream(
    channel: tonic::transport::Channel,
    token: Option<&str>,
) -> tonic::Streaming<ServerReflectionResponse> {
    let ask = ServerReflectionRequest { host: String::new(), message_request: Some(ListServices(String::new())) };
    // Never closed from this side.
    let mut request = tonic::Request::new(tokio_stream::once(ask).chain(tokio_stream::pending()));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let mut stream = ServerReflectionClient::new(channel).server_reflection_info(request).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    stream
}

#[tokio::test]
async fn what_opened_a_stream_ends_it_when_it_is_out_of_force() {
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::new("test CA");
    prepare(directory.path(), &ca, &Issuer::configuration());
    let issuer = Issuer::new("k1");
    issuer.write_keys(directory.path());
    let broker = TestBroker::start_in(directory, ca, Arc::new(SystemClock)).await;
    let token = issuer.token("watcher", &serde_json::json!({}));
    let mut by_token = open_stream(broker.channel(&broker.client).await, Some(&token)).await;
    let mut by_certificate = open_stream(broker.channel(&broker.client).await, None).await;

    let within = Duration::from_secs(30);
    Issuer::new("k2").write_keys(broker.path());
    let end = tokio::time::timeout(within, by_token.message()).await.unwrap().unwrap_err();
    assert_eq!(reason(&end), "TOKEN_KEY_UNKNOWN");

    std::fs::write(broker.path().join("ca.pem"), Ca::new("another CA").pem()).unwrap();
    let end = tokio::time::timeout(within, by_certificate.message()).await.unwrap().unwrap_err();
    assert_eq!(reason(&end), "CERTIFICATE_REJECTED");
}

/// SHA-256 of the leaf that a new connection is shown, in hexadecimal.
async fn presented_certificate(broker: &TestBroker) -> String {
    let stream = keyferry_tests::tls::connect(broker.broker.grpc_address(), &broker.ca, Some(&broker.client)).await;
    let stream = stream.unwrap();
    let (_, connection) = stream.get_ref();
    keyferry_broker::digest::Digest::of(&connection.peer_certificates().unwrap()[0]).to_string()
}
