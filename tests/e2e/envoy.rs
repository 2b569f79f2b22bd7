//! The real Envoy, whose certificate, client CA and API key come out of stores.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use keyferry_broker::clock::SystemClock;
use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::{
    EnvoyResourceStatus, GetStatusRequest, HealthState, ListSubscribersRequest, Subscriber, SubscriberKind,
};
use keyferry_tests::broker::{POLICY, TestBroker};
use keyferry_tests::envoy::{Envoy, Surroundings};
use keyferry_tests::pki::{Ca, Issued};
use keyferry_tests::proxy::Proxy;
use keyferry_tests::tls;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::reload::eventually;

pub(crate) const RESOURCES: &str = r#"
[envoy.edge-certificate]
kind = "tls-certificate"
secret = "stores/local/secrets/edge"

[envoy.client-ca]
kind = "validation-context"
secret = "stores/local/secrets/clients"

[envoy.upstream-key]
kind = "generic"
secret = "stores/local/secrets/key"
"#;

/// An Envoy between a client and an upstream that answers with the API key it was sent.
struct Edge {
    broker: TestBroker,
    /// Envoy's way to the broker, which outlives it.
    proxy: Proxy,
    envoy: Envoy,
    upstream: u16,
    _serving: JoinSet<()>,
    /// Issues what Envoy shows.
    ca: Ca,
    /// Issues what its clients show.
    clients: Ca,
}

impl Edge {
    /// Waits until a request gets through.
    async fn start(changes: &[(&str, &str)]) -> Self {
        let broker = TestBroker::with(RESOURCES, Arc::new(SystemClock)).await;
        let (ca, clients) = (Ca::new("edge CA"), Ca::new("first client CA"));
        let first = ca.server("keyferry.test");
        broker.put("edge", bundle(&first).as_bytes(), &[]).await;
        broker.put("clients", clients.pem().as_bytes(), &[]).await;
        broker.put("key", b"one", &[]).await;
        let proxy = Proxy::start("127.0.0.1", broker.broker.grpc_address().port()).await;
        let (upstream, serving) = upstream().await;
        let envoy = Envoy::start(&surroundings(&broker, &proxy, upstream, changes));
        let edge = Self { broker, proxy, envoy, upstream, _serving: serving, ca, clients };
        edge.shows(&first, "one").await;
        edge
    }

    /// What a client is shown, and what the upstream was sent.
    async fn ask(&self, client: &Issued) -> io::Result<(Vec<u8>, String)> {
        let address = self.envoy.listener().await.ok_or(io::ErrorKind::NotConnected)?;
        request(address, &self.ca, client).await
    }

    async fn shows(&self, certificate: &Issued, key: &str) {
        let client = self.clients.client("customer");
        let expected = (certificate.der.clone(), key.to_owned());
        eventually(
            &format!("a request is served with that certificate and the key {key}: {}", self.envoy.log()),
            || async { self.ask(&client).await.ok() == Some(expected.clone()) },
        )
        .await;
    }

    async fn rotate_certificate(&self) -> Issued {
        let next = self.ca.server("keyferry.test");
        self.broker.put("edge", bundle(&next).as_bytes(), &[]).await;
        next
    }

    async fn resource(&self, name: &str) -> EnvoyResourceStatus {
        let status = self.broker.operations(&self.broker.operator).await.get_status(GetStatusRequest {}).await.unwrap();
        let resources = status.into_inner().status.unwrap().envoy_resources;
        resources.into_iter().find(|resource| resource.name == name).unwrap()
    }

    async fn subscribers(&self) -> BTreeMap<String, Subscriber> {
        let mut client = RotationServiceClient::new(self.broker.channel(&self.broker.operator).await);
        let listed = client.list_subscribers(ListSubscribersRequest::default()).await.unwrap().into_inner();
        listed.subscribers.into_iter().map(|subscriber| (subscriber.subscriber.clone(), subscriber)).collect()
    }

