//! `keyferry status`: how the broker is, for whoever may know.

use keyferry_tests::broker::TestBroker;
use serde_json::{Value, json};

#[test]
fn the_command_tells_operators_how_the_broker_is_in_text_and_json() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let broker = runtime.block_on(TestBroker::start());
    let (code, text) = broker.command(&broker.operator, &["status"]);
    assert!(code == 0 && text.starts_with("keyferry 0.1.0, node "), "{code} {text}");
    for expected in ["stores/local  healthy, local", "\naudit", "\npolicy", "\ntls", "certificate until "] {
        assert!(text.contains(expected), "no {expected:?} in {text}");
    }
    let (code, text) = broker.command(&broker.operator, &["status", "--json"]);
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &status["stores"][0]["health"], &status["draining"]), (0, &json!("healthy"), &json!(false)));
    assert_eq!((&status["audit"]["health"], &status["cache"]["max_bytes"]), (&json!("healthy"), &json!(256 << 20)));

    let (code, text) = broker.command(&broker.client, &["status"]);
    assert!(code == 3 && text.contains("the broker refused") && text.contains("GetStatus"), "{code} {text}");
}
