//! A note beside the file of the newest revision it was seen to have.
//!
//! A file that is behind its mark, or has none, is an old copy: its history is not the one that watchers know. Together
//! with the file's own inode number, which a copy does not have, it notices any restore but one that puts back both
//! files in place, or the whole disk. Those show when a watcher asks for a revision that was never reached.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::state::store::{Epoch, Revision};

#[derive(Debug)]
pub(super) struct Mark {
    file: File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) epoch: Epoch,
    pub(super) revision: Revision,
}

impl Mark {
    /// Opens the mark of the file `path`, and reads what was seen.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<Seen>)> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(mark_path(path))?;
        let mut text = Vec::new();
        file.by_ref().take(256).read_to_end(&mut text)?;
        Ok((Self { file }, parse(&text)))
    }

    /// After the commit is on disk, so that the mark is never ahead of a file that is the right one. It is not synced:
    /// a mark that lags notices a little less.
    pub(super) fn note(&self, seen: Seen) -> io::Result<()> {
        self.file.write_all_at(format!("{} {:020}\n", seen.epoch, seen.revision.get()).as_bytes(), 0)
    }
}

fn mark_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".mark");
    name.into()
}

fn parse(text: &[u8]) -> Option<Seen> {
    let (epoch, revision) = str::from_utf8(text).ok()?.strip_suffix('\n')?.split_once(' ')?;
    Some(Seen { epoch: Epoch::parse(epoch)?, revision: Revision::new(revision.parse().ok()?) })
}
