//! Reads a log as an auditor does: in one pass, in bounded memory, trusting nothing in it.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use thiserror::Error;

use super::directory;
use super::head::{Defect, Head};
use super::key::{KeyError, PublicKeys};
use super::line::{Hash, Link, MAX_LINE, hash, parse_link};
use super::report::{Problem, Report};

/// More defects than this are counted, not listed.
const MAX_PROBLEMS: usize = 1000;

#[derive(Debug, Error)]
pub enum VerifyError {
    #[error("cannot read {0}; check that it is an audit directory and that you may read it")]
    Read(PathBuf, #[source] io::Error),
    #[error("{0} holds no audit log; give the directory that `audit.directory` names")]
    Empty(PathBuf),
    #[error("no public key to verify with")]
    Key(#[from] KeyError),
}

/// Verifies the log in `directory` with these public keys; without any given, with those beside the log.
pub fn verify(directory: &Path, keys: Option<&PublicKeys>) -> Result<Report, VerifyError> {
    let failed = |error| VerifyError::Read(directory.to_owned(), error);
    let beside;
    let keys = match keys {
        Some(keys) => keys,
        None => {
            beside = PublicKeys::beside(directory)?;
            &beside
        }
    };
    // The head before the files: a log that is being written may only be ahead of it.
    let head = Head::load(directory, keys);
    let files = directory::files(directory).map_err(failed)?;
    if files.is_empty() && matches!(head, Err(Defect::Missing)) {
        return Err(VerifyError::Empty(directory.to_owned()));
    }
    let mut pass =
        Pass { keys, report: Report::default(), expected: None, signed: 0, head: head.as_ref().ok(), head_seen: false };
    let count = files.len();
    for (index, (first, name)) in files.into_iter().enumerate() {
        let path = directory.join(&name);
        pass.file(&path, &name, first, index + 1 == count).map_err(|error| VerifyError::Read(path, error))?;
    }
    pass.finish(head.as_ref().map_err(|defect| *defect));
    Ok(pass.report)
}

/// What a checkpoint's signature covers; the JSON array keeps the parts apart.
pub(super) fn checkpoint_message(node: &str, seq: u64, prev: &Hash, time: &str) -> Vec<u8> {
    let prev = URL_SAFE_NO_PAD.encode(prev);
    serde_json::json!(["keyferry audit checkpoint 1", node, seq, prev, time]).to_string().into_bytes()
}

/// The members of a line that verification looks at.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    node: Cow<'a, str>,
    #[serde(borrow, default)]
    key: Cow<'a, str>,
    #[serde(borrow, default)]
    signature: Cow<'a, str>,
    #[serde(borrow, default)]
    event: Cow<'a, str>,
    #[serde(default)]
    cut_bytes: u64,
    #[serde(default)]
    first: u64,
    #[serde(default)]
    last: u64,
}

struct Pass<'a> {
    keys: &'a PublicKeys,
    report: Report,
    expected: Option<Expected>,
    /// The last record under a good signature.
    signed: u64,
    head: Option<&'a Head>,
    head_seen: bool,
}

struct Expected {
    seq: u64,
    /// Unknown after a damaged line: it cannot be said what it was.
    prev: Option<Hash>,
}

