//! `keyferry status`: how the broker is, for whoever may know.

use keyferry_tests::broker::TestBroker;
use serde_json::{Value, json};

#[test]
fn the_command_tells_operators_how_the_broker_is_in_text_and_json() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let broker = runtime.block_on(TestBroker::start());
    let run = |who: &keyferry_tests::pki::Issued, more: &[&str]| {
        who.write(broker.path(), "caller");
        let output = std::process::Command::new(keyferry_tests::process::keyferry())
            .arg("status")
            .args(more)
            .env("KEYFERRY_SERVER", format!("https://127.0.0.1:{}", broker.broker.grpc_address().port()))
            .env("KEYFERRY_CA", broker.path().join("ca.pem"))
            .env("KEYFERRY_CERT", broker.path().join("caller.pem"))
            .env("KEYFERRY_KEY", broker.path().join("caller.key"))
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        (output.status.code().unwrap(), text)
    };
    let (code, text) = run(&broker.operator, &[]);
    assert!(code == 0 && text.starts_with("keyferry 0.1.0, node "), "{code} {text}");
    for expected in ["stores/local  healthy, local", "\naudit", "\npolicy", "\ntls", "certificate until "] {
        assert!(text.contains(expected), "no {expected:?} in {text}");
    }
    let (code, text) = run(&broker.operator, &["--json"]);
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &status["stores"][0]["health"], &status["draining"]), (0, &json!("healthy"), &json!(false)));
    assert_eq!((&status["audit"]["health"], &status["cache"]["max_bytes"]), (&json!("healthy"), &json!(256 << 20)));

    let (code, text) = run(&broker.client, &[]);
    assert!(code == 1 && text.contains("the broker refused") && text.contains("GetStatus"), "{code} {text}");
}
