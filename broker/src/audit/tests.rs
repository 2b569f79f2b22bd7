use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::{SystemClock, Timestamp};
use crate::digest::Digest;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("log")
    }

    fn settings(&self) -> Settings {
        Settings {
            directory: self.log(),
            mode: Mode::Written,
            sync_interval: Duration::from_millis(5),
            checkpoint_interval: Duration::from_secs(3600),
            roll_at: 64 * 1024 * 1024,
            signing_key: self.0.path().join("audit.pem"),
        }
    }

    fn open(&self) -> (Log, Recovery) {
        open(self.settings())
    }

    fn files(&self) -> Vec<PathBuf> {
        super::directory::files(&self.log()).unwrap().into_iter().map(|(_, name)| self.log().join(name)).collect()
    }

    fn verify(&self) -> Report {
        verify(&self.log(), None).unwrap()
    }

    fn text(&self) -> String {
        self.files().iter().map(|path| fs::read_to_string(path).unwrap()).collect()
    }
}

fn open(settings: Settings) -> (Log, Recovery) {
    Log::open(settings, "node-1", Arc::new(SystemClock)).unwrap()
}

fn record(number: u128) -> Record {
    Record {
        time: Some(Timestamp::from_micros(1_790_000_000_123_456)),
        request_id: number,
        trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
        peer: Some("10.2.3.4:50123".parse().unwrap()),
        caller: Some("x509/spiffe://example.test/billing".into()),
        certificate: Some(Digest([7; 32])),
        method: "keyferry.v1.SecretService/GetSecret",
        action: "ReadSecret",
        resource: Some("stores/local/secrets/db-password".into()),
        version: Some("3".into()),
        decision: Decision::Allow,
        policy: Some(Digest([9; 32])),
        outcome: "OK",
        source: "CACHE",
        latency: Duration::from_micros(41),
        ..Record::default()
    }
}

/// Waits for what a thread will bring about; the bound only ends a test that would hang.
async fn until(mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the condition came true");
}

