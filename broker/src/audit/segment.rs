//! One open file of the log, and whether it can still be trusted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::directory;
use super::log::Status;

#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    path: PathBuf,
    pub(super) first: u64,
    identity: (u64, u64),
    /// What the file holds at least; whoever finds less knows that somebody cut it.
    length: AtomicU64,
    /// The last record in the file, and the last one of them known to be on the disk.
    last: AtomicU64,
    synced: AtomicU64,
    /// The file's name is known to be on the disk.
    named: AtomicBool,
    loss: OnceLock<LossKind>,
    told: AtomicBool,
}

/// Why a file of the log stopped being trustworthy while it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LossKind {
    Deleted,
    Replaced,
    Shortened,
    /// The disk did not take the records: the page cache says nothing about what lies on it.
    NotSynced(String),
}

/// Records that may be lost although they had been committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    pub kind: LossKind,
    pub file: String,
    /// The records in doubt, from the first to the last sequence number.
    pub first: u64,
    pub last: u64,
}

impl std::fmt::Display for LossKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSynced(reason) => f.write_str(reason),
            Self::Deleted | Self::Replaced | Self::Shortened => {
                write!(f, "its file was {}", self.name())
            }
        }
    }
}

impl Loss {
    /// Says so where operators look.
    pub(super) fn tell(&self, status: &Status) {
        let (kind, first, last) = (self.kind.name(), self.first, self.last);
        tracing::error!(file = self.file, kind, first, last, "audit records in doubt");
        status.change(|status| {
            status.losses += 1;
            status.loss = Some(self.clone());
        });
    }
}

impl LossKind {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Replaced => "replaced",
            Self::Shortened => "shortened",
            Self::NotSynced(_) => "not synced",
        }
    }
}

impl Segment {
    pub(super) fn create(directory: &Path, first: u64) -> io::Result<Self> {
        let path = directory.join(directory::file_name(first));
        let mut options = OpenOptions::new();
        options.append(true).create_new(true).mode(0o600);
        let file = match options.open(&path) {
            // A record of this number was never accepted: the file is what a failed start left and could not remove.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::rename(&path, path.with_extension("aside"))?;
                options.open(&path)?
            }
            opened => opened?,
        };
        Self::new(file, path, first, first.saturating_sub(1), 0)
    }

    /// A file that ends with the record `last`, where `synced` is the last one that the log's head vouches for.
    pub(super) fn resume(directory: &Path, name: &str, first: u64, last: u64, synced: u64) -> io::Result<Self> {
        let path = directory.join(name);
        let file = OpenOptions::new().append(true).open(&path)?;
        Self::new(file, path, first, last, synced)
    }

    fn new(file: File, path: PathBuf, first: u64, last: u64, synced: u64) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self {
            file,
            path,
            first,
            identity: (found.dev(), found.ino()),
            length: AtomicU64::new(found.len()),
            last: AtomicU64::new(last),
            synced: AtomicU64::new(synced.max(first.saturating_sub(1))),
            named: AtomicBool::new(false),
            loss: OnceLock::new(),
            told: AtomicBool::new(false),
        })
    }

    pub(super) fn name(&self) -> String {
        directory::file_name(self.first)
    }

    pub(super) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.file).write_all(bytes)?;
        self.length.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        Ok(())
    }

    /// Takes a partial write away.
    pub(super) fn undo_partial_write(&self) -> io::Result<()> {
        self.file.set_len(self.length())
    }

    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    pub(super) fn set_last(&self, last: u64) {
        self.last.store(last, Ordering::Release);
    }

    pub(super) fn is_named(&self) -> bool {
        self.named.load(Ordering::Acquire)
    }

    pub(super) fn set_named(&self) {
        self.named.store(true, Ordering::Release);
    }

    /// Brings the file to the disk and looks whether it still is where it was. A loss is final.
    pub(super) fn sync(&self) -> Result<(), LossKind> {
        let last = self.last();
        self.check_place();
        if self.loss.get().is_none()
            && let Err(error) = self.file.sync_data()
        {
            return Err(self.not_synced(&error));
        }
        if let Some(kind) = self.loss() {
            return Err(kind);
        }
        self.synced.fetch_max(last, Ordering::AcqRel);
        Ok(())
    }

    pub(super) fn not_synced(&self, error: &io::Error) -> LossKind {
        self.loss.get_or_init(|| LossKind::NotSynced(error.to_string())).clone()
    }

    pub(super) fn check_place(&self) {
        // Before the file's own length: it only grows while we look.
        let length = self.length();
        let kind = match std::fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) != self.identity => LossKind::Replaced,
            Ok(found) if found.len() < length => LossKind::Shortened,
            Ok(_) => return,
            Err(error) if error.kind() == io::ErrorKind::NotFound => LossKind::Deleted,
            // Not to be seen is not to be lost: the next write or sync tells.
            Err(_) => return,
        };
        let _ = self.loss.set(kind);
    }

    pub(super) fn loss(&self) -> Option<LossKind> {
        self.loss.get().cloned()
    }

    /// What the log has to say about the file's loss; handed out once.
    pub(super) fn take_loss(&self) -> Option<Loss> {
        let kind = self.loss()?;
        if self.told.swap(true, Ordering::AcqRel) {
            return None;
        }
        Some(Loss { kind, file: self.name(), first: self.first_in_doubt(), last: self.last() })
    }

    /// Where doubt begins once the file is lost: a failed sync says nothing against what an earlier one had brought.
    pub(super) fn first_in_doubt(&self) -> u64 {
        match self.loss.get() {
            Some(LossKind::NotSynced(_)) => self.synced.load(Ordering::Acquire) + 1,
            Some(LossKind::Deleted | LossKind::Replaced | LossKind::Shortened) | None => self.first,
        }
    }

    pub(super) fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