    async fn restart_broker(self, while_down: impl AsyncFn(&Envoy)) -> Self {
        let TestBroker { ca, broker, directory, .. } = self.broker;
        broker.stop().await;
        while_down(&self.envoy).await;
        let broker = TestBroker::start_in(directory, ca, Arc::new(SystemClock)).await;
        self.proxy.lead_to(broker.broker.grpc_address().port());
        Self { broker, ..self }
    }
}

async fn follows(api_type: &str) {
    let mut edge = Edge::start(&[("api_type: GRPC", api_type)]).await;
    let second = edge.rotate_certificate().await;
    edge.shows(&second, "one").await;
    edge.broker.put("key", b"two", &[]).await;
    edge.shows(&second, "two").await;
    let before = std::mem::replace(&mut edge.clients, Ca::new("second client CA"));
    edge.broker.put("clients", edge.clients.pem().as_bytes(), &[]).await;
    edge.shows(&second, "two").await;
    assert!(edge.ask(&before.client("customer")).await.is_err(), "a client of the old CA gets in still");

    eventually("all three acknowledge what they run", || async {
        let subscribers = edge.subscribers().await;
        let current = |name: &str| {
            subscribers.get(name).is_some_and(|subscriber| {
                assert_eq!((subscriber.kind(), subscriber.connected), (SubscriberKind::Envoy, true));
                subscriber.versions.iter().all(|version| version.version == version.current_version)
            })
        };
        ["edge-1.edge-certificate", "edge-1.client-ca", "edge-1.upstream-key"].into_iter().all(current)
    })
    .await;
    assert!(edge.envoy.is_running());
    let resource = edge.resource("edge-certificate").await;
    assert_eq!((resource.health(), resource.stream_count), (HealthState::Healthy, 1));
    assert!(resource.version.starts_with("2@"), "{resource:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_follows_certificate_client_ca_and_key_without_a_restart() {
    follows("api_type: GRPC").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_follows_by_increments_as_well() {
    follows("api_type: DELTA_GRPC").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_envoy_refuses_is_visible_and_it_goes_on_with_what_it_had() {
    let edge = Edge::start(&[]).await;
    let second = edge.rotate_certificate().await;
    edge.shows(&second, "one").await;
    // Sound for all that the broker can tell, and of a kind that Envoy does not take.
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let exotic = CertificateParams::new(vec!["keyferry.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let exotic = format!("{}{}", exotic.pem(), key.serialize_pem());
    edge.broker.put("edge", exotic.as_bytes(), &[]).await;
    eventually("the refusal is shown", || async { !edge.resource("edge-certificate").await.rejections.is_empty() })
        .await;
    let resource = edge.resource("edge-certificate").await;
    let rejection = &resource.rejections[0];
    assert_eq!((rejection.node.as_str(), resource.health()), ("edge-1", HealthState::Degraded));
    assert!(rejection.version.starts_with("3@") && rejection.message.contains("private key"), "{rejection:?}");
    eventually("the subscriber shows it too", || async {
        let subscribers = edge.subscribers().await;
        let version = subscribers["edge-1.edge-certificate"].versions[0].clone();
        version.version.ends_with("/2")
            && version.current_version.ends_with("/3")
            && version.rejection == rejection.message
    })
    .await;
    edge.shows(&second, "one").await;
    let fourth = edge.rotate_certificate().await;
    edge.shows(&fourth, "one").await;
    eventually("nothing is refused any more", || async {
        edge.resource("edge-certificate").await.health() == HealthState::Healthy
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_certificate_never_reaches_envoy() {
    let edge = Edge::start(&[]).await;
    let second = edge.rotate_certificate().await;
    edge.shows(&second, "one").await;
    let stranger = edge.ca.server("keyferry.test");
    let torn = format!("{}{}", stranger.certificate, second.key);
    for (bad, why) in [("", "holds no certificate"), (torn.as_str(), "does not belong to")] {
        edge.broker.put("edge", if bad.is_empty() { b"none" } else { bad.as_bytes() }, &[]).await;
        eventually(why, || async {
            let resource = edge.resource("edge-certificate").await;
            resource.last_error.is_some_and(|error| error.message.contains(why))
        })
        .await;
        let resource = edge.resource("edge-certificate").await;
        assert_eq!((resource.health(), resource.version.starts_with("2@")), (HealthState::Degraded, true));
        edge.shows(&second, "one").await;
    }
    // An Envoy that starts now gets the last good one.
    let newcomer = Envoy::start(&surroundings(&edge.broker, &edge.proxy, edge.upstream, &[("edge-1", "edge-2")]));
    let edge = Edge { envoy: newcomer, ..edge };
    edge.shows(&second, "one").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_serves_on_while_the_broker_is_away_and_hears_of_what_comes_after() {
    let edge = Edge::start(&[]).await;
    let (ca, client) = (edge.ca.clone(), edge.clients.client("customer"));
    let edge = edge
        .restart_broker(async |envoy| {
            let served = request(envoy.listener().await.unwrap(), &ca, &client).await.unwrap();
            assert_eq!(served.1, "one");
        })
        .await;
    let second = edge.rotate_certificate().await;
    edge.shows(&second, "one").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_is_told_what_it_may_not_have_and_keeps_what_it_has() {
    let edge = Edge::start(&[]).await;
    let policy = edge.broker.path().join("policy/test.cedar");
    std::fs::write(&policy, POLICY.replace("/client", "/nobody")).unwrap();
    // Envoy logs a status as it came over the wire.
    let told = |name: &str| {
        format!("closed: 7, x509/spiffe://test.keyferry/client%20may%20not%20have%20the%20resource%20%22{name}%22")
    };
    eventually("Envoy logs that it lost the right", || async { edge.envoy.log().contains(&told("edge-certificate")) })
        .await;
    edge.rotate_certificate().await;
    let served = edge.ask(&edge.clients.client("customer")).await.unwrap();
    assert_eq!(served.1, "one", "it goes on with what it had");
    std::fs::write(&policy, POLICY).unwrap();
    let third = edge.rotate_certificate().await;
    edge.shows(&third, "one").await;

    let unknown = [("name: edge-certificate", "name: nobody-knows")];
    let lost = Envoy::start(&surroundings(&edge.broker, &edge.proxy, edge.upstream, &unknown));
    eventually("Envoy logs that there is no such resource", || async { lost.log().contains(&told("nobody-knows")) })
        .await;
}

fn surroundings<'a>(
    broker: &'a TestBroker,
    proxy: &Proxy,
    upstream: u16,
    changes: &'a [(&'a str, &'a str)],
) -> Surroundings<'a> {
    Surroundings { broker: proxy.port(), broker_ca: broker.ca.pem(), identity: &broker.client, upstream, changes }
}

pub(crate) fn bundle(issued: &Issued) -> String {
    format!("{}{}", issued.certificate, issued.key)
}

/// The certificate that was shown, and the body that came back.
pub(crate) async fn request(address: SocketAddr, ca: &Ca, client: &Issued) -> io::Result<(Vec<u8>, String)> {
    let mut config = tls::config(ca, Some(client));
    config.alpn_protocols.clear();
    let name = ServerName::try_from("keyferry.test").unwrap();
    let stream = TcpStream::connect(address).await?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8(answer).map_err(io::Error::other)?;
    let body = answer.strip_prefix("HTTP/1.1 200").and_then(|rest| rest.split_once("\r\n\r\n"));
    Ok((shown, body.ok_or(io::ErrorKind::InvalidData)?.1.to_owned()))
}

/// Answers each request with the key that it came with.
pub(crate) async fn upstream() -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let (mut key, mut line) = (String::new(), String::new());
                while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                    match line.trim_end() {
                        "" => {
                            let head = format!(
                                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                                key.len()
                            );
                            let _ = stream.write_all(format!("{head}{key}").as_bytes()).await;
                            return;
                        }
                        header => key = header.strip_prefix("x-api-key: ").map_or(key, str::to_owned),
                    }
                    line.clear();
                }
            });
        }
    });
    (port, serving)
}