async fn fill(folder: &Folder, count: u128) {
    let (log, _) = folder.open();
    for number in 0..count {
        log.commit(&record(number)).await.unwrap();
    }
    log.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_of_many_tasks_are_unique_and_without_gaps() {
    for mode in [Mode::Written, Mode::Synced] {
        let folder = Folder::new();
        let (log, _) = open(Settings { mode, ..folder.settings() });
        let tasks: Vec<_> = (0..64)
            .map(|task| {
                let log = log.clone();
                tokio::spawn(async move {
                    let mut sequences = Vec::new();
                    let count = if task < 16 { 157 } else { 156 };
                    for call in 0..count {
                        sequences.push(log.commit(&record(task * 1000 + call)).await.unwrap().sequence());
                    }
                    sequences
                })
            })
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        log.close();
        all.sort_unstable();
        assert_eq!(all.len(), 10_000);
        assert!(all.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        let report = folder.verify();
        assert_eq!(report.problems, []);
        assert_eq!((report.calls, report.unsigned_tail, report.torn_bytes), (10_000, 0, 0));
        assert_eq!(log.health().synced_sequence, report.last_sequence);
    }
}

#[tokio::test]
async fn a_line_says_what_the_call_was_and_leaves_out_what_is_absent() {
    let folder = Folder::new();
    let (log, _) = folder.open();
    let receipt = log.commit(&record(0xabc)).await.unwrap();
    log.commit(&Record { caller: Some("a\"\\\n\u{2028}é".into()), ..Record::default() }).await.unwrap();
    let item = Item {
        resource: "stores/local/secrets/a".into(),
        version: None,
        decision: Decision::Deny,
        outcome: "ACCESS_DENIED",
        source: "",
    };
    log.commit(&Record { items: vec![item.clone(), item], ..Record::default() }).await.unwrap();
    log.close();
    let text = folder.text();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["header", "event", "call", "call", "call", "checkpoint"]);
    let call = &lines[2];
    assert_eq!(call["seq"], receipt.sequence());
    assert_eq!(call["time"], "2026-09-21T14:13:20.123456Z");
    assert_eq!(call["request"], "00000000000000000000000000000abc");
    assert_eq!(call["trace"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(call["peer"], "10.2.3.4:50123");
    assert_eq!(call["decision"], "allow");
    assert_eq!(call["latency_us"], 41);
    assert!(call.get("token").is_none() && call.get("lease").is_none());
    let item =
        serde_json::json!({ "resource": "stores/local/secrets/a", "decision": "deny", "outcome": "ACCESS_DENIED" });
    assert_eq!(lines[4]["items"], serde_json::json!([item, item]));
    assert_eq!(lines[3]["caller"], "a\"\\\n\u{2028}é");
}

#[tokio::test]
async fn a_cancelled_or_detached_commit_is_in_the_log() {
    let folder = Folder::new();
    let (log, _) = folder.open();
    drop(log.commit(&record(1)));
    log.commit_detached(&record(2));
    log.close();
    assert_eq!(folder.verify().calls, 2);
    let refused = log.commit(&record(3)).await.unwrap_err();
    assert_eq!(refused.to_string(), "the audit log cannot be written: it is closed");
}

#[tokio::test]
async fn one_directory_has_one_writer() {
    let folder = Folder::new();
    let (log, _) = folder.open();
    let error = Log::open(folder.settings(), "node-2", Arc::new(SystemClock)).unwrap_err();
    assert!(matches!(error, OpenError::Locked(_)), "{error}");
    log.close();
    folder.open();
}

#[tokio::test]
async fn files_roll_and_the_chain_runs_through_them_and_through_restarts() {
    let folder = Folder::new();
    for start in 0..3 {
        let (log, recovery) = open(Settings { roll_at: 8 * 1024, ..folder.settings() });
        assert_eq!(recovery.head, if start == 0 { HeadState::New } else { HeadState::Valid });
        for number in 0..100 {
            log.commit(&record(number)).await.unwrap();
        }
        log.close();
    }
    let report = folder.verify();
    assert_eq!(report.problems, []);
    assert_eq!((report.calls, report.first_sequence, report.unsigned_tail), (300, 1, 0));
    assert!(report.files > 10 && report.checkpoints >= report.files, "{report:?}");
}

#[tokio::test]
async fn checkpoints_come_by_themselves_and_reach_the_head() {
    let folder = Folder::new();
    let (log, _) = open(Settings { checkpoint_interval: Duration::from_millis(1), ..folder.settings() });
    log.commit(&record(1)).await.unwrap();
    until(|| {
        let health = log.health();
        health.checkpoint_sequence == Some(health.last_sequence)
    })
    .await;
    let settled = log.health().last_sequence;
    log.commit(&record(2)).await.unwrap();
    until(|| log.health().checkpoint_sequence > Some(settled)).await;
    let report = folder.verify();
    assert_eq!((report.problems, report.unsigned_tail), (vec![], 0));
}

#[tokio::test]
async fn a_flipped_bit_in_any_byte_is_found_in_its_line() {
    let folder = Folder::new();
    fill(&folder, 2).await;
    let path = folder.files().remove(0);
    let good = fs::read(&path).unwrap();
    let mut line = 1;
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).unwrap();
        let report = folder.verify();
        let last_newline = at + 1 == good.len();
        assert!(!report.is_intact(), "byte {at}");
        assert!(last_newline || report.problems[0].line == line, "byte {at}: {:?}", report.problems);
        line += u64::from(good[at] == b'\n');
    }
    fs::write(&path, &good).unwrap();
    assert_eq!(folder.verify().problems, []);
}

#[tokio::test]
async fn every_deleted_inserted_or_swapped_record_is_found() {
    let folder = Folder::new();
    fill(&folder, 12).await;
    let path = folder.files().remove(0);
    let good = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let found = |lines: &[&str], at: usize, what: &str| {
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        let report = folder.verify();
        assert!(!report.is_intact(), "{what} at {at}");
        // A removed last line shows in the head alone.
        let place = report.problems[0].line;
        assert!(place == 0 || place.abs_diff(at as u64 + 1) <= 1, "{what} at {at}: {:?}", report.problems);
    };
    for at in 0..lines.len() {
        let mut deleted = lines.clone();
        deleted.remove(at);
        found(&deleted, at, "deleted");
        for other in 0..lines.len() {
            let mut inserted = lines.clone();
            inserted.insert(at, lines[other]);
            found(&inserted, at, "inserted");
            if at < other {
                let mut swapped = lines.clone();
                swapped.swap(at, other);
                found(&swapped, at, "swapped");
            }
        }
    }
    fs::write(&path, &good).unwrap();
    assert_eq!(folder.verify().problems, []);
}

#[tokio::test]
async fn a_log_rewritten_with_good_checksums_fails_its_signatures() {
    let folder = Folder::new();
    fill(&folder, 5).await;
    let path = folder.files().remove(0);
    let good = fs::read_to_string(&path).unwrap();
    let mut chain = super::line::Chain::GENESIS;
    let mut forged = Vec::new();
    for line in good.lines() {
        let body = &line[line.find("\"kind\"").unwrap()..line.len() - 18];
        chain.append(&mut forged, body.replace("billing", "someone").as_bytes());
    }
    fs::write(&path, forged).unwrap();
    let what: Vec<_> = folder.verify().problems.into_iter().map(|problem| problem.what).collect();
    assert_eq!(what[0], "has a wrong signature: records 1 to 8 may have been rewritten");
    assert!(what[1].contains("signed head"), "{what:?}");
}

#[tokio::test]
async fn removed_files_and_a_cut_end_are_found_by_the_head() {
    let folder = Folder::new();
    let (log, _) = open(Settings { roll_at: 4 * 1024, ..folder.settings() });
    for number in 0..60 {
        log.commit(&record(number)).await.unwrap();
    }
    log.close();
    let files = folder.files();
    let hidden = folder.0.path().join("hidden");

    fs::rename(files.last().unwrap(), &hidden).unwrap();
    let problems = folder.verify().problems;
    assert!(problems[0].what.contains("the newest records were removed"), "{problems:?}");
    fs::rename(&hidden, files.last().unwrap()).unwrap();

    fs::rename(&files[2], &hidden).unwrap();
    let problems = folder.verify().problems;
    assert!(problems[0].what.contains("are missing before it"), "{problems:?}");
    fs::rename(&hidden, &files[2]).unwrap();

    let head = fs::read_to_string(folder.log().join("head")).unwrap();
    fs::write(folder.log().join("head"), head.replace("node-1", "node-2")).unwrap();
    assert!(folder.verify().problems[0].what.contains("wrong signature"));
    fs::remove_file(folder.log().join("head")).unwrap();
    assert!(folder.verify().problems[0].what.contains("is missing"));
    fs::write(folder.log().join("head"), head).unwrap();
    assert_eq!(folder.verify().problems, []);
}

#[tokio::test]
async fn a_restart_does_not_hide_removed_records() {
    let folder = Folder::new();
    fill(&folder, 9).await;
    let path = folder.files().remove(0);
    let good = fs::read_to_string(&path).unwrap();
    let kept: String = good.lines().take(6).flat_map(|line| [line, "\n"]).collect();
    fs::write(&path, kept).unwrap();
    let (log, recovery) = folder.open();
    assert_eq!(recovery.missing, Some((7, 12)));
    log.commit(&record(1)).await.unwrap();
    log.close();
    let problems = folder.verify().problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!((problems[0].sequence, &*problems[0].what), (13, "records 7 to 12 are missing before it"));
}

#[tokio::test]
async fn a_torn_end_of_any_length_is_cut_and_told() {
    let folder = Folder::new();
    let (log, _) = folder.open();
    for number in 0..3 {
        log.commit(&record(number)).await.unwrap();
    }
    // As kill -9 leaves it: no checkpoint at the end.
    let path = folder.files().remove(0);
    let good = fs::read(&path).unwrap();
    let head = fs::read(folder.log().join("head")).unwrap();
    log.close();
    let last = good[..good.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for length in last..=good.len() {
        fs::write(&path, &good[..length]).unwrap();
        fs::write(folder.log().join("head"), &head).unwrap();
        let torn = if length == good.len() { 0 } else { length - last };
        let before = folder.verify();
        assert_eq!((before.problems, before.torn_bytes), (vec![], torn as u64));
        let (log, recovery) = folder.open();
        assert_eq!(recovery.cut.map_or(0, |cut| cut.bytes), torn as u64);
        let receipt = log.commit(&record(9)).await.unwrap();
        assert_eq!(receipt.sequence(), recovery.next_sequence + 1);
        log.close();
        let report = folder.verify();
        assert_eq!((report.problems, report.torn_bytes), (vec![], 0), "length {length}");
        assert_eq!(report.cut_bytes, torn as u64);
    }
}

#[tokio::test]
async fn a_file_torn_in_its_first_line_is_taken_away() {
    let folder = Folder::new();
    fill(&folder, 2).await;
    let next = folder.verify().last_sequence + 1;
    fs::write(folder.log().join(super::directory::file_name(next)), "{\"seq\":").unwrap();
    let (log, recovery) = folder.open();
    assert_eq!(recovery.cut.unwrap().bytes, 7);
    log.commit(&record(1)).await.unwrap();
    log.close();
    assert_eq!(folder.verify().problems, []);
}

#[tokio::test]
async fn hostile_files_are_reported_in_bounded_memory() {
    let folder = Folder::new();
    fill(&folder, 1).await;
    let path = folder.files().remove(0);
    let good = fs::read(&path).unwrap();
    let mut bytes = good.clone();
    bytes.extend(std::iter::repeat_n(b'{', 3 * 1024 * 1024));
    bytes.push(b'\n');
    bytes.extend("[[[[\n\u{0}\n\n".repeat(2000).as_bytes());
    fs::write(&path, bytes).unwrap();
    let report = folder.verify();
    assert_eq!(report.problems.len(), 1000);
    assert_eq!(report.more_problems, 5001);
    assert!(report.problems[0].what.contains("longer than any record"));
}

#[tokio::test]
async fn another_key_does_not_verify() {
    let folder = Folder::new();
    fill(&folder, 1).await;
    let other = Folder::new();
    fill(&other, 1).await;
    let key = fs::read_dir(other.log()).unwrap().map(|entry| entry.unwrap().path());
    let key = key.into_iter().find(|path| path.extension().is_some_and(|end| end == "pem")).unwrap();
    let keys = PublicKeys::read(&key).unwrap();
    assert_eq!(verify(&other.log(), Some(&keys)).unwrap().problems, []);
    let problems = verify(&folder.log(), Some(&keys)).unwrap().problems;
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().all(|problem| problem.what.contains("not among the public keys given")));
}

#[tokio::test]
async fn a_deleted_replaced_or_shortened_file_is_noticed_and_recorded() {
    for how in ["deleted", "replaced", "shortened"] {
        let folder = Folder::new();
        let (log, _) = folder.open();
        let lost = log.commit(&record(1)).await.unwrap().sequence();
        let path = folder.files().remove(0);
        match how {
            "deleted" => fs::remove_file(&path).unwrap(),
            "replaced" => {
                let copy = folder.log().join("copy");
                fs::copy(&path, &copy).unwrap();
                fs::rename(copy, &path).unwrap();
            }
            _ => fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(10).unwrap(),
        }
        until(|| folder.text().contains("\"event\":\"lost\"")).await;
        let loss = log.health().loss.unwrap();
        assert_eq!((loss.kind.name(), loss.first, loss.last), (how, 1, lost));
        log.commit(&record(2)).await.unwrap();
        log.close();
        // What was replaced by an equal copy is whole; everything else has a hole.
        assert_eq!(folder.verify().is_intact(), how == "replaced");
    }
}

#[tokio::test]
async fn a_file_lost_between_its_seal_and_its_sync_is_noticed_and_recorded() {
    let folder = Folder::new();
    // No round comes before the end: only what is known to be unsynced can be missed.
    let settings = Settings { roll_at: 4 * 1024, sync_interval: Duration::from_secs(3600), ..folder.settings() };
    let (log, _) = open(settings);
    while folder.files().len() < 2 {
        log.commit(&record(1)).await.unwrap();
    }
    fs::remove_file(&folder.files()[0]).unwrap();
    log.commit(&record(2)).await.unwrap();
    log.close();
    let loss = log.health().loss.unwrap();
    assert_eq!((loss.kind.name(), loss.first), ("deleted", 1));
    let problems = folder.verify().problems;
    let what = format!("says that records 1 to {} were lost with their file", loss.last);
    assert!(problems.iter().any(|problem| problem.what == what), "{problems:?}");
}

#[tokio::test]
async fn the_last_handle_dropped_does_not_wait_and_nothing_is_lost() {
    let folder = Folder::new();
    let (log, _) = folder.open();
    log.commit(&record(1)).await.unwrap();
    log.commit_detached(&record(2));
    drop(log);
    until(|| folder.verify().unsigned_tail == 0).await;
    assert_eq!((folder.verify().calls, folder.verify().problems), (2, vec![]));
}

#[tokio::test]
async fn damaged_lines_at_the_end_survive_restarts_and_stay_reported() {
    for torn in [false, true] {
        let folder = Folder::new();
        let (log, _) = folder.open();
        for number in 0..12 {
            log.commit(&record(number)).await.unwrap();
        }
        // As kill -9 leaves it: no checkpoint at the end, and a head that knows nothing of these lines.
        let path = folder.files().remove(0);
        let good = fs::read_to_string(&path).unwrap();
        let head = fs::read(folder.log().join("head")).unwrap();
        log.close();
        let lines: Vec<_> = good.lines().collect();
        let mut bad: String = lines[..4].iter().flat_map(|line| [line, "\n"]).collect();
        let kept = bad.len();
        bad.extend(lines[4..].iter().map(|line| line.replace("billing", "someone") + "\n"));
        if torn {
            bad.push_str("{\"seq\":");
        }
        fs::write(&path, &bad).unwrap();
        fs::write(folder.log().join("head"), head).unwrap();
        let damaged = 10 + u64::from(torn);

        let (log, recovery) = folder.open();
        let name = super::directory::file_name(1);
        let damage = Damage { file: name, lines: damaged, bytes: (bad.len() - kept) as u64 };
        assert_eq!((recovery.damage, recovery.cut), (Some(damage), None));
        assert_eq!(recovery.next_sequence, 5 + damaged);
        log.commit(&record(20)).await.unwrap();
        log.close();
        let (log, recovery) = folder.open();
        assert_eq!(recovery.damage, None);
        log.close();
        assert_eq!(fs::read_to_string(&path).unwrap(), bad);
        let report = folder.verify();
        assert_eq!(report.problems.len() as u64, damaged, "{:?}", report.problems);
        assert!(report.problems.iter().all(|problem| problem.file == super::directory::file_name(1)));
        assert!(folder.text().contains(&format!("\"damaged_lines\":{damaged}")));
    }
}

#[tokio::test]
async fn a_file_without_one_good_line_is_kept() {
    let folder = Folder::new();
    let (log, _) = folder.open();
    log.commit(&record(1)).await.unwrap();
    let path = folder.files().remove(0);
    let head = fs::read(folder.log().join("head")).unwrap();
    log.close();
    fs::write(&path, "not a record\nnor this\n").unwrap();
    fs::write(folder.log().join("head"), head).unwrap();
    let (log, recovery) = folder.open();
    assert_eq!((recovery.damage.unwrap().lines, recovery.next_sequence), (2, 3));
    log.close();
    assert!(path.exists());
    assert!(!folder.verify().is_intact());
}

#[tokio::test]
async fn a_vanished_directory_denies_until_it_is_back() {
    let folder = Folder::new();
    let (log, _) = folder.open();
    log.commit(&record(1)).await.unwrap();
    let away = folder.0.path().join("away");
    fs::rename(folder.log(), &away).unwrap();
    until(|| log.health().failing.is_some()).await;
    let refused = log.commit(&record(2)).await.unwrap_err();
    assert_eq!(refused.reason(), "No such file or directory (os error 2)");
    assert!(!folder.log().exists());
    fs::rename(&away, folder.log()).unwrap();
    until(|| log.health().failing.is_none()).await;
    log.commit(&record(3)).await.unwrap();
    log.close();
    assert_eq!(folder.verify().problems, []);
    assert!(folder.text().contains("\"event\":\"gap\""));
}

/// A file system of its own, of a size that a test can fill.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn new(path: &'a Path, size: &str) -> Option<Self> {
        if std::env::var_os("KEYFERRY_NO_MOUNT").is_some() {
            return None;
        }
        fs::create_dir_all(path).unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "audit-test"]).arg(path).output();
        let output = mount.expect("mount is installed; set KEYFERRY_NO_MOUNT=1 to go without this test");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "mounting needs root ({error}); set KEYFERRY_NO_MOUNT=1 to go without this test"
        );
        Some(Self(path))
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_denies_at_once_and_service_resumes_with_space() {
    for mode in [Mode::Written, Mode::Synced] {
        let folder = Folder::new();
        let path = folder.log();
        let Some(_mount) = Mount::new(&path, "1m") else {
            return;
        };
        let (log, _) = open(Settings { mode, ..folder.settings() });
        let ballast = path.join("ballast");
        fs::write(&ballast, vec![0; 600 * 1024]).unwrap();
        let mut accepted = 0;
        let refused = loop {
            match log.commit(&record(accepted)).await {
                Ok(_) => accepted += 1,
                Err(refused) => break refused,
            }
            assert!(accepted < 10_000, "the disk never filled up");
        };
        assert_eq!(refused.reason(), "No space left on device (os error 28)");
        let more = futures_of(&log, 50).await;
        assert_eq!(more, 0);
        assert!(log.health().failing.unwrap().refused >= 51);
        fs::remove_file(&ballast).unwrap();
        until(|| log.health().failing.is_none()).await;
        log.commit(&record(1)).await.unwrap();
        log.close();
        let report = folder.verify();
        assert_eq!(report.problems, []);
        assert_eq!(u128::from(report.calls), accepted + 1);
        assert!(folder.text().contains("\"event\":\"gap\"") && folder.text().contains("\"reason\":\"No space left"));
    }
}

