use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::{Reload, Tls, TlsSettings};
use super::world::{Broker, Files, Identity, limits, other, ours, until};
use crate::clock::SystemClock;

fn der(identity: &Identity) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()
}

fn kept(reload: Reload) -> String {
    match reload {
        Reload::Kept(failure) => failure.message,
        Reload::Unchanged | Reload::Swapped { .. } => panic!("not kept but {reload:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_swapped_under_load_fails_no_call() {
    let files = Files::new();
    let broker = Arc::new(Broker::start(&files).await);
    let cart = ours().client("cart", 1);
    let done = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicU64::new(0));
    let mut load = JoinSet::new();
    for reconnects in [false, false, true, true] {
        let (broker, cart) = (broker.clone(), cart.clone());
        let (done, calls) = (done.clone(), calls.clone());
        load.spawn(async move {
            let mut client = broker.client(&cart).await;
            while !done.load(Ordering::Relaxed) {
                if reconnects {
                    client = broker.client(&cart).await;
                }
                assert_eq!(client.call("/").await.unwrap(), "/cart");
                calls.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for generation in 2..5 {
        let next = ours().issue(|_| {});
        files.put_server(&next);
        assert_eq!(broker.tls.reload().await, Reload::Swapped { generation });
        assert_eq!(broker.client(&cart).await.server, der(&next));
        let so_far = calls.load(Ordering::Relaxed);
        until(|| calls.load(Ordering::Relaxed) > so_far + 50).await;
    }
    done.store(true, Ordering::Relaxed);
    while let Some(worker) = load.join_next().await {
        worker.unwrap();
    }
}

#[tokio::test]
async fn a_key_without_its_certificate_is_reported_once_and_not_used() {
    let files = Files::new();
    let broker = Broker::start(&files).await;
    let cart = ours().client("cart", 1);
    let before = broker.client(&cart).await.server;
    let good_key = std::fs::read_to_string(files.path("server.key")).unwrap();

    files.put("server.key", &ours().issue(|_| {}).key);
    let message = kept(broker.tls.reload().await);
    assert!(message.contains("server.key") && message.contains("server.pem"), "{message}");
    assert_eq!(broker.tls.reload().await, Reload::Unchanged);
    assert_eq!(broker.tls.status().failure.unwrap().message, message);
    assert_eq!(broker.tls.stats().reload_failures(), 1);
    assert_eq!(broker.client(&cart).await.server, before);

    files.put("server.key", &good_key);
    assert_eq!(broker.tls.reload().await, Reload::Unchanged);
    assert_eq!(broker.tls.status().failure, None);
    assert_eq!(broker.tls.generation(), 1);
}

#[tokio::test]
async fn an_expired_certificate_does_not_replace_a_good_one() {
    let files = Files::new();
    let broker = Broker::start(&files).await;
    files.put_server(&ours().issue(|params| params.not_after = rcgen::date_time_ymd(2026, 5, 1)));
    assert!(kept(broker.tls.reload().await).contains("expired"));
    assert_eq!(broker.tls.generation(), 1);
}

#[tokio::test(start_paused = true)]
async fn files_found_half_replaced_are_left_alone_until_whole() {
    let files = Files::new();
    let tls = Tls::load(&files.settings(), Arc::new(SystemClock)).unwrap();
    let next = ours().issue(|_| {});
    files.put("server.key", &next.key);
    let finish = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        files.put("server.pem", &next.certificate);
    };
    let (reload, ()) = tokio::join!(tls.reload(), finish);
    assert_eq!(reload, Reload::Swapped { generation: 2 });
    assert_eq!(tls.stats().reload_failures(), 0);
}

#[tokio::test]
async fn a_symlink_swapped_beneath_the_files_is_seen() {
    let files = Files::new();
    let generation = |name: &str, server: &Identity| {
        std::fs::create_dir(files.path(name)).unwrap();
        files.put(&format!("{name}/server.pem"), &server.certificate);
        files.put(&format!("{name}/server.key"), &server.key);
    };
    generation("..one", &ours().issue(|_| {}));
    symlink("..one", files.path("..data")).unwrap();
    for name in ["server.pem", "server.key"] {
        std::fs::remove_file(files.path(name)).unwrap();
        symlink(PathBuf::from("..data").join(name), files.path(name)).unwrap();
    }
    let broker = Broker::start(&files).await;
    let stop = CancellationToken::new();
    let watching = tokio::spawn(broker.tls.clone().watch(stop.clone()));

    let next = ours().issue(|_| {});
    generation("..two", &next);
    symlink("..two", files.path("..new")).unwrap();
    std::fs::rename(files.path("..new"), files.path("..data")).unwrap();
    until(|| broker.tls.generation() == 2).await;
    assert_eq!(broker.client(&ours().client("cart", 1)).await.server, der(&next));
    stop.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn removing_a_ca_is_in_force_on_open_connections() {
    let files = Files::new();
    files.put("ca.pem", &(ours().pem() + &other().pem()));
    let broker = Broker::start(&files).await;
    let mut stays = broker.client(&ours().client("cart", 1)).await;
    let mut goes = broker.client(&other().client("cart", 1)).await;

    files.put("ca.pem", &ours().pem());
    assert_eq!(broker.tls.reload().await, Reload::Swapped { generation: 2 });
    assert_eq!(stays.call("/").await.unwrap(), "/cart");
    assert_eq!(goes.call("/").await.unwrap(), "Untrusted");
    // Told so, the refused client is let go; it may come back with a better certificate.
    goes.connection.await.unwrap();
    assert_eq!(broker.tls.stats().retired(), 1);
    assert_eq!(stays.call("/").await.unwrap(), "/cart");
}

#[tokio::test]
async fn a_revocation_is_in_force_on_open_connections() {
    let files = Files::new();
    files.put("crl.pem", &ours().revoking(&[]));
    let settings = TlsSettings { client_crls: vec![files.path("crl.pem")], ..files.settings() };
    let broker = Broker::with(settings, limits()).await;
    let mut stays = broker.client(&ours().client("cart", 1)).await;
    let mut goes = broker.client(&ours().client("shop", 2)).await;

    files.put("crl.pem", &ours().revoking(&[2]));
    assert_eq!(broker.tls.reload().await, Reload::Swapped { generation: 2 });
    assert_eq!(goes.call("/").await.unwrap(), "Revoked");
    assert_eq!(stays.call("/").await.unwrap(), "/cart");

    // The list runs out in July without a newer one.
    broker.clock.advance(Duration::from_hours(31 * 24));
    assert_eq!(stays.call("/").await.unwrap(), "UnknownRevocation");
}

#[tokio::test]
async fn a_certificate_that_expires_is_refused_on_its_open_connection() {
    let broker = Broker::start(&Files::new()).await;
    let june = ours().issue(|params| params.not_after = rcgen::date_time_ymd(2026, 7, 1));
    let mut client = broker.client(&june).await;
    broker.clock.advance(Duration::from_hours(30 * 24));
    assert_eq!(client.call("/").await.unwrap(), "nobody");
    broker.clock.advance(Duration::from_secs(1));
    assert_eq!(client.call("/").await.unwrap(), "Expired");
    client.connection.await.unwrap();
}

#[test]
fn each_bad_file_is_named_with_what_to_do() {
    let list = |files: &Files| TlsSettings { client_crls: vec![files.path("crl.pem")], ..files.settings() };
    let leaf = ours().client("cart", 1).certificate;
    type Break<'a> = &'a dyn Fn(&Files) -> TlsSettings;
    let cases: &[(&str, &str, Break<'_>)] = &[
        ("server.pem", "check that it exists", &|files| {
            std::fs::remove_file(files.path("server.pem")).unwrap();
            files.settings()
        }),
        ("server.pem", "no PEM block of type CERTIFICATE", &|files| {
            files.put("server.pem", "");
            files.settings()
        }),
        ("server.pem", "broken PEM", &|files| {
            files.put("server.pem", &ours().pem()[..200]);
            files.settings()
        }),
        ("server.key", "no PEM block of type PRIVATE KEY", &|files| {
            files.put("server.key", &ours().pem());
            files.settings()
        }),
        ("server.key", "is encrypted", &|files| {
            files.put(
                "server.key",
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            );
            files.settings()
        }),
        ("server.key", "does not belong", &|files| {
            files.put("server.key", &ours().issue(|_| {}).key);
            files.settings()
        }),
        ("ca.pem", "is not a CA certificate", &|files| {
            files.put("ca.pem", &leaf);
            files.settings()
        }),
        ("", "no client CA is configured", &|files| TlsSettings { client_ca: vec![], ..files.settings() }),
        ("crl.pem", "no PEM block of type X509 CRL", &|files| {
            files.put("crl.pem", "");
            list(files)
        }),
        ("crl.pem", "is not a revocation list", &|files| {
            files.put("crl.pem", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
            list(files)
        }),
    ];
    for (file, advice, spoil) in cases {
        let files = Files::new();
        let settings = spoil(&files);
        let error = Tls::load(&settings, Arc::new(SystemClock)).unwrap_err().full_text();
        assert!(error.contains(file) && error.contains(advice), "{advice}: {error}");
        assert!(files.directory().exists());
    }
}

#[test]
fn no_error_quotes_a_private_key() {
    let files = Files::new();
    let key = std::fs::read_to_string(files.path("server.key")).unwrap();
    let body = key.lines().nth(1).unwrap();
    for spoiled in [
        key.replace("-----END", "-----ENDE"),
        key.replace(body, &format!("-----BEGIN {body}")),
        key.replace(body, &format!("{body}*")),
        format!("-----BEGIN {body}\n{key}"),
    ] {
        files.put("server.key", &spoiled);
        if let Err(error) = Tls::load(&files.settings(), Arc::new(SystemClock)) {
            let text = format!("{} {error:?}", error.full_text());
            assert!(!text.contains(body), "{text}");
        }
    }
}
