//! The secret discovery service at the wire: what is sent, what is not, and what is on record.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use keyferry_broker::clock::{Clock as _, SystemClock};
use keyferry_proto::envoy::config::core::v3::data_source::Specifier;
use keyferry_proto::envoy::config::core::v3::{DataSource, Node};
use keyferry_proto::envoy::extensions::transport_sockets::tls::v3::Secret;
use keyferry_proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use keyferry_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use keyferry_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use keyferry_proto::google::rpc;
use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::{
    EnvoyResourceStatus, GetRotationRequest, GetStatusRequest, HealthState, ListSubscribersRequest,
    RotateSecretRequest, Rotation, RotationState,
};
use keyferry_tests::broker::{POLICY, TestBroker};
use keyferry_tests::clock::ManualClock;
use keyferry_tests::pki::{Ca, Issued};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::reload::eventually;
use crate::status::reason;

const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

const RESOURCES: &str = r#"
[envoy.token]
kind = "generic"
secret = "stores/local/secrets/token"

[envoy.other]
kind = "generic"
secret = "stores/local/secrets/other"

[envoy.web]
kind = "tls-certificate"
secret = "stores/local/secrets/web"
key = "stores/local/secrets/web-key"

[rotations.token]
targets = ["stores/local/secrets/token"]
kind = "generate"
subscriber_grace = "0s"
"#;

async fn broker() -> TestBroker {
    TestBroker::with(RESOURCES, Arc::new(SystemClock)).await
}

/// A client that speaks one of the two variants by hand.
struct Stream<Q, A> {
    asks: mpsc::UnboundedSender<Q>,
    answers: Streaming<A>,
}

type Sotw = Stream<DiscoveryRequest, DiscoveryResponse>;
type Delta = Stream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;

impl<Q, A> Stream<Q, A> {
    fn say(&self, request: Q) {
        self.asks.send(request).unwrap();
    }

    async fn next(&mut self) -> A {
        self.try_next().await.unwrap()
    }

    async fn try_next(&mut self) -> Result<A, Status> {
        let message = tokio::time::timeout(Duration::from_secs(30), self.answers.message()).await;
        Ok(message.expect("an answer was due")?.expect("it ends with a status"))
    }
}

async fn client(broker: &TestBroker, who: &Issued) -> SecretDiscoveryServiceClient<tonic::transport::Channel> {
    SecretDiscoveryServiceClient::new(broker.channel(who).await)
}

async fn try_sotw(broker: &TestBroker, who: &Issued, first: DiscoveryRequest) -> Result<Sotw, Status> {
    let (asks, asked) = mpsc::unbounded_channel();
    asks.send(first).unwrap();
    let answers = client(broker, who).await.stream_secrets(UnboundedReceiverStream::new(asked)).await?.into_inner();
    Ok(Stream { asks, answers })
}

async fn sotw(broker: &TestBroker, first: DiscoveryRequest) -> Sotw {
    try_sotw(broker, &broker.client, first).await.unwrap()
}

async fn delta(broker: &TestBroker, first: DeltaDiscoveryRequest) -> Delta {
    let (asks, asked) = mpsc::unbounded_channel();
    asks.send(first).unwrap();
    let stream = client(broker, &broker.client).await.delta_secrets(UnboundedReceiverStream::new(asked)).await;
    Stream { asks, answers: stream.unwrap().into_inner() }
}

fn node() -> Option<Node> {
    Some(Node { id: "edge-1".to_owned() })
}

fn wants(names: &[&str]) -> DiscoveryRequest {
    let resource_names = names.iter().map(ToString::to_string).collect();
    DiscoveryRequest { node: node(), resource_names, type_url: TYPE.to_owned(), ..DiscoveryRequest::default() }
}

fn ack(names: &[&str], response: &DiscoveryResponse) -> DiscoveryRequest {
    let (version_info, response_nonce) = (response.version_info.clone(), response.nonce.clone());
    DiscoveryRequest { version_info, response_nonce, node: None, ..wants(names) }
}

fn error(message: &str) -> Option<rpc::Status> {
    Some(rpc::Status { code: 13, message: message.to_owned(), details: Vec::new() })
}

fn subscribes(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: node(),
        type_url: TYPE.to_owned(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn delta_ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { response_nonce: response.nonce.clone(), ..DeltaDiscoveryRequest::default() }
}

fn secret(value: &keyferry_proto::Any) -> Secret {
    assert_eq!(value.type_url, TYPE);
    Secret::decode(value.value.clone()).unwrap()
}

fn bytes(data: Option<DataSource>) -> Vec<u8> {
    let Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes)) }) = data else { panic!("no value") };
    bytes.to_vec()
}

