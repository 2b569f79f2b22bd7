//! A newcomer's path: the README from top to bottom, pasted into one shell.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use keyferry_tests::process::{Process, keyferry};
use tempfile::TempDir;

const README: &str = include_str!("../../README.md");

/// Blocks that are not pasted: the first one, which this test does itself, and a server that has a suite of its own.
const NOT_PASTED: [&str; 2] = ["make test ", "--bin sandbox"];

/// What the shell must have shown on the way.
const SHOWN: [&str; 10] = [
    "\"payload\": \"d29ybGQ=\"",
    "oidc/dev/dev-workload",
    "stores/local/secrets/hello/versions/2",
    "\"cursor\": ",
    "\"accessToken\": ",
    "SECRET_NOT_FOUND",
    "wrote .keyferry-dev/app.conf",
    "workloads-read-dev",
    "keyferry_build_info",
    "records",
];

/// Two things are put in: for `cargo run --release --` the binary that was built, and ports that are free.
#[test]
fn the_readme_works_from_top_to_bottom_as_printed() {
    let ground = TempDir::new().unwrap();
    symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools"), ground.path().join(".tools")).unwrap();
    fs::create_dir(ground.path().join("target")).unwrap();
    symlink(keyferry().parent().unwrap(), ground.path().join("target/release")).unwrap();
    let blocks: Vec<_> = README.split("```sh\n").skip(1).map(|text| text.split("```").next().unwrap()).collect();
    assert!(blocks[0].starts_with("cargo run --release -- dev "), "the README begins with something else");
    let (left_out, pasted): (Vec<_>, Vec<_>) =
        blocks.into_iter().partition(|block| NOT_PASTED.iter().any(|some| block.contains(some)));
    assert_eq!(left_out.len(), NOT_PASTED.len(), "{left_out:#?}");

    let mut dev = Command::new(keyferry());
    dev.arg("dev").args(["--listen", "127.0.0.1:0", "--web", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let broker = Process::start(dev.current_dir(ground.path()));
    let configured = fs::read_to_string(ground.path().join(".keyferry-dev/keyferry.toml")).unwrap();
    let web = configured.split("web = \"127.0.0.1").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let script = pasted
        .concat()
        .replace("cargo run --release --", keyferry().to_str().unwrap())
        .replace(":7443", &format!(":{}", broker.grpc().port()))
        .replace(":7444", web)
        .replace(":7445", &format!(":{}", broker.admin().port()));
    let output = Command::new("bash")
        .args(["-o", "errexit", "-o", "pipefail", "-o", "errtrace", "-c"])
        .arg(format!("exec 2>&1; trap 'echo \"FAILED: $BASH_COMMAND\"' ERR\n{script}"))
        .current_dir(ground.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    for shown in SHOWN {
        assert!(said.contains(shown), "nothing shows {shown}:\n{said}");
    }
}
