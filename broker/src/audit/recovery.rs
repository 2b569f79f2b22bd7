//! Where the chain goes on after a restart: read from the newest file's tail, whatever the log's size.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::directory;
use super::head::{Defect, Head};
use super::key::PublicKeys;
use super::line::{Chain, MAX_LINE, hash, parse_link};
use super::log::OpenError;
use super::segment::Segment;

const WINDOW: u64 = 2 * MAX_LINE as u64;
/// A tail without one whole line in so many bytes was not left by a crash.
const MAX_WINDOW: u64 = 16 * 1024 * 1024;

/// What was found in the directory when the log was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The sequence number of the first line written by this process.
    pub next_sequence: u64,
    /// The end of the newest file that was no whole line: a write that a crash cut short.
    pub cut: Option<Cut>,
    /// Whole lines at the end of the newest file that are not as they were written. They stay where they are, for
    /// `verify` to report, and the log goes on in a new file behind them.
    pub damage: Option<Damage>,
    /// Records that the signed head knows and the files have not, from the first to the last.
    pub missing: Option<(u64, u64)>,
    pub head: HeadState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub file: String,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: String,
    pub lines: u64,
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadState {
    /// No log was here before.
    New,
    Valid,
    /// There are records, but the file `head` is missing, damaged or signed by an unknown key.
    Unusable,
}

#[derive(Debug)]
pub(super) struct Tail {
    pub(super) chain: Chain,
    /// The file to go on in; none where a new one has to begin.
    pub(super) segment: Option<Segment>,
    pub(super) recovery: Recovery,
    /// The last record known to be on the disk, since a head was written for it.
    pub(super) synced: u64,
}

impl Recovery {
    /// Says what an operator should know, each thing as loudly as it deserves.
    pub(super) fn tell(&self) {
        if let Some(Cut { file, bytes }) = &self.cut {
            tracing::warn!(file, bytes, "audit log ended in an unfinished line, which was cut");
        }
        if let Some(Damage { file, lines, bytes }) = &self.damage {
            tracing::error!(file, lines, bytes, "audit log ends in damaged lines; they are kept, run `audit verify`");
        }
        if let Some((first, last)) = self.missing {
            tracing::error!(first, last, "audit records that the signed head knows are missing; run `audit verify`");
        }
        if self.head == HeadState::Unusable {
            tracing::error!("audit log has records but no usable head; run `audit verify`");
        }
    }
}

pub(super) fn recover(directory: &Path, keys: &PublicKeys) -> Result<Tail, OpenError> {
    let failed = |error| OpenError::Directory(directory.to_owned(), error);
    let mut files = directory::files(directory).map_err(failed)?;
    let fresh = files.is_empty();
    let mut cut = None;
    let mut damage = None;
    let mut chain = Chain::GENESIS;
    let mut newest = None;
    while let Some((first, name)) = files.pop() {
        let path = directory.join(&name);
        let failed = |error| OpenError::File(path.clone(), error);
        match end(&path, first).map_err(failed)? {
            End::Good { chain: last, cut_at, length } => {
                if cut_at < length {
                    let file = OpenOptions::new().write(true).open(&path).map_err(failed)?;
                    file.set_len(cut_at).map_err(failed)?;
                    cut = Some(Cut { file: name.clone(), bytes: length - cut_at });
                }
                chain = last;
                newest = Some((first, name));
                break;
            }
            End::Damaged { chain: last, lines, bytes } => {
                chain = last;
                damage = Some(Damage { file: name, lines, bytes });
                break;
            }
            End::Unfinished { length } => {
                // A file whose first line was never finished holds no record.
                std::fs::remove_file(&path).map_err(failed)?;
                if length > 0 {
                    cut = Some(Cut { file: name, bytes: length });
                }
            }
            End::Unknown => return Err(OpenError::Damaged(path)),
        }
    }
    let mut missing = None;
    let mut synced = 0;
    let head = match Head::load(directory, keys) {
        Err(Defect::Missing) if fresh => HeadState::New,
        Err(Defect::Missing | Defect::Unreadable | Defect::UnknownKey | Defect::BadSignature) => HeadState::Unusable,
        Ok(head) => {
            synced = head.seq;
            if let Some(hash) = head.hash()
                && head.seq > chain.last()
            {
                // Going on behind the head leaves the hole visible for ever, instead of closing it over the loss.
                missing = Some((chain.next, head.seq));
                chain = Chain { next: head.seq + 1, head: hash };
                newest = None;
            }
            HeadState::Valid
        }
    };
    let segment = newest.map(|(first, name)| {
        Segment::resume(directory, &name, first, chain.last(), synced)
            .map_err(|error| OpenError::File(directory.join(&name), error))
    });
    let segment = segment.transpose()?;
    let recovery = Recovery { next_sequence: chain.next, cut, damage, missing, head };
    Ok(Tail { chain, segment, recovery, synced })
}

/// How a file ends.
enum End {
    /// In a whole line, and after it at most what a crash left of the next.
    Good { chain: Chain, cut_at: u64, length: u64 },
    /// In lines that are no records any more. The chain goes on behind them: each keeps its number, whatever it was.
    Damaged { chain: Chain, lines: u64, bytes: u64 },
    /// Before the end of its first line.
    Unfinished { length: u64 },
    /// Nothing was recognised as far back as was read.
    Unknown,
}

fn end(path: &Path, first: u64) -> io::Result<End> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut window = WINDOW;
    loop {
        let start = length.saturating_sub(window);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        (&mut file).take(length - start).read_to_end(&mut bytes)?;
        let from_start = start == 0;
        if let Some((at, chain)) = last_good_line(&bytes, from_start) {
            let rest = &bytes[at..];
            if !rest.contains(&b'\n') {
                return Ok(End::Good { chain, cut_at: start + at as u64, length });
            }
            return Ok(damaged(rest, chain));
        }
        if from_start && !bytes.contains(&b'\n') && bytes.len() < MAX_LINE {
            return Ok(End::Unfinished { length });
        }
        if from_start {
            return Ok(damaged(&bytes, Chain { next: first, head: [0; 32] }));
        }
        if window >= MAX_WINDOW {
            return Ok(End::Unknown);
        }
        window *= 8;
    }
}

/// Counts as `verify` does: an unfinished line at the end is one more, since the log goes on in another file.
fn damaged(rest: &[u8], good: Chain) -> End {
    let mut chain = good;
    let mut lines = 0;
    for line in rest.split_inclusive(|byte| *byte == b'\n') {
        lines += 1;
        chain = Chain { next: chain.next.saturating_add(1), head: hash(line.strip_suffix(b"\n").unwrap_or(line)) };
    }
    End::Damaged { chain, lines, bytes: rest.len() as u64 }
}

/// The chain after the last line that is as it was written, and where in `bytes` that line ends.
fn last_good_line(bytes: &[u8], from_start: bool) -> Option<(usize, Chain)> {
    let mut end = bytes.iter().rposition(|byte| *byte == b'\n')?;
    loop {
        let start = bytes[..end].iter().rposition(|byte| *byte == b'\n');
        if start.is_none() && !from_start {
            return None;
        }
        let line = &bytes[start.map_or(0, |newline| newline + 1)..end];
        if let Some(link) = parse_link(line) {
            return Some((end + 1, Chain { next: link.seq.checked_add(1)?, head: hash(line) }));
        }
        end = start?;
    }
}