async fn futures_of(log: &Log, count: u128) -> usize {
    let tasks: Vec<_> = (0..count)
        .map(|number| {
            let log = log.clone();
            tokio::spawn(async move { log.commit(&record(number)).await.is_ok() })
        })
        .collect();
    let mut accepted = 0;
    for task in tasks {
        accepted += usize::from(task.await.unwrap());
    }
    accepted
}

#[tokio::test]
async fn random_damage_never_passes_and_never_panics() {
    let folder = Folder::new();
    let (log, _) = open(Settings { roll_at: 6 * 1024, ..folder.settings() });
    for number in 0..40 {
        log.commit(&record(number)).await.unwrap();
    }
    log.close();
    let files = folder.files();
    let originals: Vec<_> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |bound: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % bound as u64) as usize
    };
    let mut seen = HashSet::new();
    for _ in 0..400 {
        let which = random(files.len());
        let mut bytes = originals[which].clone();
        let at = random(bytes.len());
        let span = (1 + random(900)).min(bytes.len() - at);
        match random(4) {
            0 => bytes[at] = bytes[at].wrapping_add(1 + random(255) as u8),
            1 => drop(bytes.drain(at..at + span)),
            2 => {
                let piece = bytes[at..at + span].to_vec();
                let to = random(bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => bytes.truncate(at),
        }
        if bytes == originals[which] {
            continue;
        }
        fs::write(&files[which], &bytes).unwrap();
        let report = folder.verify();
        assert!(!report.is_intact());
        seen.extend(report.problems.into_iter().map(|problem| problem.what.chars().take(12).collect::<String>()));
        fs::write(&files[which], &originals[which]).unwrap();
    }
    assert!(seen.len() > 3, "{seen:?}");
    assert_eq!(folder.verify().problems, []);
}
