//! The admin port where others can reach it: probes ask without saying who they are, everybody else is decided on and
//! recorded.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use keyferry_broker::clock::SystemClock;
use keyferry_tests::broker::{TestBroker, prepare};
use keyferry_tests::pki::{Ca, Issued};
use tempfile::TempDir;

async fn start() -> TestBroker {
    let directory = TempDir::new().unwrap();
    let ca = Ca::new("test CA");
    prepare(directory.path(), &ca, "");
    let path = directory.path().join("keyferry.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("admin = \"127.0.0.1:0\"", "admin = \"0.0.0.0:0\"\nadmin_tls = true", 1)).unwrap();
    TestBroker::start_in(directory, ca, Arc::new(SystemClock)).await
}

/// The HTTP status and the body, as curl has them.
async fn ask(broker: &TestBroker, who: Option<&Issued>, path: &str) -> (String, String) {
    let port = broker.broker.admin_address().unwrap().port();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}", "--cacert"])
        .arg(broker.path().join("ca.pem"))
        .args([
            "--resolve",
            &format!("keyferry.test:{port}:127.0.0.1"),
            &format!("https://keyferry.test:{port}{path}"),
        ]);
    if let Some(who) = who {
        let directory = tempfile::tempdir_in(broker.path()).unwrap().keep();
        who.write(&directory, "who");
        curl.arg("--cert").arg(directory.join("who.pem")).arg("--key").arg(directory.join("who.key"));
    }
    let output = tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (format!("{status}{}", String::from_utf8_lossy(&output.stderr)), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_needs_no_certificate_and_learns_nothing_else() {
    let broker = start().await;
    assert_eq!(ask(&broker, None, "/healthz").await, ("200".to_owned(), "ok\n".to_owned()));
    assert_eq!(ask(&broker, None, "/readyz").await, ("200".to_owned(), "ready\n".to_owned()));
    for path in ["/", "/metrics", "/status.js", "/healthz/", "//healthz", "/nothing", "/?/healthz"] {
        let (status, body) = ask(&broker, None, path).await;
        assert!(status == "401" && body.starts_with("CREDENTIAL_MISSING"), "{path}: {status} {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_says_who_sees_the_rest_and_it_is_on_record() {
    let broker = start().await;
    let (status, body) = ask(&broker, Some(&broker.client), "/metrics").await;
    assert!(status == "403" && body.starts_with("ACCESS_DENIED"), "{status} {body}");
    let (status, page) = ask(&broker, Some(&broker.operator), "/").await;
    assert!(status == "200" && page.contains("<title>Keyferry"), "{status} {page}");
    let (status, metrics) = ask(&broker, Some(&broker.operator), "/metrics").await;
    assert!(status == "200" && metrics.contains("keyferry_connections_open{listener=\"admin\"}"), "{status} {metrics}");
    assert_eq!(ask(&broker, Some(&broker.operator), "/nothing").await.0, "404");

    let stranger = Ca::new("another CA").client("operator");
    let (status, body) = ask(&broker, Some(&stranger), "/").await;
    assert!(
        status.starts_with("000") && body.is_empty(),
        "no handshake with another CA's certificate: {status} {body}"
    );

    let audit = broker.path().join("audit");
    broker.broker.stop().await;
    let asked: Vec<_> = crate::audit::records(Path::new(&audit))
        .into_iter()
        .filter(|record| record["method"] == "admin")
        .map(|record| (record["decision"].as_str().unwrap().to_owned(), record["outcome"].as_str().unwrap().to_owned()))
        .collect();
    let of = |decision: &str, outcome: &str| (decision.to_owned(), outcome.to_owned());
    assert_eq!(asked, [of("deny", "ACCESS_DENIED"), of("allow", "OK"), of("allow", "OK"), of("allow", "OK")]);
}
