//! The one file: who may open it, which history it holds, and how it comes back after a disk error.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Builder, Database, DatabaseError, ReadableDatabase, StorageError};
use thiserror::Error;

use super::blocks::Blocks;
use super::mark::{Mark, Seen};
use super::rows::{self, HEADER, HISTORY, OLDEST, RECORDS, REVISION};
use crate::state::failure::StateError;
use crate::state::store::{Epoch, Revision};

/// The kernel caches the file as well; what redb keeps on top counts towards the broker's own memory.
const CACHE_BYTES: usize = 16 << 20;

const FORMAT: u64 = 1;
const FORMAT_ROW: &str = "format";
const EPOCH: &str = "epoch";
/// The file's own, when its epoch was made: a copy has another.
const INODE: &str = "inode";

#[derive(Debug, Error)]
pub enum OpenError {
    #[error("the state {0} is open in another process; stop that one first, or give this broker a file of its own")]
    InUse(PathBuf),
    #[error("the state {path} is open to other users (mode {mode:04o}); run: chmod 600 {path}")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{0} is not Keyferry's state; name another path, and a new file is created there")]
    Foreign(PathBuf),
    #[error("the state {path} has format {found}, and this broker knows {FORMAT}; use the release that wrote it")]
    Format { path: PathBuf, found: u64 },
    #[error("the state {0} is damaged; restore it from a backup")]
    Damaged(PathBuf, #[source] Box<FileError>),
    #[error(
        "the state {0} cannot be opened; its directory has to exist, be writable for the broker's user and have room"
    )]
    Io(PathBuf, #[source] io::Error),
    #[error("the system gave no random bytes for a new epoch")]
    Random,
}

/// Why the file could not be worked with.
#[derive(Debug, Error)]
pub enum FileError {
    #[error("the state's file failed")]
    Redb(#[source] Box<redb::Error>),
    #[error("the state's file could not be opened again after a disk error")]
    Open(#[source] Box<OpenError>),
    #[error("the state's file was replaced by another one while the broker ran; restart the broker")]
    Replaced,
    #[error("the state's file holds something that no release wrote; restore it from a backup")]
    Content,
    #[error("the state's file is closed")]
    Closed,
}

/// The open file. After a disk error redb refuses all further work until the file is opened anew, so that is done here.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    current: Mutex<Current>,
    epoch: Epoch,
    oldest: AtomicU64,
    failing: Mutex<Option<String>>,
    /// Absent when the file is only looked at.
    mark: Option<Mark>,
}

enum Current {
    Open(Arc<Database>),
    Shown(Arc<Readable>),
    Failed,
    Closed,
}

pub(super) type Readable = dyn ReadableDatabase + Send + Sync;

impl StateFile {
    pub(super) fn open(path: &Path) -> Result<(Self, Revision), OpenError> {
        let (database, inode) = open_database(path, true)?;
        let (mark, seen) = Mark::open(path).map_err(|error| OpenError::Io(path.into(), error))?;
        let found = read_header(path, &database)?;
        let header = match found {
            Some(header) if header.continues(seen, inode) => header,
            found => {
                if let Some(header) = &found {
                    tracing::warn!(
                        epoch = %header.epoch, revision = %header.revision,
                        "the state was moved, or an old copy was restored: watchers are told to begin anew"
                    );
                }
                let header = renewed(found, seen, inode)?;
                write_header(&database, &header).map_err(|error| damaged_or_io(path, error))?;
                header
            }
        };
        let file = Self::new(path, Current::Open(Arc::new(database)), &header, Some(mark));
        file.note(header.revision);
        Ok((file, header.revision))
    }

    pub(super) fn inspect(path: &Path) -> Result<(Self, Revision), OpenError> {
        let database = open_to_look(path)?;
        let header = read_header(path, &*database)?.ok_or_else(|| OpenError::Foreign(path.into()))?;
        Ok((Self::new(path, Current::Shown(database), &header, None), header.revision))
    }

