//! The status page in a real browser: live, readable on a phone, and without a secret.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use keyferry_broker::clock::SystemClock;
use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::{RotateSecretRequest, RotationFilter, WatchRotationsRequest};
use keyferry_tests::broker::{TestBroker, get};

const CANARY: &str = "canary-in-the-status-page";
const ROTATION: &str = r#"
[rotations.db-password]
targets = ["stores/local/secrets/db-password"]
kind = "generate"
retire_after = "1h"
"#;

/// tests/judges/status_page.mjs on a page.
struct Browser {
    judge: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Browser {
    fn open(url: &str) -> (Self, String) {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut judge = Command::new("node")
            .arg(tests.join("judges/status_page.mjs"))
            .arg(tests.join("../.tools/npm/browser/node_modules"))
            .arg(url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the browser needs tools/install browser chromium");
        let asks = judge.stdin.take().unwrap();
        let mut browser = Self { answers: BufReader::new(judge.stdout.take().unwrap()), asks, judge };
        let title = browser.answer();
        (browser, title)
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.asks, "{line}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        assert!(self.answers.read_line(&mut line).unwrap() > 0, "the browser ended: see its error above");
        line.trim_end().to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.judge.kill();
        let _ = self.judge.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shows_on_a_phone_what_happens_as_it_happens() {
    let broker = TestBroker::with(ROTATION, std::sync::Arc::new(SystemClock)).await;
    broker.put("db-password", CANARY.as_bytes(), &[]).await;
    get(&mut broker.secrets(&broker.client).await, "db-password").await.unwrap();
    let url = format!("http://{}/", broker.broker.admin_address().unwrap());
    let (mut browser, title) = tokio::task::spawn_blocking(move || Browser::open(&url)).await.unwrap();
    assert!(title.starts_with("Keyferry"), "{title}");
    for text in ["ready", "stores/local", "None has run yet.", "Nobody watches under a name.", "audit log", "works"] {
        assert_eq!(browser.ask(&format!("wait {text}")), "shown", "{text}");
    }

    let mut rotations = RotationServiceClient::new(broker.channel(&broker.operator).await);
    let filter = RotationFilter { prefixes: vec!["stores/local/".to_owned()], ..RotationFilter::default() };
    let watch = WatchRotationsRequest {
        filter: Some(filter),
        subscriber: "billing-7".to_owned(),
        ..WatchRotationsRequest::default()
    };
    let stream = rotations.watch_rotations(watch).await.unwrap();
    assert_eq!(browser.ask("wait billing-7"), "shown");
    let name = "stores/local/secrets/db-password".to_owned();
    rotations
        .rotate_secret(RotateSecretRequest { name: name.clone(), ..RotateSecretRequest::default() })
        .await
        .unwrap();
    assert_eq!(browser.ask(&format!("wait {name}: 1 → 2")), "shown");
    assert_eq!(browser.ask("wait retiring"), "shown");

    let widths = browser.ask("widths");
    let (page, window) = widths.split_once(' ').unwrap();
    assert!(page.parse::<u32>().unwrap() <= window.parse().unwrap(), "it is wider than a phone: {widths}");
    assert_eq!(browser.ask("errors"), "");
    if let Ok(picture) = std::env::var("KF_TEST_PICTURE") {
        browser.ask(&format!("picture {picture}"));
    }

    drop((stream, rotations));
    broker.broker.stop().await;
    let alert = browser.ask("alert");
    assert!(alert.starts_with("The broker has not answered for"), "{alert}");
    assert_eq!(browser.ask("wait billing-7"), "shown", "what it said last stays");
}

#[tokio::test]
async fn holds_no_secret() {
    let broker = TestBroker::start().await;
    broker.put("db", CANARY.as_bytes(), &[]).await;
    get(&mut broker.secrets(&broker.client).await, "db").await.unwrap();
    let page = crate::admin::fetch(&broker, "/").await;
    assert!(page.contains("Keyferry") && page.contains("stores/local"), "{page}");
    assert!(!page.contains(CANARY) && !page.contains(&CANARY[7..]), "{page}");
}
