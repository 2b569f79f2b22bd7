//! A log as an auditor may be given it: garbled, cut, or rewritten by somebody who knows its checksums.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keyferry_fuzz::{Fuzz, Random, Verdict};

use super::directory::file_name;
use super::line::{Chain, parse_link};
use super::recovery::recover;
use super::verify::verify;
use super::{Log, Mode, PublicKeys, Record, Settings};
use crate::clock::SystemClock;

const WORDS: [&str; 12] = [
    "{\"seq\":1,\"prev\":\"",
    "\",\"kind\":\"call\"",
    "\"kind\":\"checkpoint\"",
    "\"kind\":\"header\"",
    ",\"crc\":\"",
    "\"event\":\"lost\"",
    "\"first\":0",
    "\"last\":18446744073709551615",
    "\"cut_bytes\":18446744073709551615",
    "\"time\":\"",
    "\"}\n",
    "18446744073709551615",
];

/// A log of a few calls that was closed in order.
struct Genuine {
    directory: tempfile::TempDir,
    text: Vec<u8>,
}

impl Genuine {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings {
            directory: directory.path().join("log"),
            mode: Mode::Written,
            sync_interval: Duration::from_millis(5),
            checkpoint_interval: Duration::from_secs(3600),
            roll_at: 64 << 20,
            signing_key: directory.path().join("audit.pem"),
        };
        let (log, _) = Log::open(settings, "node-1", Arc::new(SystemClock)).unwrap();
        for number in 0..3 {
            let record = Record { request_id: number, outcome: "OK", method: "a/b", ..Record::default() };
            log.commit(&record).await.unwrap();
        }
        log.close();
        let text = fs::read(directory.path().join("log").join(file_name(1))).unwrap();
        Self { directory, text }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

#[tokio::test]
async fn only_a_line_as_the_writer_makes_it_is_a_link() {
    let genuine = Genuine::new().await;
    let lines = genuine.text.split_inclusive(|byte| *byte == b'\n').map(|line| line[..line.len() - 1].to_vec());
    let forge = |line: &[u8], random: &mut Random| rewritten(line, random).trim_ascii_end().to_vec();
    Fuzz::new("audit-line").words(&WORDS).seeds(lines).mutated_by(&forge).holds(|input| {
        let Some(link) = parse_link(input) else { return Verdict::Refused };
        // Link, body and checksum are all that is in it.
        let body = &input[format!("{{\"seq\":{},\"prev\":\"", link.seq).len() + 45..input.len() - 18];
        let mut again = Vec::new();
        Chain { next: link.seq, head: link.prev }.append(&mut again, body);
        assert_eq!(again.strip_suffix(b"\n"), Some(input));
        Verdict::Accepted
    });
}

#[tokio::test]
async fn a_log_that_was_changed_before_its_signed_end_is_never_intact_and_goes_on_or_says_why_not() {
    let genuine = Genuine::new().await;
    let (log, file) = (genuine.log(), genuine.log().join(file_name(1)));
    let head = fs::read(log.join("head")).unwrap();
    let keys = PublicKeys::beside(&log).unwrap();
    let with_tail = [&genuine.text[..], b"{\"seq\":"].concat();
    let fuzz = Fuzz::new("audit-log").words(&WORDS).seeds([genuine.text.clone(), with_tail]).mutated_by(&rewritten);
    fuzz.inputs(1500).allocating(2 << 20, 256).holds(|input| {
        fs::write(&file, input).unwrap();
        fs::write(log.join("head"), &head).unwrap();
        let report = verify(&log, Some(&keys)).unwrap();
        assert!(!report.is_intact() || input.starts_with(&genuine.text), "{report}");
        if let Ok(tail) = recover(&log, &keys) {
            // It goes on behind whatever is signed, so that no number is given twice.
            assert!(tail.recovery.next_sequence > 1);
        }
        report.is_intact().into()
    });
}

/// Lines changed, moved or left out, and all links and checksums made anew as if nothing had been.
fn rewritten(text: &[u8], random: &mut Random) -> Vec<u8> {
    const KIND: &[u8] = b"\"kind\"";
    let body = |line: &[u8]| {
        let from = line.windows(KIND.len()).position(|window| window == KIND)?;
        Some(line.get(from..line.len().checked_sub(18)?)?.to_vec())
    };
    let mut bodies: Vec<_> = text.split(|byte| *byte == b'\n').filter_map(body).collect();
    let (one, other) = (random.below(bodies.len()), random.below(bodies.len()));
    match random.below(5) {
        0 if bodies.len() > 1 => drop(bodies.remove(one)),
        1 if !bodies.is_empty() => bodies.swap(one, other),
        2 if !bodies.is_empty() => bodies.insert(one, bodies[other].clone()),
        3 => {}
        _ => {
            if let Some(body) = bodies.get_mut(one) {
                let at = random.below(body.len());
                match random.below(2) {
                    0 => body[at] = random.byte(),
                    _ => body.splice(at..at, random.choose(&WORDS).bytes()).for_each(drop),
                }
            }
        }
    }
    let (mut chain, mut forged) = (Chain::GENESIS, Vec::new());
    for body in bodies {
        chain.append(&mut forged, &body);
    }
    forged
}
