//! Calls through every layer.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyferry_proto::v1::batch_get_secrets_result::Result as Entry;
use keyferry_proto::v1::{
    AddSecretVersionRequest, BatchGetSecretsRequest, DisableSecretVersionRequest, EnableSecretVersionRequest,
    GetSecretRequest, GetStatusRequest, ListSecretVersionsRequest, ListSecretsRequest, ReadSource, SecretFilter,
    SecretVersionState, WhoAmIRequest,
};
use keyferry_tests::broker::{TestBroker, get};
use keyferry_tests::tls;
use tonic::Code;

use crate::status::{reason, refused};

#[tokio::test]
async fn a_permitted_caller_reads_what_an_operator_added() {
    let broker = TestBroker::start().await;
    let added = broker.put("db", b"one", &[]).await.version.unwrap();
    assert_eq!(added.name, "stores/local/secrets/db/versions/1");
    broker.put("db", b"two", &[]).await;

    let mut client = broker.secrets(&broker.client).await;
    let latest = get(&mut client, "db").await.unwrap();
    assert_eq!(latest.name, "stores/local/secrets/db/versions/2");
    assert_eq!(&*latest.payload, b"two");
    assert_eq!(latest.source(), ReadSource::Provider);
    assert!(latest.load_time.is_some() && latest.create_time.is_some());
    let again = get(&mut client, "db").await.unwrap();
    assert_eq!(again.source(), ReadSource::Cache);
    assert_eq!((again.load_time, again.payload_crc32c), (latest.load_time, latest.payload_crc32c));
    let first = get(&mut client, "db/versions/1").await.unwrap();
    assert_eq!(&*first.payload, b"one");
}

#[tokio::test]
async fn a_disabled_version_is_refused_until_it_is_enabled_again() {
    let broker = TestBroker::start().await;
    let name = broker.put("db", b"one", &[]).await.version.unwrap().name;
    let mut operator = broker.secrets(&broker.operator).await;
    let mut client = broker.secrets(&broker.client).await;

    let request = DisableSecretVersionRequest { name: name.clone(), ..Default::default() };
    let disabled = operator.disable_secret_version(request).await.unwrap().into_inner().version.unwrap();
    assert_eq!(disabled.state(), SecretVersionState::Disabled);
    let request = DisableSecretVersionRequest { name: name.clone(), ..Default::default() };
    assert_eq!(operator.disable_secret_version(request).await.unwrap().into_inner().revision, 0, "nothing changed");
    assert_eq!(refused(get(&mut client, "db").await), "VERSION_DISABLED");

    let request = EnableSecretVersionRequest { name, ..Default::default() };
    operator.enable_secret_version(request).await.unwrap();
    assert_eq!(&*get(&mut client, "db").await.unwrap().payload, b"one");
}

