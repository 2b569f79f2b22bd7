//! The directory: its lock, its files and their names.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

const SUFFIX: &str = ".jsonl";

/// One process's hold on a log directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    lock: File,
}

#[derive(Debug)]
pub(super) enum LockError {
    Held,
    Io(io::Error),
}

impl From<io::Error> for LockError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Self, LockError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Self { path: path.to_owned(), lock: take_lock(path)? })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes sure that the lock still is the one that others would meet: the directory may have been put back by hand.
    ///
    /// A directory that is gone is not made anew: where a volume was unmounted, that would fill the disk beneath it.
    pub(super) fn keep_lock(&mut self) -> Result<(), LockError> {
        let held = self.lock.metadata()?;
        match std::fs::metadata(lock_path(&self.path)) {
            Ok(found) if (found.dev(), found.ino()) == (held.dev(), held.ino()) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        self.lock = take_lock(&self.path)?;
        Ok(())
    }
}

fn lock_path(directory: &Path) -> PathBuf {
    directory.join("lock")
}

fn take_lock(directory: &Path) -> Result<File, LockError> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock_path(directory))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LockError::Held),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Makes names in the directory durable.
pub(super) fn sync_names(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

pub(super) fn file_name(first: u64) -> String {
    format!("{first:020}{SUFFIX}")
}

/// The log's files by their first sequence number, oldest first.
pub(super) fn files(directory: &Path) -> io::Result<Vec<(u64, String)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let Some(digits) = name.strip_suffix(SUFFIX) else {
            continue;
        };
        if digits.len() == 20
            && let Ok(first) = digits.parse()
            && file_name(first) == name
        {
            files.push((first, name.to_owned()));
        }
    }
    files.sort_unstable();
    Ok(files)
}
