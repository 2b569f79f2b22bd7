//! How many instructions the parts of a call take, counted by valgrind: the same on a busy machine as on a calm one.
//!
//! `instructions [--write] [NAME…]`: fails where a part takes 5 % more than `benches/instructions.txt` says, or less, so
//! that what was won cannot be lost again unseen; `--write` replaces those numbers. CI does not run it: it builds no
//! release, and the instructions of a build for tests say nothing about one.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's output is for its reader")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::process::{Command, ExitCode};

use keyferry_benches::Outcome;
use keyferry_benches::parts::{
    Arrived, Changed, answer, at_once, audit_log, circumstances, policy_text, record, resource, secrets,
};
use keyferry_broker::admission::{Action, Policies};
use keyferry_broker::identity::Certificate;
use keyferry_broker::names::VersionId;
use keyferry_broker::rpc;
use keyferry_broker::secrets::Demand;
use keyferry_tests::pki::Ca;
use prost::Message as _;
use tempfile::TempDir;

// As the broker has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.txt");
const TOLERANCE: f64 = 0.05;
/// Enough for what is rare, such as a table that grows, to show as its share.
const TIMES: u32 = 500;
const BEFOREHAND: u32 = 100;

const PARTS: [(&str, fn()); 11] = [
    ("method look-up", method_look_up),
    ("certificate", certificate),
    ("token verification", token_verification),
    ("cached token", cached_token),
    ("decision among 100 policies", decision),
    ("cached decision", cached_decision),
    ("admission of a warm caller", admission),
    ("cached read", cached_read),
    ("audit append, the caller's side", audit_append),
    ("encode", encode),
    ("fan-out, each watcher", fan_out),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match *arguments {
        ["--run", name] => run(name).map(|()| true),
        ["--write"] => count(&[]).and_then(|counted| write(&counted)).map(|()| true),
        ref names => count(names).and_then(|counted| compare(&counted)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cannot count: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(name: &str) -> Outcome<()> {
    let (_, part) = PARTS.into_iter().find(|&(known, _)| known == name).ok_or("no such part")?;
    part();
    Ok(())
}

/// Valgrind counts while `counted` runs, and nothing of what prepares it.
#[inline(never)]
fn counted(times: u32, part: &mut dyn FnMut()) {
    for _ in 0..times {
        part();
    }
}

fn warm(mut part: impl FnMut()) {
    for _ in 0..BEFOREHAND {
        part();
    }
    counted(TIMES, &mut part);
}

fn count(names: &[&str]) -> Outcome<BTreeMap<&'static str, u64>> {
    let picked = PARTS.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|part| name.contains(part)));
    picked.map(|&(name, _)| Ok((name, count_one(name)?))).collect()
}

fn count_one(name: &str) -> Outcome<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*instructions::counted*"])
        .arg(std::env::current_exe()?)
        .args(["--run", name])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let all: Option<u64> = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    match all {
        Some(all) if output.status.success() && all > 0 => Ok(all / u64::from(TIMES)),
        _ => Err(format!("{name}: {said}").into()),
    }
}

fn write(counted: &BTreeMap<&str, u64>) -> Outcome<()> {
    let mut text = String::from(
        "# Instructions of each part, on x86-64 in the release profile; written by make bench-instructions ARGS=--write\n",
    );
    for (name, count) in counted {
        writeln!(text, "{name}: {count}")?;
    }
    Ok(fs::write(BASELINE, text)?)
}

/// Tells whether all are as they were.
fn compare(counted: &BTreeMap<&str, u64>) -> Outcome<bool> {
    let text = fs::read_to_string(BASELINE)?;
    let known: BTreeMap<_, f64> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(": ").and_then(|(name, count)| Some((name, count.parse().ok()?))))
        .collect::<Option<_>>()
        .ok_or("instructions.txt is broken; write it anew with --write")?;
    let mut is_same = true;
    for (name, &count) in counted {
        let before = known.get(name).copied().ok_or_else(|| format!("{name} is new; write it down with --write"))?;
        let change = count as f64 / before - 1.0;
        let verdict = if change.abs() <= TOLERANCE { "" } else { "  CHANGED" };
        is_same &= verdict.is_empty();
        println!("{name:<34} {count:>9} {:>+7.1} %{verdict}", 100.0 * change);
    }
    Ok(is_same)
}

fn method_look_up() {
    let path = rpc::METHODS[rpc::METHODS.len() - 1].path;
    warm(|| assert!(black_box(rpc::find(black_box(path))).is_some()));
}

fn certificate() {
    let der = Ca::new("bench CA").client("orders").der;
    warm(|| drop(black_box(Certificate::parse(black_box(&der)).unwrap())));
}

fn token_verification() {
    let arrived = Arrived::new();
    let tokens: Vec<_> = (0..BEFOREHAND + TIMES).map(|number| arrived.token(&number.to_string())).collect();
    let mut next = tokens.iter();
    warm(|| drop(at_once(arrived.authenticator.tokens().verify(next.next().unwrap())).unwrap()));
}

fn cached_token() {
    let arrived = Arrived::new();
    warm(|| drop(at_once(arrived.authenticator.tokens().verify(black_box(&arrived.bearer))).unwrap()));
}

fn decision() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("bench.cedar"), policy_text(100)).unwrap();
    let policies = Policies::load(directory.path()).unwrap();
    let arrived = Arrived::new();
    let (caller, resource) = (arrived.caller(), resource());
    warm(|| assert!(policies.decide(&caller, Action::GetSecret, &resource, circumstances()).allowed));
}

fn cached_decision() {
    let arrived = Arrived::new();
    let (caller, resource, circumstances) = (arrived.caller(), resource(), circumstances());
    warm(|| assert!(arrived.gate.allows(&caller, Action::GetSecret, &resource, circumstances)));
}

fn admission() {
    let arrived = Arrived::new();
    let resource = resource();
    warm(|| drop(arrived.admit(black_box(&resource).clone())));
}

fn cached_read() {
    let arrived = Arrived::new();
    let permit = arrived.admit(resource());
    let secrets = secrets(64 << 20);
    let read = || secrets.get(black_box(&permit), &VersionId::Latest, Demand::default());
    arrived.runtime.block_on(read()).unwrap();
    warm(|| drop(at_once(read()).unwrap()));
}

fn audit_append() {
    let directory = TempDir::new().unwrap();
    let (log, record) = (audit_log(directory.path()), record());
    warm(|| drop(log.commit(black_box(&record))));
    log.close();
}

fn encode() {
    let answer = answer();
    warm(|| drop(black_box(black_box(&answer).encode_to_vec())));
}

fn fan_out() {
    let changed = Changed::new();
    warm(|| changed.fan_out(1));
}