fn generic(value: &keyferry_proto::Any) -> (String, String) {
    let Secret { name, r#type: Some(Type::GenericSecret(generic)) } = secret(value) else { panic!("another kind") };
    (name, String::from_utf8(bytes(generic.secret)).unwrap())
}

/// Names and values, sorted.
fn values(response: &DiscoveryResponse) -> Vec<(String, String)> {
    let mut values: Vec<_> = response.resources.iter().map(generic).collect();
    values.sort();
    values
}

fn delta_values(response: &DeltaDiscoveryResponse) -> Vec<(String, String)> {
    let value = |resource: &keyferry_proto::envoy::service::discovery::v3::Resource| {
        generic(resource.resource.as_ref().unwrap())
    };
    response.resources.iter().map(value).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

async fn resource(broker: &TestBroker, name: &str) -> EnvoyResourceStatus {
    let status = broker.operations(&broker.operator).await.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    status.status.unwrap().envoy_resources.into_iter().find(|resource| resource.name == name).unwrap()
}

/// What the audit log has of the service, oldest first: outcome, and each secret's version and outcome.
fn on_record(broker: &TestBroker) -> Vec<(String, Vec<(String, String)>)> {
    let records = crate::audit::records(&broker.path().join("audit")).into_iter();
    let ours =
        records.filter(|record| record["method"].as_str().is_some_and(|method| method.contains("SecretDiscovery")));
    ours.map(|record| {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let items = record["items"].as_array().cloned().unwrap_or_default();
        let items = items.iter().map(|item| (text(&item["version"]), text(&item["outcome"]))).collect();
        (text(&record["outcome"]), items)
    })
    .collect()
}

#[tokio::test]
async fn a_change_is_pushed_once_and_each_value_that_leaves_is_on_record() {
    let broker = broker().await;
    broker.put("token", b"one", &[]).await;
    let mut stream = sotw(&broker, wants(&["token"])).await;
    let first = stream.next().await;
    assert_eq!((values(&first), first.nonce.as_str()), (pairs(&[("token", "one")]), "1"));
    assert_eq!(on_record(&broker), [("OK".to_owned(), pairs(&[("1", "OK")]))], "before it left");
    stream.say(ack(&["token"], &first));
    broker.put("other", b"unasked", &[]).await;
    broker.put("token", b"two", &[]).await;
    let second = stream.next().await;
    assert_eq!((values(&second), second.nonce.as_str()), (pairs(&[("token", "two")]), "2"));
    assert_ne!(first.version_info, second.version_info);
    let expected = [("OK".to_owned(), pairs(&[("1", "OK")])), ("OK".to_owned(), pairs(&[("2", "OK")]))];
    assert_eq!(on_record(&broker), expected);
}

#[tokio::test]
async fn what_changes_before_an_answer_comes_is_gathered_and_a_stale_answer_changes_nothing() {
    let broker = broker().await;
    broker.put("token", b"1", &[]).await;
    broker.put("other", b"1", &[]).await;
    let mut stream = sotw(&broker, wants(&["token"])).await;
    let first = stream.next().await;
    for value in ["2", "3", "4"] {
        broker.put("token", value.as_bytes(), &[]).await;
    }
    let stale = DiscoveryResponse { nonce: "0".to_owned(), ..first.clone() };
    stream.say(ack(&["other"], &stale));
    stream.say(ack(&["token", "other"], &first));
    let second = stream.next().await;
    assert_eq!(values(&second), pairs(&[("other", "1"), ("token", "4")]));
    stream.say(ack(&["other"], &second));
    broker.put("token", b"5", &[]).await;
    broker.put("other", b"2", &[]).await;
    assert_eq!(values(&stream.next().await), pairs(&[("other", "2")]), "it no longer wants the token");
}

#[tokio::test]
async fn a_refused_version_is_shown_and_not_sent_again() {
    let broker = broker().await;
    broker.put("token", b"1", &[]).await;
    let mut stream = sotw(&broker, wants(&["token"])).await;
    let first = stream.next().await;
    stream.say(ack(&["token"], &first));
    broker.put("token", b"2", &[]).await;
    let second = stream.next().await;
    stream.say(DiscoveryRequest { error_detail: error("cannot use it"), ..ack(&["token"], &second) });
    eventually("the refusal is shown", || async { !resource(&broker, "token").await.rejections.is_empty() }).await;
    let shown = resource(&broker, "token").await;
    assert_eq!((shown.rejections[0].message.as_str(), shown.health()), ("cannot use it", HealthState::Degraded));
    let mut client = RotationServiceClient::new(broker.channel(&broker.operator).await);
    eventually("the subscriber shows it", || {
        let mut client = client.clone();
        async move {
            let listed = client.list_subscribers(ListSubscribersRequest::default()).await.unwrap().into_inner();
            let version = listed.subscribers[0].versions[0].clone();
            version.version.ends_with("/1") && version.rejection == "cannot use it"
        }
    })
    .await;
    broker.put("token", b"3", &[]).await;
    let third = stream.next().await;
    assert_eq!((values(&third), third.nonce.as_str()), (pairs(&[("token", "3")]), "3"));
    stream.say(ack(&["token"], &third));
    eventually("it is accepted", || async { resource(&broker, "token").await.health() == HealthState::Healthy }).await;
    drop(stream);
    eventually("it is gone", || async { resource(&broker, "token").await.stream_count == 0 }).await;
    client.list_subscribers(ListSubscribersRequest::default()).await.unwrap();
}

#[tokio::test]
async fn increments_carry_what_changed_and_never_a_removal() {
    let broker = broker().await;
    broker.put("token", b"1", &[]).await;
    broker.put("other", b"1", &[]).await;
    let mut stream = delta(&broker, subscribes(&["token"])).await;
    let first = stream.next().await;
    assert_eq!(delta_values(&first), pairs(&[("token", "1")]));
    stream.say(DeltaDiscoveryRequest { resource_names_subscribe: vec!["other".to_owned()], ..delta_ack(&first) });
    let second = stream.next().await;
    assert_eq!(delta_values(&second), pairs(&[("other", "1")]));
    // Asked for again, it is sent again.
    stream.say(DeltaDiscoveryRequest { resource_names_subscribe: vec!["token".to_owned()], ..delta_ack(&second) });
    let third = stream.next().await;
    assert_eq!(delta_values(&third), pairs(&[("token", "1")]));
    stream.say(DeltaDiscoveryRequest { resource_names_unsubscribe: vec!["token".to_owned()], ..delta_ack(&third) });
    broker.put("token", b"2", &[]).await;
    broker.put("other", b"2", &[]).await;
    assert_eq!(delta_values(&stream.next().await), pairs(&[("other", "2")]));
}

#[tokio::test]
async fn who_comes_back_is_sent_only_what_it_lacks() {
    let broker = broker().await;
    broker.put("token", b"1", &[]).await;
    broker.put("other", b"1", &[]).await;
    let mut stream = sotw(&broker, wants(&["token", "other"])).await;
    let first = stream.next().await;
    drop(stream);
    broker.put("other", b"2", &[]).await;
    let again = DiscoveryRequest { version_info: first.version_info.clone(), ..wants(&["token", "other"]) };
    let mut stream = sotw(&broker, again).await;
    assert_eq!(values(&stream.next().await), pairs(&[("other", "2")]));

    let mut stream = delta(&broker, subscribes(&["token"])).await;
    let version = stream.next().await.resources[0].version.clone();
    drop(stream);
    let again = DeltaDiscoveryRequest {
        initial_resource_versions: [("token".to_owned(), version)].into(),
        ..subscribes(&["token"])
    };
    let mut stream = delta(&broker, again).await;
    broker.put("token", b"2", &[]).await;
    let next = stream.next().await;
    assert_eq!((delta_values(&next), next.nonce.as_str()), (pairs(&[("token", "2")]), "1"), "nothing was sent before");
}

#[tokio::test]
async fn a_pair_that_is_half_rotated_is_not_published_and_newcomers_get_the_last_good_one() {
    let broker = broker().await;
    let ca = Ca::new("web CA");
    let (old, new) = (ca.server("web.test"), ca.server("web.test"));
    broker.put("web", old.certificate.as_bytes(), &[]).await;
    broker.put("web-key", old.key.as_bytes(), &[]).await;
    let mut stream = sotw(&broker, wants(&["web"])).await;
    let first = stream.next().await;
    stream.say(ack(&["web"], &first));
    broker.put("web", new.certificate.as_bytes(), &[]).await;
    eventually("the half is noticed", || async {
        let error = resource(&broker, "web").await.last_error;
        error.is_some_and(|error| error.message.contains("does not belong to"))
    })
    .await;
    let chain = |response: &DiscoveryResponse| {
        let Some(Type::TlsCertificate(found)) = secret(&response.resources[0]).r#type else { panic!() };
        (bytes(found.certificate_chain), bytes(found.private_key))
    };
    let newcomer = sotw(&broker, wants(&["web"])).await.next().await;
    assert_eq!(chain(&newcomer), (old.certificate.clone().into_bytes(), old.key.clone().into_bytes()));
    broker.put("web-key", new.key.as_bytes(), &[]).await;
    let second = stream.next().await;
    assert_eq!(second.nonce, "2", "the half was never sent");
    assert_eq!(chain(&second), (new.certificate.into_bytes(), new.key.into_bytes()));
    assert_eq!(resource(&broker, "web").await.health(), HealthState::Healthy);
}

#[tokio::test]
async fn a_certificate_is_published_when_it_begins_and_its_predecessor_until_then() {
    let clock = Arc::new(ManualClock::new());
    let broker = TestBroker::with(RESOURCES, Arc::clone(&clock) as _).await;
    let ca = Ca::new("web CA");
    let issued = |hours: u64| {
        ca.issue(|params| {
            let begins = clock.now().plus(Duration::from_hours(hours)).as_secs();
            params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(begins);
        })
    };
    let put = async |issued: &Issued| {
        broker.put("web-key", issued.key.as_bytes(), &[]).await;
        broker.put("web", issued.certificate.as_bytes(), &[]).await;
    };
    let chain = |response: &DiscoveryResponse| {
        let Some(Type::TlsCertificate(found)) = secret(&response.resources[0]).r#type else { panic!() };
        String::from_utf8(bytes(found.certificate_chain)).unwrap()
    };
    let first = issued(1);
    put(&first).await;
    let early = try_sotw(&broker, &broker.client, wants(&["web"])).await.err().unwrap();
    assert_eq!(reason(&early), "VALUE_UNUSABLE");
    assert!(early.message().contains("begins only at"), "{early:?}");
    clock.advance(Duration::from_hours(1));
    let mut stream = sotw(&broker, wants(&["web"])).await;
    let published = stream.next().await;
    assert_eq!(chain(&published), first.certificate);
    stream.say(ack(&["web"], &published));

    let second = issued(2);
    put(&second).await;
    eventually("it is held back", || async {
        let error = resource(&broker, "web").await.last_error;
        error.is_some_and(|error| error.message.contains("begins only at"))
    })
    .await;
    assert_eq!(chain(&sotw(&broker, wants(&["web"])).await.next().await), first.certificate);
    clock.advance(Duration::from_hours(2));
    let published = stream.next().await;
    assert_eq!((chain(&published), published.nonce.as_str()), (second.certificate, "2"), "without another event");
}

#[cfg(feature = "etcd")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_is_answered_while_the_state_does_not_answer() {
    use keyferry_tests::etcd::EtcdCluster;
    use keyferry_tests::proxy::{Mood, Proxy};

    let etcd = EtcdCluster::start(1);
    let proxy = Proxy::start("127.0.0.1", etcd.endpoints()[0].rsplit(':').next().unwrap().parse().unwrap()).await;
    let by_way = format!("http://127.0.0.1:{}", proxy.port());
    let state = etcd.configuration().replace(etcd.endpoints()[0].as_str(), &by_way);
    let broker = TestBroker::with(&format!("{RESOURCES}{state}"), Arc::new(SystemClock)).await;
    broker.put("other", b"1", &[]).await;
    let is_on_record = async || {
        let mut rotations = RotationServiceClient::new(broker.channel(&broker.operator).await);
        let listed = rotations.list_subscribers(ListSubscribersRequest::default()).await;
        listed.is_ok_and(|listed| !listed.into_inner().subscribers.is_empty())
    };
    let mut stream = delta(&broker, subscribes(&["other"])).await;
    let first = stream.next().await;
    eventually("it is on record", is_on_record).await;
    proxy.mood().send_replace(Mood::Holding);
    stream.say(delta_ack(&first));
    // Were each answer put on record before the next request is heard, this would take minutes.
    let rounds = async {
        for _ in 0..30 {
            stream.say(subscribes(&["other"]));
            let again = stream.next().await;
            stream.say(delta_ack(&again));
        }
    };
    tokio::time::timeout(Duration::from_secs(30), rounds).await.expect("it is heard and answered");
}

#[tokio::test]
async fn a_denied_name_and_an_unknown_one_are_refused_alike_and_an_absent_secret_by_its_name() {
    let broker = broker().await;
    broker.put("token", b"1", &[]).await;
    let stranger = broker.ca.client("stranger");
    let refused = async |who: &Issued, name: &str| {
        let status = try_sotw(&broker, who, wants(&[name])).await.err().unwrap();
        (reason(&status), status.message().replace(name, "NAME"))
    };
    let denied = refused(&stranger, "token").await;
    assert_eq!(denied, refused(&stranger, "nothing").await);
    assert_eq!(denied.0, "ACCESS_DENIED");
    assert_eq!(refused(&broker.client, "nothing").await.0, "ACCESS_DENIED");
    assert_eq!(refused(&broker.client, "other").await.0, "SECRET_NOT_FOUND");
    let records = on_record(&broker);
    let outcomes: Vec<_> = records.iter().map(|(outcome, _)| outcome.as_str()).collect();
    assert_eq!(outcomes, ["ACCESS_DENIED", "ACCESS_DENIED", "ACCESS_DENIED", "SECRET_NOT_FOUND"]);
    // What it may have is not kept from it by what it may not.
    let mut stream = sotw(&broker, wants(&["token", "nothing"])).await;
    assert_eq!(values(&stream.next().await), pairs(&[("token", "1")]));
    let wrong = DiscoveryRequest { type_url: "type.googleapis.com/other".to_owned(), ..wants(&["token"]) };
    assert_eq!(reason(&try_sotw(&broker, &broker.client, wrong).await.err().unwrap()), "INVALID_ARGUMENT");
}

#[tokio::test]
async fn who_may_read_but_not_watch_is_refused_a_stream_and_may_fetch() {
    let broker = broker().await;
    broker.put("token", b"1", &[]).await;
    let reader = POLICY.replace("action in [Keyferry::Action::\"Read\"]", "action == Keyferry::Action::\"GetSecret\"");
    fs::write(broker.path().join("policy/test.cedar"), reader).unwrap();
    eventually("the policy is in force", || async {
        try_sotw(&broker, &broker.client, wants(&["token"]))
            .await
            .is_err_and(|status| reason(&status) == "ACCESS_DENIED")
    })
    .await;
    let mut client = client(&broker, &broker.client).await;
    let fetched = client.fetch_secrets(wants(&["token", "token"])).await.unwrap().into_inner();
    assert_eq!(values(&fetched), pairs(&[("token", "1")]));
    let missing = client.fetch_secrets(wants(&["token", "other"])).await.unwrap_err();
    assert_eq!(reason(&missing), "SECRET_NOT_FOUND", "all or nothing");
}

#[tokio::test]
async fn a_stream_ends_with_the_right_to_it() {
    let broker = broker().await;
    broker.put("token", b"1", &[]).await;
    let mut stream = sotw(&broker, wants(&["token"])).await;
    let first = stream.next().await;
    stream.say(ack(&["token"], &first));
    fs::write(broker.path().join("policy/test.cedar"), POLICY.replace("/client", "/nobody")).unwrap();
    let end = stream.try_next().await.unwrap_err();
    assert_eq!((end.code(), reason(&end).as_str()), (Code::PermissionDenied, "ACCESS_DENIED"));
    assert_eq!(on_record(&broker).last().unwrap().0, "ACCESS_DENIED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_version_is_not_retired_before_the_envoy_that_runs_it_took_the_new_one() {
    let broker = broker().await;
    broker.put("token", b"1", &[]).await;
    let mut stream = sotw(&broker, wants(&["token"])).await;
    let first = stream.next().await;
    stream.say(ack(&["token"], &first));
    let mut client = RotationServiceClient::new(broker.channel(&broker.operator).await);
    eventually("the Envoy is on record", || {
        let mut client = client.clone();
        async move {
            let listed = client.list_subscribers(ListSubscribersRequest::default()).await.unwrap().into_inner();
            listed.subscribers.iter().any(|one| one.subscriber == "edge-1.token" && one.connected)
        }
    })
    .await;
    let request = RotateSecretRequest { name: "stores/local/secrets/token".to_owned(), ..Default::default() };
    let name = client.rotate_secret(request).await.unwrap().into_inner().rotation.unwrap().name;
    let second = stream.next().await;
    let rotation = comes_to(&mut client, &name, RotationState::Retiring).await;
    assert_eq!((rotation.acknowledged_count, rotation.pending_count), (0, 1));
    stream.say(ack(&["token"], &second));
    comes_to(&mut client, &name, RotationState::Retired).await;
}

async fn comes_to(
    client: &mut RotationServiceClient<tonic::transport::Channel>,
    name: &str,
    state: RotationState,
) -> Rotation {
    let client = client.clone();
    let found = std::sync::Mutex::new(Rotation::default());
    eventually(&format!("the rotation is {state:?}"), || {
        let (mut client, name, found) = (client.clone(), name.to_owned(), &found);
        async move {
            let request = GetRotationRequest { name };
            let rotation = client.get_rotation(request).await.unwrap().into_inner().rotation.unwrap();
            let is_there = rotation.state() == state;
            *found.lock().unwrap() = rotation;
            is_there
        }
    })
    .await;
    found.into_inner().unwrap()
}
