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
    /// Records that the signed head knows and the files have not, from the first to the last.
    pub missing: Option<(u64, u64)>,
    pub head: HeadState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub file: String,
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

pub(super) fn recover(directory: &Path, keys: &PublicKeys) -> Result<Tail, OpenError> {
    let failed = |error| OpenError::Directory(directory.to_owned(), error);
    let mut files = directory::files(directory).map_err(failed)?;
    let fresh = files.is_empty();
    let mut cut = None;
    let mut chain = Chain::GENESIS;
    let mut segment = None;
    while let Some((first, name)) = files.pop() {
        let path = directory.join(&name);
        let end = last_line(&path).map_err(|error| OpenError::File(path.clone(), error))?;
        if end.valid < end.length {
            cut = Some(Cut { file: name.clone(), bytes: end.length - end.valid });
        }
        if let Some(last) = end.chain {
            let file =
                OpenOptions::new().write(true).open(&path).map_err(|error| OpenError::File(path.clone(), error))?;
            if end.valid < end.length {
                file.set_len(end.valid).map_err(|error| OpenError::File(path.clone(), error))?;
            }
            chain = last;
            segment = Some(Segment::resume(directory, &name, first).map_err(|error| OpenError::File(path, error))?);
            break;
        }
        if end.length >= MAX_LINE as u64 {
            return Err(OpenError::Damaged(path));
        }
        // A file whose first line was never finished holds no record.
        std::fs::remove_file(&path).map_err(|error| OpenError::File(path, error))?;
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
                segment = None;
            }
            HeadState::Valid
        }
    };
    let recovery = Recovery { next_sequence: chain.next, cut, missing, head };
    Ok(Tail { chain, segment, recovery, synced })
}

struct End {
    length: u64,
    /// Where the last whole line ends.
    valid: u64,
    chain: Option<Chain>,
}

fn last_line(path: &Path) -> io::Result<End> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut window = WINDOW;
    loop {
        let start = length.saturating_sub(window);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        (&mut file).take(length - start).read_to_end(&mut bytes)?;
        if let Some((end, chain)) = last_whole_line(&bytes, start == 0) {
            return Ok(End { length, valid: start + end as u64, chain: Some(chain) });
        }
        if start == 0 || window >= MAX_WINDOW {
            return Ok(End { length, valid: 0, chain: None });
        }
        window *= 8;
    }
}

fn last_whole_line(bytes: &[u8], from_start: bool) -> Option<(usize, Chain)> {
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
