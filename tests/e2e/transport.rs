//! What peers may do on a connection, and what it costs them alone.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyferry_broker::clock::SystemClock;
use keyferry_tests::broker::{TestBroker, get, prepare};
use keyferry_tests::pki::Ca;
use keyferry_tests::process::Process;
use keyferry_tests::tls;
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::audit::records;
use crate::status::{reason, refused};

const GET: &str = "/keyferry.v1.SecretService/GetSecret";
const CHECK: &str = "/grpc.health.v1.Health/Check";

pub(crate) type Sent = BoxBody<Bytes, Infallible>;
pub(crate) type Sender = http2::SendRequest<Sent>;

/// A request's body of which nothing ever arrives.
struct Never;

impl Body for Never {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

pub(crate) fn never() -> Sent {
    Never.boxed()
}

pub(crate) fn bytes(bytes: &[u8]) -> Sent {
    http_body_util::Full::new(Bytes::copy_from_slice(bytes)).boxed()
}

/// A `GetSecretRequest`, framed: its name is field 1.
fn asking_for(secret: &str) -> Sent {
    let name = format!("stores/local/secrets/{secret}");
    let name_length = u8::try_from(name.len()).unwrap();
    bytes(&[&[0, 0, 0, 0, name_length + 2, 0x0a, name_length], name.as_bytes()].concat())
}

pub(crate) fn posted(path: &str, body: Sent) -> Request<Sent> {
    Request::post(format!("https://keyferry.test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap()
}

/// An HTTP/2 connection that lets every answer send this much before it has read any.
pub(crate) async fn client(broker: &TestBroker, window: u32) -> Sender {
    let stream = tls::connect(broker.broker.grpc_address(), &broker.ca, Some(&broker.client)).await.unwrap();
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) async fn limited(limits: &str) -> TestBroker {
    TestBroker::with(&format!("[limits]\n{limits}\n"), Arc::new(SystemClock)).await
}

fn status(response: &Response<Incoming>) -> Status {
    Status::from_header_map(response.headers()).unwrap()
}

#[tokio::test]
async fn only_grpc_over_http_2_reaches_a_method() {
    let broker = TestBroker::start().await;
    let mut config = tls::config(&broker.ca, Some(&broker.client));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    for method in ["GET", "POST"] {
        let stream = TcpStream::connect(broker.broker.grpc_address()).await.unwrap();
        let name = ServerName::try_from("keyferry.test").unwrap();
        let stream = TlsConnector::from(Arc::new(config.clone())).connect(name, stream).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = posted(GET, bytes(&[0; 5]));
        *request.version_mut() = Version::HTTP_11;
        *request.method_mut() = method.parse().unwrap();
        request.headers_mut().insert("host", "keyferry.test".parse().unwrap());
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::HTTP_VERSION_NOT_SUPPORTED);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains("HTTP/2"));
    }

    let mut sender = client(&broker, 65_535).await;
    let mut request = posted(GET, bytes(&[0; 5]));
    *request.method_mut() = http::Method::GET;
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/grpc+json"] {
        let mut request = posted(GET, bytes(&[0; 5]));
        request.headers_mut().insert("content-type", content_type.parse().unwrap());
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{content_type}");
    }
    // The first record is that of the first call that reached anything.
    let mut good = broker.secrets(&broker.client).await;
    assert_eq!(refused(get(&mut good, "none").await), "SECRET_NOT_FOUND");
    let records = records(&broker.path().join("audit"));
    let outcomes: Vec<_> = records.iter().filter_map(|record| record["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["SECRET_NOT_FOUND"]);
}

#[tokio::test]
async fn a_compressed_message_is_refused_and_told_how_to_be_sent() {
    let broker = TestBroker::start().await;
    let mut sender = client(&broker, 65_535).await;
    let mut request = posted(GET, bytes(&[1, 0, 0, 0, 0]));
    request.headers_mut().insert("grpc-encoding", "gzip".parse().unwrap());
    let response = sender.send_request(request).await.unwrap();
    let status = status(&response);
    assert_eq!((status.code(), reason(&status)), (Code::Unimplemented, "UNIMPLEMENTED".to_owned()));
    assert!(status.message().contains("uncompressed"), "{status:?}");
    assert_eq!(response.headers()["grpc-accept-encoding"], "identity");
}

#[tokio::test]
async fn a_message_that_does_not_arrive_ends_its_call() {
    let broker = limited("request_timeout = \"100ms\"").await;
    let mut sender = client(&broker, 65_535).await;
    let response = sender.send_request(posted(GET, never())).await.unwrap();
    assert_eq!(reason(&status(&response)), "DEADLINE_EXCEEDED");
    let records = records(&broker.path().join("audit"));
    assert_eq!(records[0]["outcome"], "DEADLINE_EXCEEDED");
    let response = sender.send_request(posted(CHECK, never())).await.unwrap();
    assert_eq!(reason(&status(&response)), "DEADLINE_EXCEEDED");
}

/// Begins a large message and never ends it; counts what of it the broker has let through.
struct Begun {
    left: usize,
    gone: Arc<AtomicUsize>,
}

impl Body for Begun {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        const PIECE: usize = 8 << 10;
        if self.left == 0 {
            return Poll::Pending;
        }
        self.left -= PIECE;
        self.gone.fetch_add(PIECE, Ordering::Relaxed);
        // The first is a message's head too, of a message that is a little longer.
        Poll::Ready(Some(Ok(Frame::data(
            Bytes::from_static(&[0, 0, 3, 0xff, 0]).into_iter().chain([0; PIECE - 5]).collect(),
        ))))
    }
}

#[tokio::test]
async fn large_requests_that_do_not_end_leave_room_for_small_ones() {
    // Of 256 KiB each.
    const PLACES: usize = 32;
    const MORE: usize = 4;
    const LARGE: usize = 240 << 10;
    let broker = limited("request_timeout = \"1m\"\ndefault_deadline = \"1m\"").await;
    let gone: Vec<Arc<AtomicUsize>> = (0..PLACES + MORE).map(|_| Arc::default()).collect();
    let sender = client(&broker, 65_535).await;
    let calls: Vec<_> = gone
        .iter()
        .map(|gone| {
            let body = Begun { left: LARGE, gone: Arc::clone(gone) }.boxed();
            let (mut sender, request) = (sender.clone(), posted("/keyferry.v1.SecretService/AddSecretVersion", body));
            tokio::spawn(async move { sender.send_request(request).await })
        })
        .collect();
    let taken = || gone.iter().filter(|gone| gone.load(Ordering::Relaxed) == LARGE).count();
    let all_begun = || gone.iter().all(|gone| gone.load(Ordering::Relaxed) > 32 << 10);
    crate::reload::eventually("as many as there are places for", async || taken() >= PLACES && all_begun()).await;

    let mut good = broker.secrets(&broker.client).await;
    assert_eq!(refused(get(&mut good, "none").await), "SECRET_NOT_FOUND");
    assert_eq!(taken(), PLACES, "the others are held back");
    // One that is given up makes room for the next.
    calls[gone.iter().position(|gone| gone.load(Ordering::Relaxed) == LARGE).unwrap()].abort();
    crate::reload::eventually("the next", async || taken() > PLACES).await;
}

#[tokio::test]
async fn health_checks_and_other_calls_do_not_take_each_others_places() {
    for (held, path) in [("grpc.health.v1.Health/Check", CHECK), ("keyferry.v1.SecretService/GetSecret", GET)] {
        let broker = limited("calls_in_flight = 1\nrequest_timeout = \"1m\"").await;
        let mut good = broker.secrets(&broker.client).await;
        let mut health = HealthClient::new(broker.channel(&broker.client).await);
        let mut sender = client(&broker, 65_535).await;
        let holding = tokio::spawn(async move { sender.send_request(posted(path, never())).await });
        let in_flight = async || {
            let metrics = crate::admin::fetch(&broker, "/metrics").await;
            let line = |line: &str| {
                line.starts_with("keyferry_calls_in_flight") && line.contains(held) && line.ends_with(" 1")
            };
            metrics.lines().any(line)
        };
        crate::reload::eventually("the held call is in flight", in_flight).await;

        let checked = health.check(HealthCheckRequest::default()).await;
        let read = get(&mut good, "none").await;
        if path == CHECK {
            assert_eq!((refused(checked), refused(read)), ("OVERLOADED".to_owned(), "SECRET_NOT_FOUND".to_owned()));
        } else {
            assert_eq!(refused(read), "OVERLOADED");
            checked.unwrap();
        }
        holding.abort();
    }
}

#[tokio::test]
async fn an_answer_keeps_its_place_until_it_was_taken_or_given_up() {
    let limits = "calls_in_flight = 1\nkeepalive_interval = \"1s\"\nkeepalive_timeout = \"1s\"";
    let broker = limited(limits).await;
    broker.put("db", &[b'x'; 32 << 10], &[]).await;
    let mut others = broker.secrets(&broker.client).await;
    for window in [0, 1] {
        let mut greedy = client(&broker, window).await;
        let untaken = greedy.send_request(posted(GET, asking_for("db"))).await.unwrap();
        assert_eq!(untaken.status(), StatusCode::OK);
        assert_eq!(refused(get(&mut others, "db").await), "OVERLOADED");
        while get(&mut others, "db").await.is_err() {}
        assert!(untaken.into_body().collect().await.is_err(), "its stream was reset");
    }
}

#[tokio::test]
async fn a_stream_says_what_is_ready_and_then_that_the_replica_goes() {
    let broker = TestBroker::start().await;
    let mut health = HealthClient::new(broker.channel(&broker.client).await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1, "SERVING");
    let stopping = tokio::spawn(broker.broker.stop());
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2, "NOT_SERVING");
    let end = watch.message().await.unwrap_err();
    assert_eq!((end.code(), reason(&end)), (Code::Unavailable, "DRAINING".to_owned()));
    stopping.await.unwrap();
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::new("test CA");
    let limits = "[limits]\nrequest_timeout = \"1m\"\ndefault_deadline = \"1m\"\ndrain_grace = \"10m\"\n";
    prepare(directory.path(), &ca, limits);
    let process = Process::serve(directory.path());
    let stream = tls::connect(process.grpc(), &ca, Some(&ca.client("client"))).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let held = tokio::spawn(async move { sender.send_request(posted(GET, never())).await });
    while !page(&process, "/metrics").await.contains("keyferry_connections_open{listener=\"grpc\"} 1") {}

    kill_process(Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
    while !page(&process, "/readyz").await.contains("draining") {}
    let (good, log) = tokio::task::spawn_blocking(|| process.terminate()).await.unwrap();
    assert!(!good);
    assert!(log.iter().any(|line| line.contains("told again")), "{log:#?}");
    assert!(held.await.unwrap().is_err());
}

async fn page(process: &Process, path: &str) -> String {
    let mut stream = TcpStream::connect(process.admin()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
