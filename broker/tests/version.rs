//! The binary is there and says what it is. Other suites rely on this one to have it built.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::process::Command;

#[test]
fn tells_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_keyferry")).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("keyferry {}\n", env!("CARGO_PKG_VERSION")));
}