impl Pass<'_> {
    fn file(&mut self, path: &Path, name: &str, first: u64, last_file: bool) -> io::Result<()> {
        self.report.files += 1;
        let mut reader = BufReader::with_capacity(128 * 1024, File::open(path)?);
        let mut buffer = Vec::new();
        let mut number = 0;
        loop {
            number += 1;
            let at = Place { file: name, line: number };
            match read_line(&mut reader, &mut buffer)? {
                Read::End => break,
                Read::Whole => self.line(at, &buffer, first),
                Read::TooLong => self.damaged(at, "is longer than any record: it was altered or does not belong here"),
                Read::Torn if last_file => self.report.torn_bytes = buffer.len() as u64,
                Read::Torn => {
                    self.damaged(at, "is not whole although the log went on in another file: it was cut or altered");
                }
            }
        }
        if number == 1 {
            self.problem(
                Place { file: name, line: 0 },
                first,
                "the file is empty: its records were removed".to_owned(),
            );
        }
        Ok(())
    }

    fn line(&mut self, at: Place<'_>, bytes: &[u8], first: u64) {
        let (Some(link), Ok(line)) = (parse_link(bytes), serde_json::from_slice::<Line<'_>>(bytes)) else {
            return self.damaged(at, "is not as it was written: it was altered");
        };
        self.report.records += 1;
        if at.line == 1 && (line.kind != "header" || link.seq != first) {
            self.problem(
                at,
                link.seq,
                "is not the header that belongs in this file: lines were removed or the file was renamed".to_owned(),
            );
        }
        if self.report.first_sequence == 0 {
            self.report.first_sequence = link.seq;
        }
        self.check_link(at, &link, line.kind == "header");
        let hash = hash(bytes);
        match &*line.kind {
            "checkpoint" => self.check_signature(at, &link, &line),
            "call" => self.report.calls += 1,
            _ => {}
        }
        self.report.cut_bytes = self.report.cut_bytes.saturating_add(line.cut_bytes);
        // The chain shows every other hole by itself, but not one before its first file.
        if line.event == "lost" && line.first < self.report.first_sequence {
            let what = format!("says that records {} to {} were lost with their file", line.first, line.last);
            self.problem(at, link.seq, what);
        }
        if let Some(head) = self.head
            && head.seq == link.seq
        {
            self.head_seen = true;
            if head.hash() != Some(hash) {
                self.problem(
                    at,
                    link.seq,
                    "is not the checkpoint that the signed head names: the log was rewritten".to_owned(),
                );
            }
        }
        self.report.last_sequence = self.report.last_sequence.max(link.seq);
        self.expected = Some(Expected { seq: link.seq.saturating_add(1), prev: Some(hash) });
    }

    fn check_link(&mut self, at: Place<'_>, link: &Link, header: bool) {
        let Some(expected) = self.expected.take() else {
            if link.seq == 1 && link.prev != [0; 32] {
                self.problem(at, 1, "links to a record before the first: the log was rewritten".to_owned());
            }
            return;
        };
        if link.seq > expected.seq {
            let what = format!("records {} to {} are missing before it", expected.seq, link.seq - 1);
            self.problem(at, link.seq, what);
        } else if link.seq < expected.seq {
            let what = format!("stands where record {} belongs: it was inserted or moved", expected.seq);
            self.problem(at, link.seq, what);
        } else if expected.prev.is_some_and(|prev| prev != link.prev) {
            let before = link.seq - 1;
            let what = if header {
                format!(
                    "does not link to record {before}, the last of the file before: that one or this header was altered"
                )
            } else {
                format!("does not link to record {before}: that one was altered, or this one inserted")
            };
            self.problem(at, link.seq, what);
        }
    }

    fn check_signature(&mut self, at: Place<'_>, link: &Link, line: &Line<'_>) {
        let message = checkpoint_message(&line.node, link.seq, &link.prev, &line.time);
        let signature = URL_SAFE_NO_PAD.decode(&*line.signature).unwrap_or_default();
        if self.keys.verify(&line.key, &message, &signature) {
            self.report.checkpoints += 1;
            self.signed = link.seq;
        } else if self.keys.knows(&line.key) {
            let what =
                format!("has a wrong signature: records {} to {} may have been rewritten", self.signed + 1, link.seq);
            self.problem(at, link.seq, what);
        } else {
            let key: String = line.key.chars().filter(char::is_ascii_hexdigit).take(16).collect();
            self.problem(at, link.seq, format!("is signed by the key {key}, which is not among the public keys given"));
        }
    }

    fn damaged(&mut self, at: Place<'_>, what: &str) {
        self.report.records += 1;
        let seq = self.expected.as_ref().map_or(0, |expected| expected.seq);
        self.problem(at, seq, what.to_owned());
        self.expected = Some(Expected { seq: seq.saturating_add(1), prev: None });
    }

    fn finish(&mut self, head: Result<&Head, Defect>) {
        self.report.unsigned_tail = self.report.last_sequence.saturating_sub(self.signed);
        let what = match head {
            Ok(head) if head.seq == 0 || self.head_seen => return,
            Ok(head) => {
                let last = self.report.last_sequence;
                if head.seq > last {
                    format!("names record {}, but the log ends at {last}: the newest records were removed", head.seq)
                } else {
                    format!("names record {}, which is not in the log", head.seq)
                }
            }
            Err(Defect::Missing) => "is missing: whether the newest records were removed cannot be told".to_owned(),
            Err(Defect::Unreadable) => "cannot be read: it was altered".to_owned(),
            Err(Defect::UnknownKey) => "is signed by a key that is not among the public keys given".to_owned(),
            Err(Defect::BadSignature) => "has a wrong signature: it was altered".to_owned(),
        };
        let sequence = head.map_or(0, |head| head.seq);
        self.problem(Place { file: "head", line: 0 }, sequence, what);
    }

    fn problem(&mut self, at: Place<'_>, sequence: u64, what: String) {
        if self.report.problems.len() < MAX_PROBLEMS {
            self.report.problems.push(Problem { file: at.file.to_owned(), line: at.line, sequence, what });
        } else {
            self.report.more_problems += 1;
        }
    }
}

#[derive(Clone, Copy)]
struct Place<'a> {
    file: &'a str,
    line: u64,
}

enum Read {
    Whole,
    TooLong,
    Torn,
    End,
}

/// Reads one line without its newline; what exceeds the bound is skipped, not kept.
fn read_line(reader: &mut impl io::BufRead, line: &mut Vec<u8>) -> io::Result<Read> {
    line.clear();
    let mut too_long = false;
    loop {
        let available = reader.fill_buf()?;
        if available.is_empty() {
            return Ok(match (too_long, line.is_empty()) {
                (true, _) => Read::TooLong,
                (false, true) => Read::End,
                (false, false) => Read::Torn,
            });
        }
        let newline = available.iter().position(|byte| *byte == b'\n');
        let end = newline.unwrap_or(available.len());
        if line.len() + end > MAX_LINE {
            too_long = true;
        } else if !too_long {
            line.extend_from_slice(&available[..end]);
        }
        reader.consume(newline.map_or(end, |newline| newline + 1));
        if newline.is_some() {
            return Ok(if too_long { Read::TooLong } else { Read::Whole });
        }
    }
}