    fn new(path: &Path, current: Current, header: &Header, mark: Option<Mark>) -> Self {
        Self {
            path: path.into(),
            current: Mutex::new(current),
            epoch: header.epoch,
            oldest: AtomicU64::new(header.oldest),
            failing: Mutex::default(),
            mark,
        }
    }

    /// The file, opened anew if a disk error closed it.
    pub(super) fn database(&self) -> Result<Arc<Database>, FileError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Current::Open(database) => return Ok(Arc::clone(database)),
            Current::Shown(_) | Current::Closed => return Err(FileError::Closed),
            Current::Failed => {}
        }
        let reopen = || {
            let (database, _) = open_database(&self.path, false)?;
            let header = read_header(&self.path, &database)?;
            Ok((database, header.is_some_and(|header| header.epoch == self.epoch)))
        };
        let (database, is_same) = reopen().map_err(|error| FileError::Open(Box::new(error)))?;
        if !is_same {
            return Err(FileError::Replaced);
        }
        let database = Arc::new(database);
        *current = Current::Open(Arc::clone(&database));
        Ok(database)
    }

    pub(super) fn readable(&self) -> Result<Arc<Readable>, FileError> {
        if let Current::Shown(database) = &*self.current.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Arc::clone(database));
        }
        Ok(self.database()?)
    }

    /// Does one piece of work with the file. What fails is shown in the status until something succeeds.
    pub(super) fn attempt<T>(&self, work: impl FnOnce(&Self) -> Result<T, FileError>) -> Result<T, StateError> {
        let result = work(self);
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(value) => {
                *failing = None;
                Ok(value)
            }
            Err(error) => {
                *failing = Some(error.to_string());
                drop(failing);
                if error.closes_file() {
                    let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
                    if matches!(*current, Current::Open(_)) {
                        *current = Current::Failed;
                    }
                }
                Err(StateError::unavailable("its file failed", error))
            }
        }
    }

    /// The history was committed up to here.
    pub(super) fn note(&self, revision: Revision) {
        let Some(mark) = &self.mark else { return };
        if let Err(error) = mark.note(Seen { epoch: self.epoch, revision }) {
            tracing::warn!(%error, "the state's mark cannot be written; a restored old copy may go unnoticed");
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn oldest(&self) -> Revision {
        Revision::new(self.oldest.load(Ordering::Relaxed))
    }

    pub(super) fn set_oldest(&self, oldest: u64) {
        self.oldest.store(oldest, Ordering::Relaxed);
    }

    pub(super) fn failing(&self) -> Option<String> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The lock is let go once those who still read are done.
    pub(super) fn close(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Current::Closed;
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open(_) => "Open",
            Self::Shown(_) => "Shown",
            Self::Failed => "Failed",
            Self::Closed => "Closed",
        })
    }
}

impl FileError {
    /// Whether the file has to be opened anew before anything works again.
    fn closes_file(&self) -> bool {
        matches!(self, Self::Redb(error) if matches!(
            **error,
            redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_)
        ))
    }
}

impl<E: Into<redb::Error>> From<E> for FileError {
    fn from(error: E) -> Self {
        Self::Redb(Box::new(error.into()))
    }
}

struct Header {
    epoch: Epoch,
    inode: u64,
    revision: Revision,
    oldest: u64,
}

impl Header {
    fn continues(&self, seen: Option<Seen>, inode: u64) -> bool {
        self.inode == inode && seen.is_some_and(|seen| seen.epoch == self.epoch && seen.revision <= self.revision)
    }
}

/// A new epoch. Its revisions go on from whatever was seen, so that no number is given twice on this machine.
fn renewed(found: Option<Header>, seen: Option<Seen>, inode: u64) -> Result<Header, OpenError> {
    let seen = seen.map(|seen| seen.revision).unwrap_or_default();
    let epoch = Epoch::random().map_err(|_| OpenError::Random)?;
    let revision = seen.max(found.as_ref().map(|found| found.revision).unwrap_or_default());
    let oldest = found.map_or(revision.next().get(), |found| found.oldest);
    Ok(Header { epoch, inode, revision, oldest })
}

