//! The store's one file: who may open it, whose key it takes, and how it comes back after a disk error.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::rand;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, StorageError, TableDefinition};
use thiserror::Error;

use super::key::{LocalKey, sync_directory};
use super::seal::{FileId, KeyId, Sealer};

/// The kernel caches the file as well; what redb keeps on top counts towards the broker's own memory.
const CACHE_BYTES: usize = 4 << 20;

const FORMAT: u8 = 1;
const HEADER: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keyferry-local-store");

#[derive(Debug, Error)]
pub enum OpenError {
    #[error("the store {0} is open in another process; stop that one first, or give this one a store of its own")]
    InUse(PathBuf),
    #[error("the store {path} is open to other users (mode {mode:04o}); run: chmod 600 {path}")]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "the store {path} was written with another key: it wants the key with id {expected}, and the key file given \
         has id {given}; put back the key file that belongs to this store"
    )]
    WrongKey { path: PathBuf, expected: String, given: String },
    #[error("{0} is not a Keyferry store; name another path, and a new store is created there")]
    Foreign(PathBuf),
    #[error("the store {path} has format {found}, and this broker knows {FORMAT}; use the release that wrote it")]
    Format { path: PathBuf, found: String },
    #[error("the store {0} is damaged; restore it from a backup")]
    Damaged(PathBuf, #[source] Box<redb::Error>),
    #[error(
        "the store {0} cannot be opened; its directory has to exist, be writable for the broker's user and have room"
    )]
    Io(PathBuf, #[source] io::Error),
    #[error("the system gave no random bytes for a new store")]
    Random,
}

/// The open file. After a disk error redb refuses all further work until the file is opened anew, so that is done here.
pub(super) struct StoreFile {
    current: Mutex<Option<Arc<Database>>>,
    open: Opener,
    id: FileId,
}

pub(super) type Opener = Box<dyn Fn() -> Result<Database, OpenError> + Send + Sync>;

impl StoreFile {
    /// Opens the store, or creates it where there is none.
    pub(super) fn open(path: &Path, key: &LocalKey) -> Result<(Self, Sealer), OpenError> {
        let reopened: PathBuf = path.into();
        Self::open_with(path, key, Box::new(move || open_database(&reopened)))
    }

    pub(super) fn open_with(path: &Path, key: &LocalKey, open: Opener) -> Result<(Self, Sealer), OpenError> {
        let database = open()?;
        let damaged = |error| damaged_or_io(path, error);
        let header = match read_header(&database).map_err(damaged)? {
            Header::Absent => {
                let (header, sealer) = new_header(key)?;
                write_header(&database, &header).map_err(damaged)?;
                return Ok((Self { current: Mutex::new(Some(Arc::new(database))), open, id: header.file }, sealer));
            }
            Header::Present(header) => header,
            Header::Foreign => return Err(OpenError::Foreign(path.into())),
            Header::Unknown(found) => {
                return Err(OpenError::Format { path: path.into(), found });
            }
        };
        let sealer = Sealer::new(key, &header.file).map_err(|_| OpenError::Random)?;
        if sealer.key_id != header.key {
            let (expected, given) = (hex(&header.key), hex(&sealer.key_id));
            return Err(OpenError::WrongKey { path: path.into(), expected, given });
        }
        Ok((Self { current: Mutex::new(Some(Arc::new(database))), open, id: header.file }, sealer))
    }

    /// The file, opened anew if a disk error closed it.
    pub(super) fn database(&self) -> Result<Arc<Database>, FileError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = &*current {
            return Ok(Arc::clone(database));
        }
        let database = (self.open)().map_err(|error| FileError::Open(Box::new(error)))?;
        match read_header(&database)? {
            Header::Present(header) if header.file == self.id => {}
            Header::Present(_) | Header::Absent | Header::Foreign | Header::Unknown(_) => {
                return Err(FileError::Replaced);
            }
        }
        Ok(Arc::clone(current.insert(Arc::new(database))))
    }

    /// Lets go of a database that met a disk error, once: its successor may be in place already.
    pub(super) fn retire(&self, failed: &Arc<Database>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|database| Arc::ptr_eq(database, failed)) {
            *current = None;
        }
    }
}

