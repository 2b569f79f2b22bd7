use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::Limits;
use super::world::{Broker, Files, config, http1_client, limits, ours, until};

#[tokio::test]
async fn oversized_headers_are_refused_and_the_connection_goes_on() {
    let broker = Broker::start(&Files::new()).await;
    let mut client = broker.client(&ours().client("cart", 1)).await;
    let request =
        Request::get("https://localhost/").header("x-large", "x".repeat(20 * 1024)).body(Empty::new()).unwrap();
    let response = client.sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(client.call("/").await.unwrap(), "/cart");
}

#[tokio::test]
async fn oversized_headers_are_refused_over_http_1_too() {
    let broker = Broker::start(&Files::new()).await;
    let mut config = config(Some(&ours().client("cart", 1)), &TLS13);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (mut sender, _connection) = http1_client(broker.dial(config).await.unwrap()).await;
    let request = Request::get("/").header("x-large", "x".repeat(20 * 1024)).body(Empty::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test]
async fn a_request_that_never_ends_its_headers_is_cut_off() {
    let files = Files::new();
    let short = Limits {
        keepalive_interval: Duration::from_millis(100),
        keepalive_timeout: Duration::from_millis(100),
        ..limits()
    };
    let broker = Broker::with(files.settings(), short).await;
    let mut config = config(Some(&ours().client("cart", 1)), &TLS13);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut stream = broker.dial(config).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: local").await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    until(|| broker.tls.stats().open() == 0).await;
}

#[tokio::test]
async fn an_http_2_peer_that_answers_no_ping_is_closed() {
    let files = Files::new();
    let short = Limits {
        keepalive_interval: Duration::from_millis(100),
        keepalive_timeout: Duration::from_millis(100),
        ..limits()
    };
    let broker = Broker::with(files.settings(), short).await;
    let config = config(Some(&ours().client("cart", 1)), &TLS13);
    let mut stream = broker.dial(config).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    until(|| broker.tls.stats().broken() == 1).await;
}

#[tokio::test]
async fn a_peer_that_stops_reading_is_closed() {
    let files = Files::new();
    let short = Limits {
        keepalive_interval: Duration::from_millis(100),
        keepalive_timeout: Duration::from_millis(100),
        ..limits()
    };
    let broker = Broker::with(files.settings(), short).await;
    let mut config = config(Some(&ours().client("cart", 1)), &TLS13);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut stream = broker.dial(config).await.unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    until(|| broker.tls.stats().timed_out() == 1 && broker.tls.stats().open() == 0).await;
}

#[tokio::test]
async fn an_answer_that_is_not_taken_is_dropped_and_its_connection_goes_on() {
    let files = Files::new();
    let short = Limits { keepalive_interval: Duration::from_millis(250), ..limits() };
    let short = Limits { keepalive_timeout: Duration::from_millis(250), ..short };
    for window in [0, 1, 4096] {
        let broker = Broker::with(files.settings(), short.clone()).await;
        let stream = broker.dial(config(Some(&ours().client("cart", 1)), &TLS13)).await.unwrap();
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake::<_, Empty<hyper::body::Bytes>>(TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let mut untaken = Vec::new();
        for _ in 0..3 {
            sender.ready().await.unwrap();
            let request = Request::get("https://localhost/large").body(Empty::new()).unwrap();
            // Its head arrives; nobody reads its body.
            untaken.push(sender.send_request(request).await.unwrap());
        }
        until(|| broker.tls.stats().untaken() == 3).await;
        assert_eq!(broker.tls.stats().open(), 1);
        assert!(!connection.is_finished());
    }
}

#[tokio::test]
async fn an_answer_that_is_taken_arrives_whole() {
    let broker = Broker::start(&Files::new()).await;
    let mut client = broker.client(&ours().client("cart", 1)).await;
    assert_eq!(client.call("/large").await.unwrap().len(), 64 * 1024 * 1024);
    assert_eq!(broker.tls.stats().untaken(), 0);
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_refused_until_another_ends() {
    let files = Files::new();
    let broker = Broker::with(files.settings(), Limits { connections: 2, ..limits() }).await;
    let cart = ours().client("cart", 1);
    let first = broker.client(&cart).await;
    let mut second = broker.client(&cart).await;
    assert!(broker.try_client(&cart).await.is_err());
    assert_eq!(broker.tls.stats().refused_full(), 1);
    assert_eq!(second.call("/").await.unwrap(), "/cart");

    drop(first.sender);
    until(|| broker.tls.stats().open() == 1).await;
    broker.client(&cart).await;
}

#[tokio::test]
async fn a_flood_of_resets_ends_its_connection_and_no_other() {
    let broker = Broker::start(&Files::new()).await;
    let mut honest = broker.client(&ours().client("cart", 1)).await;
    let config = config(Some(&ours().client("shop", 2)), &TLS13);
    let mut stream = broker.dial(config).await.unwrap();
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for stream_id in (1_u32..4001).step_by(2) {
        // GET / over https with an empty authority, every field from the static table, then at once its reset.
        flood.extend_from_slice(&[0, 0, 3, 1, 5]);
        flood.extend_from_slice(&stream_id.to_be_bytes());
        flood.extend_from_slice(&[0x82, 0x87, 0x84]);
        flood.extend_from_slice(&[0, 0, 4, 3, 0]);
        flood.extend_from_slice(&stream_id.to_be_bytes());
        flood.extend_from_slice(&8_u32.to_be_bytes());
    }
    let _ = stream.write_all(&flood).await;
    let _ = stream.read_to_end(&mut Vec::new()).await;
    until(|| broker.tls.stats().broken() == 1).await;
    assert_eq!(honest.call("/").await.unwrap(), "/cart");
}

#[tokio::test]
async fn a_flood_of_frames_that_ask_for_nothing_ends_its_connection_and_no_other() {
    let broker = Broker::start(&Files::new()).await;
    let mut honest = broker.client(&ours().client("cart", 1)).await;
    let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[0; 8]].concat();
    let settings = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let priority = vec![0, 0, 5, 2, 0, 0, 0, 0, 1, 0, 0, 0, 3, 1];
    let window_update = vec![0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let unknown = vec![0, 0, 0, 0x77, 0, 0, 0, 0, 0];
    for (number, frame) in (1..).zip([ping, settings, priority, window_update, unknown]) {
        let stream = broker.dial(config(Some(&ours().client("shop", 2)), &TLS13)).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        // What the broker answers is read, or it would stop to read itself.
        let reading = tokio::spawn(async move { reader.read_to_end(&mut Vec::new()).await });
        let _ = writer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        let many = frame.repeat(1_000);
        while writer.write_all(&many).await.is_ok() && broker.tls.stats().flooded() < number {}
        let _ = reading.await.unwrap();
        assert_eq!(broker.tls.stats().flooded(), number, "{frame:?}");
    }
    assert_eq!(honest.call("/").await.unwrap(), "/cart");
}

/// Many answers that nobody takes must go long before a single one would have to.
#[tokio::test]
async fn untaken_answers_make_room_when_together_they_hold_too_much() {
    let files = Files::new();
    let patient = Limits { keepalive_interval: Duration::from_secs(3600), ..limits() };
    let broker = Broker::with(files.settings(), patient).await;
    let stream = broker.dial(config(Some(&ours().client("cart", 1)), &TLS13)).await.unwrap();
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1)
        .handshake::<_, Empty<hyper::body::Bytes>>(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    sender.ready().await.unwrap();
    // It holds 64 MiB.
    let request = Request::get("https://localhost/large").body(Empty::new()).unwrap();
    let untaken = sender.send_request(request).await.unwrap();
    until(|| broker.tls.stats().untaken() == 1).await;
    assert!(!connection.is_finished());
    drop(untaken);
}
