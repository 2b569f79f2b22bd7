//! SPIFFE trust domains: a CA speaks for those that the operator gave it and no others.

use std::collections::BTreeMap;

use super::super::{CertificateRefusal, Reload, TlsSettings};
use super::world::{Broker, Ca, Files, Identity, limits, other, ours};
use crate::error::{Failure, Reason};

/// `a.example` is spoken for by `ours` and `b.example` by `other`; both may vouch for clients.
fn two_domains(files: &Files) -> TlsSettings {
    files.put("a.pem", &ours().pem());
    files.put("b.pem", &other().pem());
    TlsSettings {
        client_ca: vec![files.path("ca.pem"), files.path("b.pem")],
        trust_domains: BTreeMap::from([
            ("a.example".to_owned(), files.path("a.pem")),
            ("b.example".to_owned(), files.path("b.pem")),
        ]),
        ..files.settings()
    }
}

fn of_domain(ca: &Ca, domain: &str) -> Identity {
    ca.issue(|params| {
        let uri = format!("spiffe://{domain}/cart");
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.as_str().try_into().unwrap())];
    })
}

#[tokio::test]
async fn an_id_of_an_unlisted_domain_is_refused_and_told_where_it_would_be_listed() {
    let files = Files::new();
    let broker = Broker::with(two_domains(&files), limits()).await;
    let mut client = broker.connected(&of_domain(ours(), "c.example")).await;
    assert_eq!(client.call("/").await.unwrap(), "UnknownTrustDomain");

    let failure = Failure::from(CertificateRefusal::UnknownTrustDomain);
    assert_eq!(failure.reason(), Reason::CertificateRejected);
    assert!(failure.message().contains("[tls] trust_domains"), "{failure}");
}

#[tokio::test]
async fn a_ca_does_not_speak_for_the_domain_of_another() {
    let files = Files::new();
    let broker = Broker::with(two_domains(&files), limits()).await;
    for (ca, domain, verdict) in [
        (ours(), "a.example", "/cart"),
        (other(), "b.example", "/cart"),
        (other(), "a.example", "ForeignTrustDomain"),
        (ours(), "b.example", "ForeignTrustDomain"),
    ] {
        let mut client = broker.connected(&of_domain(ca, domain)).await;
        assert_eq!(client.call("/").await.unwrap(), verdict, "{domain}");
    }
    assert_eq!(Failure::from(CertificateRefusal::ForeignTrustDomain).reason(), Reason::CertificateRejected);
}

#[tokio::test]
async fn a_domain_that_moves_to_another_ca_takes_its_open_connections_along() {
    let files = Files::new();
    let broker = Broker::with(two_domains(&files), limits()).await;
    let mut client = broker.connected(&of_domain(ours(), "a.example")).await;
    assert_eq!(client.call("/").await.unwrap(), "/cart");

    files.put("a.pem", &other().pem());
    assert_eq!(broker.tls.reload().await, Reload::Swapped { generation: 2 });
    assert_eq!(client.call("/").await.unwrap(), "ForeignTrustDomain");
    client.connection.await.unwrap();
    let mut moved = broker.connected(&of_domain(other(), "a.example")).await;
    assert_eq!(moved.call("/").await.unwrap(), "/cart");
}