/// Why the file could not be worked with.
#[derive(Debug, Error)]
pub(super) enum FileError {
    #[error("the store's file failed")]
    Redb(#[source] Box<redb::Error>),
    #[error("the store's file could not be opened again after a disk error")]
    Open(#[source] Box<OpenError>),
    #[error("the store's file was replaced by another one while the broker ran; restart the broker")]
    Replaced,
}

impl FileError {
    /// Whether the file has to be opened anew before anything works again.
    pub(super) fn closes_file(&self) -> bool {
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

enum Header {
    Absent,
    Present(FileHeader),
    Foreign,
    Unknown(String),
}

struct FileHeader {
    file: FileId,
    key: KeyId,
}

fn new_header(key: &LocalKey) -> Result<(FileHeader, Sealer), OpenError> {
    let mut file = FileId::default();
    rand::fill(&mut file).map_err(|_| OpenError::Random)?;
    let sealer = Sealer::new(key, &file).map_err(|_| OpenError::Random)?;
    Ok((FileHeader { file, key: sealer.key_id }, sealer))
}

fn read_header(database: &Database) -> Result<Header, redb::Error> {
    let transaction = database.begin_read()?;
    // A file without any table is new, or was left by a crash before its first commit.
    if transaction.list_tables()?.next().is_none() {
        return Ok(Header::Absent);
    }
    let table = match transaction.open_table(HEADER) {
        Ok(table) => table,
        Err(redb::TableError::Storage(error)) => return Err(error.into()),
        Err(_) => return Ok(Header::Foreign),
    };
    match table.get("format")? {
        Some(format) if format.value() == [FORMAT] => {}
        Some(format) => return Ok(Header::Unknown(hex(format.value()))),
        None => return Ok(Header::Foreign),
    }
    let (file, key) = (table.get("file")?, table.get("key")?);
    let file = file.as_ref().and_then(|value| value.value().try_into().ok());
    let key = key.as_ref().and_then(|value| value.value().try_into().ok());
    Ok(file.zip(key).map_or(Header::Foreign, |(file, key)| Header::Present(FileHeader { file, key })))
}

fn write_header(database: &Database, header: &FileHeader) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(HEADER)?;
        table.insert("format", &[FORMAT][..])?;
        table.insert("file", &header.file[..])?;
        table.insert("key", &header.key[..])?;
    }
    transaction.commit()?;
    Ok(())
}

fn open_database(path: &Path) -> Result<Database, OpenError> {
    let io = |error| OpenError::Io(path.into(), error);
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => create_file(path).map_err(io)?,
        Err(error) => return Err(io(error)),
    };
    let mode = file.metadata().map_err(io)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(OpenError::Exposed { path: path.into(), mode });
    }
    match Builder::new().set_cache_size(CACHE_BYTES).create_file(file) {
        Ok(database) => Ok(database),
        Err(DatabaseError::DatabaseAlreadyOpen) => Err(OpenError::InUse(path.into())),
        // redb's answer to a file that does not begin as its own do.
        Err(DatabaseError::Storage(StorageError::Io(error))) if error.kind() == io::ErrorKind::InvalidData => {
            Err(OpenError::Foreign(path.into()))
        }
        Err(error) => Err(damaged_or_io(path, error.into())),
    }
}

fn damaged_or_io(path: &Path, error: redb::Error) -> OpenError {
    if let redb::Error::Io(error) = error {
        OpenError::Io(path.into(), error)
    } else {
        OpenError::Damaged(path.into(), Box::new(error))
    }
}

fn create_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    sync_directory(path)?;
    Ok(file)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
