//! Connect's own clients, as Connect, as gRPC-Web and as gRPC: whatever they speak, they are answered the same.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use keyferry_tests::broker::TestBroker;
use serde_json::{Map, Value, json};

use crate::audit::records;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

#[tokio::test]
async fn are_answered_the_same_over_each_transport() {
    let broker = TestBroker::start().await;
    broker.put("db", b"a payload", &[("team", "cart")]).await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("ca.pem"), broker.ca.pem()).unwrap();
    broker.client.write(directory.path(), "client");
    broker.operator.write(directory.path(), "operator");
    let url = format!("https://127.0.0.1:{}", broker.broker.grpc_address().port());
    let told = tokio::task::spawn_blocking(move || {
        generate(&directory.path().join("stubs"));
        said(Command::new("node").arg(Path::new(ROOT).join("tests/clients/connect.mjs")).arg(url).arg(directory.path()))
    });
    let told: Map<String, Value> = serde_json::from_str(&told.await.unwrap()).unwrap();

    assert_eq!(told.len(), 8);
    for (transport, mut told) in told {
        let watched = told.as_object_mut().unwrap().remove("watched");
        assert_eq!(watched.is_some(), transport.starts_with("gRPC"), "{transport}");
        assert!(watched.is_none_or(|secret| secret == "stores/local/secrets/db"), "{transport}");
        let expected = json!({
            "payload": "a payload",
            "crc": crc32c::crc32c(b"a payload").to_string(),
            "loaded": true,
            "listed": ["stores/local/secrets/db cart"],
            "explained": 2,
            "missing": "NotFound with google.rpc.ErrorInfo",
            "denied": "PermissionDenied with google.rpc.ErrorInfo",
        });
        assert_eq!(told, expected, "{transport}");
    }
    let records = records(&broker.path().join("audit"));
    for protocol in ["connect", "grpc-web", "grpc"] {
        assert!(records.iter().any(|record| record["protocol"] == protocol), "{protocol}");
    }
}

/// Stubs, beside the packages that they import.
fn generate(stubs: &Path) {
    let packages = Path::new(ROOT).join(".tools/npm/grpc-typescript/node_modules").canonicalize();
    let packages = packages.expect("the clients are there: tools/install grpc-typescript buf");
    std::fs::create_dir(stubs).unwrap();
    symlink(&packages, stubs.join("node_modules")).unwrap();
    std::fs::write(stubs.join("package.json"), r#"{"type": "module"}"#).unwrap();
    let plugin = json!({
        "local": packages.join(".bin/protoc-gen-es"), "out": stubs, "opt": ["target=js", "import_extension=js"],
    });
    let template = json!({"version": "v2", "plugins": [plugin]}).to_string();
    said(
        Command::new(Path::new(ROOT).join(".tools/bin/buf"))
            .args(["generate", "--template", &template])
            .current_dir(ROOT),
    );
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let [said, complained] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{complained}{said}");
    said
}