#[tokio::test]
async fn a_list_pages_through_what_the_caller_may_see() {
    let broker = TestBroker::start().await;
    for index in 0..7 {
        broker.put(&format!("s{index}"), b"x", &[("team", if index % 2 == 0 { "a" } else { "b" })]).await;
    }
    let mut client = broker.secrets(&broker.client).await;
    let (mut names, mut token) = (Vec::new(), String::new());
    loop {
        let filter = SecretFilter { labels: [("team".into(), "a".into())].into(), ..Default::default() };
        let request =
            ListSecretsRequest { parent: "stores/local".into(), page_size: 2, page_token: token, filter: Some(filter) };
        let page = client.list_secrets(request).await.unwrap().into_inner();
        names.extend(page.secrets.into_iter().map(|secret| secret.name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["s0", "s2", "s4", "s6"].map(|id| format!("stores/local/secrets/{id}")));

    let request = ListSecretVersionsRequest { parent: "stores/local/secrets/s0".into(), ..Default::default() };
    let versions = client.list_secret_versions(request).await.unwrap().into_inner().versions;
    assert!(versions.len() == 1 && versions[0].latest);
}

#[tokio::test]
async fn a_batch_answers_each_entry_for_itself() {
    let broker = TestBroker::start().await;
    broker.put("a", b"A", &[]).await;
    let mut client = broker.secrets(&broker.client).await;
    let ask = |name: &str| GetSecretRequest { name: name.to_owned(), ..Default::default() };
    let request = BatchGetSecretsRequest {
        requests: vec![ask("stores/local/secrets/a"), ask("stores/local/secrets/none"), ask("../etc")],
    };
    let results = client.batch_get_secrets(request).await.unwrap().into_inner().results;
    let shown: Vec<_> = results
        .iter()
        .map(|entry| match entry.result.as_ref().unwrap() {
            Entry::Secret(secret) => String::from_utf8_lossy(&secret.payload).into_owned(),
            Entry::Error(error) => format!("{:?}", error.reason()),
        })
        .collect();
    assert_eq!(shown, ["A", "SecretNotFound", "InvalidName"]);

    let twice = BatchGetSecretsRequest { requests: vec![ask("x"), ask("x")] };
    assert_eq!(refused(client.batch_get_secrets(twice).await), "INVALID_ARGUMENT");
    assert_eq!(refused(client.batch_get_secrets(BatchGetSecretsRequest::default()).await), "INVALID_ARGUMENT");
    let mut batch = async |count: usize| {
        // A version and `latest` are two reads, though they answer alike.
        let name = |index| if index == 0 { "a/versions/1".to_owned() } else { format!("a{}", &"b".repeat(index - 1)) };
        let requests = (0..count).map(|index| ask(&format!("stores/local/secrets/{}", name(index)))).collect();
        client.batch_get_secrets(BatchGetSecretsRequest { requests }).await.map(tonic::Response::into_inner)
    };
    let results = batch(100).await.unwrap().results;
    let read = results.iter().take_while(|entry| matches!(entry.result, Some(Entry::Secret(_)))).count();
    assert_eq!((results.len(), read), (100, 2));
    assert_eq!(refused(batch(101).await), "INVALID_ARGUMENT");
}

#[tokio::test]
async fn what_is_forbidden_answers_like_what_does_not_exist() {
    let broker = TestBroker::start().await;
    broker.put("db", b"one", &[]).await;
    let stranger = broker.ca.client("stranger");
    let mut stranger = broker.secrets(&stranger).await;
    let there = get(&mut stranger, "db").await.unwrap_err();
    let absent = get(&mut stranger, "no").await.unwrap_err();
    assert_eq!((there.code(), reason(&there)), (Code::PermissionDenied, "ACCESS_DENIED".to_owned()));
    assert_eq!((there.code(), reason(&there)), (absent.code(), reason(&absent)));
    assert_eq!(there.message().replace("/db", "/no"), absent.message());
    let mut client = broker.secrets(&broker.client).await;
    assert_eq!(refused(get(&mut client, "no").await), "SECRET_NOT_FOUND");
}

#[tokio::test]
async fn a_reader_may_not_write() {
    let broker = TestBroker::start().await;
    let mut client = broker.secrets(&broker.client).await;
    let request = AddSecretVersionRequest { parent: "stores/local/secrets/db".into(), ..Default::default() };
    assert_eq!(refused(client.add_secret_version(request).await), "ACCESS_DENIED");
}

#[tokio::test]
async fn a_write_can_be_tried_without_being_done() {
    let broker = TestBroker::start().await;
    let mut operator = broker.secrets(&broker.operator).await;
    let attempt = AddSecretVersionRequest {
        parent: "stores/local/secrets/new".into(),
        allow_missing: true,
        validate_only: true,
        ..Default::default()
    };
    operator.add_secret_version(attempt.clone()).await.unwrap();
    assert_eq!(refused(get(&mut operator, "new").await), "SECRET_NOT_FOUND");
    let typo = AddSecretVersionRequest { allow_missing: false, ..attempt };
    assert_eq!(refused(operator.add_secret_version(typo).await), "SECRET_NOT_FOUND");
}

#[tokio::test]
async fn the_broker_says_who_one_is_and_how_it_is() {
    let broker = TestBroker::start().await;
    let mut operator = broker.operations(&broker.operator).await;
    let me = operator.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().caller.unwrap();
    assert_eq!(me.id, "x509/spiffe://test.keyferry/operator");
    assert_eq!(me.certificate.unwrap().spiffe_id, "spiffe://test.keyferry/operator");

    let status = operator.get_status(GetStatusRequest {}).await.unwrap().into_inner().status.unwrap();
    assert_eq!(status.node, "test-node");
    assert_eq!(status.policy.unwrap().policy_count, 2);
    assert!(status.audit.unwrap().sequence > 0);
    assert_eq!(status.tls.unwrap().client_ca_count, 1);

    let mut client = broker.operations(&broker.client).await;
    assert_eq!(refused(client.get_status(GetStatusRequest {}).await), "ACCESS_DENIED");
}

#[tokio::test]
async fn a_deadline_that_is_over_is_told_and_recorded() {
    let broker = TestBroker::start().await;
    // tonic's own client would give up before the broker does.
    let stream = tls::connect(broker.broker.grpc_address(), &broker.ca, Some(&broker.client)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post("https://keyferry.test/keyferry.v1.SecretService/GetSecret")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "0n")
        .body(Full::new(Bytes::from_static(&[0; 5])))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = tonic::Status::from_header_map(response.headers()).unwrap();
    assert_eq!((status.code(), reason(&status)), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".to_owned()));
    let records = crate::audit::records(&broker.path().join("audit"));
    assert_eq!(records[0]["outcome"], "DEADLINE_EXCEEDED");
    connection.abort();
}

#[tokio::test]
async fn health_answers_and_a_drain_lets_calls_finish() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let broker = TestBroker::start().await;
    let mut health = HealthClient::new(broker.channel(&broker.client).await);
    let status = health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status;
    assert_eq!(status, 1, "SERVING");

    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    let stopping = tokio::spawn(broker.broker.stop());
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2, "NOT_SERVING, before the connection goes");
    tokio::time::timeout(Duration::from_secs(30), stopping).await.unwrap().unwrap();
}
