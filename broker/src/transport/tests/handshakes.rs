use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rustls::AlertDescription;
use rustls::HandshakeKind;
use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::{ClientCertificate, HandshakeFailure, Limits, TlsSettings, TlsVersion};
use super::world::{Broker, Files, config, http1_client, limits, other, ours, until};

#[tokio::test]
async fn a_trusted_certificate_is_served() {
    let broker = Broker::start(&Files::new()).await;
    let mut client = broker.client(&ours().client("cart", 1)).await;
    assert_eq!(client.call("/").await.unwrap(), "/cart");
    assert_eq!(broker.tls.stats().open(), 1);
}

#[tokio::test]
async fn refuses_a_client_without_a_certificate() {
    let broker = Broker::start(&Files::new()).await;
    assert_eq!(broker.alert_for(None).await, AlertDescription::CertificateRequired);
    until(|| broker.tls.stats().handshake_failures(HandshakeFailure::NoCertificate) == 1).await;
}

#[tokio::test]
async fn refuses_a_certificate_of_another_ca() {
    let broker = Broker::start(&Files::new()).await;
    let stranger = other().client("cart", 1);
    assert_eq!(broker.alert_for(Some(&stranger)).await, AlertDescription::UnknownCA);
    let stats = broker.tls.stats();
    until(|| stats.handshake_failures(HandshakeFailure::UntrustedCertificate) == 1).await;
}

#[tokio::test]
async fn refuses_an_expired_certificate_by_the_brokers_own_clock() {
    let broker = Broker::start(&Files::new()).await;
    let june = ours().issue(|params| params.not_after = rcgen::date_time_ymd(2026, 7, 1));
    broker.client(&june).await;
    broker.clock.advance(Duration::from_hours(31 * 24));
    assert_eq!(broker.alert_for(Some(&june)).await, AlertDescription::CertificateExpired);
}

#[tokio::test]
async fn refuses_a_leaf_that_a_leaf_has_signed() {
    let broker = Broker::start(&Files::new()).await;
    let ca = ours().issue(|params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    assert_ne!(broker.alert_for(Some(&ca)).await, AlertDescription::CloseNotify);
    let stats = broker.tls.stats();
    until(|| stats.handshake_failures(HandshakeFailure::BadCertificate) == 1).await;
}

#[tokio::test]
async fn refuses_the_revoked_and_those_no_list_speaks_for() {
    let files = Files::new();
    files.put("ca.pem", &(ours().pem() + &other().pem()));
    files.put("crl.pem", &ours().revoking(&[7]));
    let settings = TlsSettings { client_crls: vec![files.path("crl.pem")], ..files.settings() };
    let broker = Broker::with(settings, limits()).await;

    broker.client(&ours().client("cart", 6)).await;
    let revoked = broker.alert_for(Some(&ours().client("cart", 7))).await;
    assert_eq!(revoked, AlertDescription::CertificateRevoked);
    assert!(broker.try_client(&other().client("cart", 6)).await.is_err());
    let stats = broker.tls.stats();
    until(|| stats.handshake_failures(HandshakeFailure::UnknownRevocation) == 1).await;

    // The list runs out in July, and then nobody is let in on its word.
    broker.clock.advance(Duration::from_hours(31 * 24));
    assert!(broker.try_client(&ours().client("cart", 6)).await.is_err());
}

#[tokio::test]
async fn a_client_without_a_certificate_is_served_where_it_is_optional_but_not_with_a_bad_one() {
    let files = Files::new();
    let settings = TlsSettings { client_certificate: ClientCertificate::Optional, ..files.settings() };
    let broker = Broker::with(settings, limits()).await;
    let mut anonymous = config(None, &TLS13);
    anonymous.alpn_protocols.clear();
    let (mut sender, _connection) = http1_client(broker.dial(anonymous).await.unwrap()).await;
    let request = http::Request::get("/").body(http_body_util::Empty::new()).unwrap();
    assert!(sender.send_request(request).await.unwrap().status().is_success());
    let stranger = other().client("cart", 1);
    assert_eq!(broker.alert_for(Some(&stranger)).await, AlertDescription::UnknownCA);
}

#[tokio::test]
async fn plain_text_and_garbage_are_closed_and_counted() {
    let broker = Broker::start(&Files::new()).await;
    for bytes in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0xff; 512]] {
        let mut stream = TcpStream::connect(broker.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP"));
    }
    until(|| broker.tls.stats().handshake_failures(HandshakeFailure::NotTls) == 3).await;
    broker.client(&ours().client("cart", 1)).await;
}

