//! `keyferry watch`: changes as they happen, and on from where it was.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout};

use keyferry_tests::broker::TestBroker;
use keyferry_tests::command::{Caller, assert_documented};
use serde_json::{Value, json};

struct Watching {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Watching {
    fn start(caller: &Caller, arguments: &[&str]) -> Self {
        let mut child = caller.start(&[&["watch"], arguments].concat());
        Self { lines: BufReader::new(child.stdout.take().unwrap()), child }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.lines.read_line(&mut line).unwrap() > 0, "the watch has ended: {:?}", self.child.wait());
        line
    }

    fn json(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_watch_tells_what_is_then_what_happens_and_goes_on_after_its_cursor() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let broker = runtime.block_on(TestBroker::start());
    let put = |secret: &str| runtime.block_on(broker.put(secret, b"x", &[]));
    let caller = Caller::of(&broker, "operator", &broker.operator);
    put("db");
    let mut watching = Watching::start(&caller, &["local/db", "--json"]);
    let snapshot = watching.json();
    assert_eq!(
        (&snapshot["kind"], &snapshot["secrets"][0]["version"]),
        (&json!("snapshot"), &json!("stores/local/secrets/db/versions/1"))
    );
    assert_documented("`watch`, first", &snapshot);
    put("other");
    put("db");
    let event = watching.json();
    assert_documented("`watch`, then", &event);
    assert_eq!(
        (&event["kind"], &event["secret"], &event["version"]),
        (&json!("version-current"), &json!("stores/local/secrets/db"), &json!("stores/local/secrets/db/versions/2"))
    );
    drop(watching);
    put("db");
    let mut resumed = Watching::start(&caller, &["local/db", "--json", "--cursor", event["cursor"].as_str().unwrap()]);
    assert_eq!(resumed.json()["version"], "stores/local/secrets/db/versions/3");

    let mut all = Watching::start(&caller, &["local/*"]);
    let told = [all.line(), all.line()].concat();
    assert!(told.contains("stores/local/secrets/db  is at version 3, enabled\n"), "{told}");
    put("other");
    let told = all.line();
    assert!(told.contains("  stores/local/secrets/other  version-current  version 2"), "{told}");
}
