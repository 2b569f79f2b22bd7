//! `keyferry rotate`, `keyferry rotations` and `keyferry subscribers`.

use std::sync::Arc;

use keyferry_broker::clock::SystemClock;
use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_tests::broker::TestBroker;
use keyferry_tests::command::assert_documented;
use serde_json::{Value, json};

use crate::rotation_subscribers::{acknowledge, watch};

const SLOW: &str = "stores/local/secrets/slow";
const QUICK: &str = "stores/local/secrets/quick";

const ROTATIONS: &str = r#"
[rotations.slow]
targets = ["stores/local/secrets/slow"]
kind = "generate"

[rotations.quick]
targets = ["stores/local/secrets/quick"]
kind = "generate"
retire_after = "1s"
"#;

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[test]
fn the_commands_rotate_follow_show_cancel_and_retire_and_tell_who_runs_what() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let broker = runtime.block_on(TestBroker::with(ROTATIONS, Arc::new(SystemClock)));
    for secret in ["slow", "quick"] {
        runtime.block_on(broker.put(secret, b"old", &[]));
    }
    let operator = |arguments: &[&str]| broker.command(&broker.operator, arguments);
    let done = |arguments: &[&str]| {
        let (code, text) = operator(arguments);
        assert_eq!(code, 0, "{arguments:?}: {text}");
        text
    };

    assert_eq!(done(&["rotations", "list"]), "none\n");
    assert!(done(&["rotate", SLOW, "--dry-run"]).starts_with("a rotation that was not started  planned\n"));
    assert_eq!(done(&["rotations", "list"]), "none\n", "nothing was started");
    let text = done(&["rotate", SLOW, "--wait", "--why", "leaked"]);
    assert!(text.contains("  planned  rotations/") && text.contains("  0 of 0 subscribers run it"), "{text}");
    let listed = json_of(&done(&["rotations", "list", "--json"]));
    assert_documented("`rotate`, `rotations`", &listed);
    let name = listed["name"].as_str().unwrap();
    assert!(done(&["rotations", "list"]).contains(&format!("\n{name}  ")));
    assert_eq!(done(&["rotations", "list", "--secret", QUICK]), "none\n");
    let shown = done(&["rotations", "show", name]);
    for expected in ["  why        leaked\n", "/operator (operator)\n", "  1 -> 2\n", "  retires    "] {
        assert!(shown.contains(expected), "no {expected:?} in {shown}");
    }
    let (code, text) = operator(&["rotate", SLOW]);
    assert!(code == 6 && text.contains(&format!("is being rotated by {name}")), "{code} {text}");

    assert_eq!(done(&["subscribers"]), "none\n");
    let stream = runtime.block_on(async {
        let mut client = RotationServiceClient::new(broker.channel(&broker.operator).await);
        let stream = watch(&mut client, &[SLOW]).await;
        acknowledge(&mut client, &format!("{SLOW}/versions/1"), "").await;
        stream
    });
    let text = done(&["subscribers", "--secret", SLOW, "--behind", "--connected"]);
    assert!(
        text.starts_with("caller ") && text.contains("  gateway  ") && text.contains("  watch at test-node  "),
        "{text}"
    );
    assert!(text.contains("(current: 2)"), "{text}");
    let subscribers = json_of(&done(&["subscribers", "--json"]));
    assert_documented("`subscribers`", &subscribers);
    let runs = &subscribers["versions"][0];
    assert_eq!((&runs["secret"], &runs["version"]), (&json!(SLOW), &json!(format!("{SLOW}/versions/1"))));
    assert!(done(&["rotations", "show", name]).contains("; 0 subscribers run the new version, 1 do not\n"));
    drop(stream);

    let retired = json_of(&done(&["rotations", "retire", name, "--json"]));
    assert_eq!(retired["state"], "retired");
    let (code, text) = operator(&["rotations", "cancel", name]);
    assert!(code == 6 && text.contains(&format!("{name} has ended well")), "{code} {text}");

    let lines = done(&["rotate", QUICK, "--wait", "retired", "--json"]);
    let states: Vec<_> = lines.lines().map(|line| json_of(line)["state"].clone()).collect();
    assert_eq!((&states[0], states.last().unwrap()), (&json!("planned"), &json!("retired")), "{lines}");

    for denied in [["rotate", QUICK].as_slice(), &["rotations", "show", name], &["subscribers", "--secret", SLOW]] {
        let (code, text) = broker.command(&broker.client, denied);
        let tells = text.contains("the broker refused") || text == "none\n";
        assert!(
            tells && !text.contains("gateway") && ([3, 5].contains(&code) || denied[0] == "subscribers"),
            "{code} {text}"
        );
    }
}