fn read_header(path: &Path, database: &Readable) -> Result<Option<Header>, OpenError> {
    let read = || -> Result<Option<(u64, Option<Header>)>, FileError> {
        let transaction = database.begin_read()?;
        // A file without any table is new, or was left by a crash before its first commit.
        if transaction.list_tables()?.next().is_none() {
            return Ok(None);
        }
        let table = rows::header(&transaction)?;
        let format = rows::number(&table, FORMAT_ROW)?;
        if format != FORMAT {
            return Ok(Some((format, None)));
        }
        let epoch = table.get(EPOCH)?.and_then(|row| Epoch::parse(str::from_utf8(row.value()).ok()?));
        Ok(Some((
            format,
            Some(Header {
                epoch: epoch.ok_or(FileError::Content)?,
                inode: rows::number(&table, INODE)?,
                revision: Revision::new(rows::number(&table, REVISION)?),
                oldest: rows::number(&table, OLDEST)?,
            }),
        )))
    };
    match read() {
        Ok(None) => Ok(None),
        Ok(Some((_, Some(header)))) => Ok(Some(header)),
        Ok(Some((found, None))) => Err(OpenError::Format { path: path.into(), found }),
        Err(FileError::Redb(error)) if matches!(*error, redb::Error::TableDoesNotExist(_)) => {
            Err(OpenError::Foreign(path.into()))
        }
        Err(error) => Err(damaged_or_io(path, error)),
    }
}

fn write_header(database: &Database, header: &Header) -> Result<(), FileError> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(HEADER)?;
        table.insert(FORMAT_ROW, &FORMAT.to_le_bytes()[..])?;
        table.insert(EPOCH, header.epoch.to_string().as_bytes())?;
        table.insert(INODE, &header.inode.to_le_bytes()[..])?;
        table.insert(REVISION, &header.revision.get().to_le_bytes()[..])?;
        table.insert(OLDEST, &header.oldest.to_le_bytes()[..])?;
        transaction.open_table(RECORDS)?;
        transaction.open_table(HISTORY)?;
    }
    Ok(transaction.commit()?)
}

/// With its inode number.
fn open_database(path: &Path, create: bool) -> Result<(Database, u64), OpenError> {
    let io = |error| OpenError::Io(path.into(), error);
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => create_file(path).map_err(io)?,
        Err(error) => return Err(io(error)),
    };
    let metadata = file.metadata().map_err(io)?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(OpenError::Exposed { path: path.into(), mode });
    }
    let opened =
        Blocks::new(file).and_then(|file| Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(file));
    match opened {
        Ok(database) => Ok((database, metadata.ino())),
        Err(error) => Err(not_opened(path, error)),
    }
}

fn open_to_look(path: &Path) -> Result<Arc<Readable>, OpenError> {
    match Builder::new().set_cache_size(CACHE_BYTES).open_read_only(path) {
        Ok(database) => Ok(Arc::new(database)),
        // Its broker was killed, and redb reads it only once it is repaired, as the next broker would: no record changes.
        Err(DatabaseError::RepairAborted) => Ok(Arc::new(open_database(path, false)?.0)),
        Err(error) => Err(not_opened(path, error)),
    }
}

fn not_opened(path: &Path, error: DatabaseError) -> OpenError {
    if matches!(error, DatabaseError::DatabaseAlreadyOpen) {
        return OpenError::InUse(path.into());
    }
    // redb's answer to a file that does not begin as its own do.
    if let DatabaseError::Storage(StorageError::Io(error)) = &error
        && error.kind() == io::ErrorKind::InvalidData
    {
        return OpenError::Foreign(path.into());
    }
    damaged_or_io(path, error.into())
}

fn damaged_or_io(path: &Path, error: FileError) -> OpenError {
    if let FileError::Redb(redb) = error {
        return if let redb::Error::Io(error) = *redb {
            OpenError::Io(path.into(), error)
        } else {
            OpenError::Damaged(path.into(), Box::new(FileError::Redb(redb)))
        };
    }
    OpenError::Damaged(path.into(), Box::new(error))
}

/// Its name is durable when it returns.
fn create_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()?;
    Ok(file)
}
