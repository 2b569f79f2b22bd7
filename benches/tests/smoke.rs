//! `make bench`, small: every phase measures and everything is written. What it measures is not judged.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs;
use std::path::Path;
use std::process::Command;

use keyferry_tests::process::keyferry;
use serde_json::Value;
use tempfile::TempDir;

const BAO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/bin/bao");

#[test]
fn the_suite_measures_every_server_in_every_phase_and_writes_its_page() {
    let directory = TempDir::new().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_suite"))
        .args(["--small", "--report", "--rounds", "1", "--seconds", "0.3", "--page"])
        .arg(directory.path())
        .arg(keyferry())
        .arg(Path::new(BAO))
        .output()
        .unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");

    let beside = directory.path().join("benchmarks");
    let raw: Value = serde_json::from_slice(&fs::read(beside.join("raw.json")).unwrap()).unwrap();
    let measured: Vec<_> = raw["measurements"].as_array().unwrap().iter().map(checked).collect();
    let all =
        |phase: &str| measured.iter().filter(|entry| entry.1.contains(phase)).map(|entry| entry.0).collect::<Vec<_>>();
    assert_eq!(all("As many"), ["echo", "broker", "synced", "openbao", "openbao-h2"]);
    assert_eq!(all("of what the echo"), ["echo", "broker", "synced"]);
    assert_eq!(all("of what OpenBao"), ["broker", "openbao", "openbao-h2"]);
    assert_eq!(raw["bars"].as_array().unwrap().len(), 7, "{raw:#}");
    for resident in raw["memory"]["resident_kib_after_calls"].as_array().unwrap() {
        assert!(resident.as_u64().unwrap() > 1024, "{raw:#}");
    }

    let page = fs::read_to_string(directory.path().join("benchmarks.md")).unwrap();
    for entry in raw["bars"].as_array().unwrap() {
        assert!(page.contains(entry["what"].as_str().unwrap()), "{page}");
    }
    let plots: Vec<_> = page.split("](benchmarks/").skip(1).map(|rest| rest.split(')').next().unwrap()).collect();
    assert_eq!(plots, ["raw.json", "throughput.svg", "delays-echo.svg", "delays-openbao.svg"]);
    for plot in plots.into_iter().filter(|plot| plot.ends_with("svg")) {
        let svg = fs::read_to_string(beside.join(plot)).unwrap();
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}

/// Its server and phase; each of its calls has a delay, and each delay is one that can be.
fn checked(entry: &Value) -> (&str, &str) {
    let calls: u64 = entry["rounds"].as_array().unwrap().iter().map(|round| round["calls"].as_u64().unwrap()).sum();
    let delays: Vec<_> =
        entry["delays_ns"].as_array().unwrap().iter().map(|pair| [0, 1].map(|at| pair[at].as_u64().unwrap())).collect();
    assert!(calls > 0, "{entry:#}");
    assert_eq!(delays.iter().map(|[_, count]| count).sum::<u64>(), calls, "{entry:#}");
    assert!(delays.iter().all(|&[longest, _]| (1_000..60_000_000_000).contains(&longest)), "{entry:#}");
    (entry["server"].as_str().unwrap(), entry["phase"].as_str().unwrap())
}