#[tokio::test]
async fn a_handshake_that_stalls_is_ended_at_its_deadline() {
    let files = Files::new();
    let short = Limits { handshake_timeout: Duration::from_millis(100), ..limits() };
    let broker = Broker::with(files.settings(), short).await;
    let mut stream = TcpStream::connect(broker.address).await.unwrap();
    stream.write_all(&[0x16, 3, 1, 0, 200]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
    assert_eq!(broker.tls.stats().handshake_failures(HandshakeFailure::TimedOut), 1);
}

#[tokio::test]
async fn a_peer_that_says_nothing_after_its_handshake_is_closed() {
    let files = Files::new();
    let short = Limits { handshake_timeout: Duration::from_millis(500), ..limits() };
    let broker = Broker::with(files.settings(), short).await;
    for protocol in [&b"h2"[..], b"http/1.1"] {
        let mut config = config(Some(&ours().client("cart", 1)), &TLS13);
        config.alpn_protocols = vec![protocol.to_vec()];
        let mut stream = broker.dial(config).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
        until(|| broker.tls.stats().open() == 0).await;
    }
    assert_eq!(broker.tls.stats().timed_out(), 2);
}

#[tokio::test]
async fn a_thousand_idle_handshakes_do_not_keep_a_good_client_out() {
    let files = Files::new();
    let few = Limits { handshakes: 128, ..limits() };
    let broker = Broker::with(files.settings(), few).await;
    // The oldest are let go of on this side too, for the sake of the process's descriptors; the broker ended them before.
    let mut idle = VecDeque::new();
    for at in 0..1000 {
        idle.push_back(TcpStream::connect(broker.address).await.unwrap());
        if idle.len() > 300 {
            idle.pop_front();
        }
        if at % 250 == 0 {
            broker.client(&ours().client("cart", 1)).await;
        }
    }
    broker.client(&ours().client("cart", 1)).await;
    let evicted = broker.tls.stats().handshake_failures(HandshakeFailure::Evicted);
    assert!(evicted >= 300, "{evicted} handshakes made room");
}

#[tokio::test]
async fn no_session_is_ever_resumed() {
    let files = Files::new();
    let settings = TlsSettings { minimum_version: TlsVersion::V1_2, ..files.settings() };
    let broker = Broker::with(settings, limits()).await;
    for version in [&TLS12, &TLS13] {
        let mut config = config(Some(&ours().client("cart", 1)), version);
        config.resumption = Resumption::in_memory_sessions(16);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        for _ in 0..3 {
            let stream = broker.dial(config.clone()).await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
            // A ticket would have come with the answer at the latest.
            let (mut sender, _connection) = http1_client(stream).await;
            let request = http::Request::get("/").body(http_body_util::Empty::new()).unwrap();
            assert!(sender.send_request(request).await.unwrap().status().is_success());
        }
    }
}

#[tokio::test]
async fn tls_1_2_is_refused_unless_chosen() {
    let broker = Broker::start(&Files::new()).await;
    let config = config(Some(&ours().client("cart", 1)), &TLS12);
    assert!(broker.dial(config).await.is_err());
    let stats = Arc::clone(broker.tls.stats());
    until(|| stats.handshake_failures(HandshakeFailure::Incompatible) == 1).await;
}

#[tokio::test]
async fn refuses_a_peer_that_speaks_neither_http_version() {
    let broker = Broker::start(&Files::new()).await;
    let mut config = config(Some(&ours().client("cart", 1)), &TLS13);
    config.alpn_protocols = vec![b"smtp".to_vec()];
    assert!(broker.dial(config).await.is_err());
    let stats = broker.tls.stats();
    until(|| stats.handshake_failures(HandshakeFailure::Incompatible) == 1).await;
}
