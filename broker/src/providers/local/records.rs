//! Secrets, versions and payloads as tables of the store's file. Blocking: the callers choose the thread.

use std::collections::BTreeMap;
use std::ops::Bound;

use redb::{ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction};
use thiserror::Error;

use super::file::{FileError, StoreFile};
use super::seal::{Binding, Opened, Sealer};
use crate::secrets::SecretBytes;

/// secret → created, newest version, labels as JSON
const SECRETS: TableDefinition<'_, &str, (u64, u64, &str)> = TableDefinition::new("secrets");
/// secret, version → created, enabled
const VERSIONS: TableDefinition<'_, (&str, u64), (u64, bool)> = TableDefinition::new("versions");
/// secret, version → sealed payload; apart from the versions, so that lists do not read past payloads
const PAYLOADS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("payloads");

pub(super) struct Records {
    pub(super) file: StoreFile,
    pub(super) sealer: Sealer,
}

#[derive(Debug, Error)]
pub(super) enum RecordError {
    #[error("no such secret")]
    NoSecret,
    #[error("no such version")]
    NoVersion,
    #[error("version {0} is disabled")]
    Disabled(u64),
    #[error("the record fails its integrity check")]
    Corrupt,
    #[error("the system gave no random bytes")]
    Random,
    #[error("the work on the record was cut short")]
    Stopped,
    #[error(transparent)]
    File(FileError),
}

impl From<FileError> for RecordError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl<E: Into<redb::Error>> From<E> for RecordError {
    fn from(error: E) -> Self {
        Self::File(FileError::from(error))
    }
}

/// Which version is meant.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    Newest,
    Number(u64),
}

#[derive(Clone, Copy)]
pub(super) struct VersionRow {
    pub(super) number: u64,
    pub(super) created: u64,
    pub(super) enabled: bool,
}

pub(super) struct SecretRow {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) labels: BTreeMap<String, String>,
}

/// Some rows, and whether more follow.
pub(super) type Rows<T> = (Vec<T>, bool);

impl Records {
    pub(super) fn fetch(&self, secret: &str, wanted: Wanted) -> Result<(VersionRow, Opened), RecordError> {
        self.read(|transaction| {
            let row = find(transaction, secret, wanted)?;
            if !row.enabled {
                return Err(RecordError::Disabled(row.number));
            }
            let payloads = table(transaction, PAYLOADS)?.ok_or(RecordError::Corrupt)?;
            let sealed = payloads.get((secret, row.number))?.ok_or(RecordError::Corrupt)?;
            let binding = Binding { secret, version: row.number, created: row.created };
            let opened = self.sealer.open(sealed.value(), binding).ok_or(RecordError::Corrupt)?;
            Ok((row, opened))
        })
    }

    pub(super) fn describe(&self, secret: &str) -> Result<SecretRow, RecordError> {
        self.read(|transaction| {
            let secrets = table(transaction, SECRETS)?.ok_or(RecordError::NoSecret)?;
            let row = secrets.get(secret)?.ok_or(RecordError::NoSecret)?;
            secret_row(secret, row.value())
        })
    }

    /// Secrets whose names follow `after`, in order.
    pub(super) fn list(&self, after: Option<&str>, size: usize) -> Result<Rows<SecretRow>, RecordError> {
        self.read(|transaction| {
            let Some(secrets) = table(transaction, SECRETS)? else {
                return Ok((Vec::new(), false));
            };
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut rows = Vec::new();
            for entry in secrets.range::<&str>((from, Bound::Unbounded))? {
                if rows.len() == size {
                    return Ok((rows, true));
                }
                let (id, row) = entry?;
                rows.push(secret_row(id.value(), row.value())?);
            }
            Ok((rows, false))
        })
    }

    /// Versions of one secret below the number `before`, the newest first.
    pub(super) fn versions(
        &self,
        secret: &str,
        before: Option<u64>,
        size: usize,
    ) -> Result<Rows<VersionRow>, RecordError> {
        self.read(|transaction| {
            let newest = newest(transaction, secret)?;
            let versions = table(transaction, VERSIONS)?.ok_or(RecordError::Corrupt)?;
            let end = before.unwrap_or(newest.saturating_add(1));
            let mut rows = Vec::new();
            for entry in versions.range((secret, 0)..(secret, end))?.rev() {
                if rows.len() == size {
                    return Ok((rows, true));
                }
                let (key, row) = entry?;
                let (created, enabled) = row.value();
                rows.push(VersionRow { number: key.value().1, created, enabled });
            }
            Ok((rows, false))
        })
    }

    /// On disk when it returns. With `creation`, a secret that does not exist is created with these labels.
    pub(super) fn add(
        &self,
        secret: &str,
        payload: &SecretBytes,
        creation: Option<&BTreeMap<String, String>>,
        now: u64,
    ) -> Result<VersionRow, RecordError> {
        self.write(|transaction| {
            let mut secrets = transaction.open_table(SECRETS)?;
            let known = secrets.get(secret)?.map(|row| {
                let (created, newest, labels) = row.value();
                (created, newest, labels.to_owned())
            });
            let (created, newest, labels) = match (known, creation) {
                (Some(known), _) => known,
                (None, Some(labels)) => (now, 0, labels_text(labels)?),
                (None, None) => return Err(RecordError::NoSecret),
            };
            let row = VersionRow { number: newest + 1, created: now, enabled: true };
            let binding = Binding { secret, version: row.number, created: row.created };
            let sealed = self.sealer.seal(payload, binding).map_err(|_| RecordError::Random)?;
            secrets.insert(secret, (created, row.number, labels.as_str()))?;
            put_version(transaction, secret, row)?;
            let mut payloads = transaction.open_table(PAYLOADS)?;
            payloads.insert((secret, row.number), sealed.as_slice())?;
            Ok(Change::Made(row))
        })
    }

    /// And whether it was otherwise before.
    pub(super) fn set_enabled(
        &self,
        secret: &str,
        wanted: Wanted,
        enabled: bool,
    ) -> Result<(VersionRow, bool), RecordError> {
        self.write(|transaction| {
            let row = find_for_write(transaction, secret, wanted)?;
            if row.enabled == enabled {
                return Ok(Change::Unneeded((row, false)));
            }
            let row = VersionRow { enabled, ..row };
            put_version(transaction, secret, row)?;
            Ok(Change::Made((row, true)))
        })
    }

    pub(super) fn label(&self, secret: &str, labels: BTreeMap<String, String>) -> Result<SecretRow, RecordError> {
        self.write(|transaction| {
            let mut secrets = transaction.open_table(SECRETS)?;
            let (created, newest) = {
                let row = secrets.get(secret)?.ok_or(RecordError::NoSecret)?;
                (row.value().0, row.value().1)
            };
            secrets.insert(secret, (created, newest, labels_text(&labels)?.as_str()))?;
            Ok(Change::Made(SecretRow { id: secret.to_owned(), created, labels }))
        })
    }

    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, RecordError>) -> Result<T, RecordError> {
        self.with_file(|database| work(&database.begin_read()?))
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<Change<T>, RecordError>,
    ) -> Result<T, RecordError> {
        self.with_file(|database| {
            let transaction = database.begin_write()?;
            match work(&transaction)? {
                // A transaction that is dropped leaves no trace, and costs no sync.
                Change::Unneeded(found) => Ok(found),
                Change::Made(made) => {
                    // Synced: redb's default durability is immediate.
                    transaction.commit()?;
                    Ok(made)
                }
            }
        })
    }

    fn with_file<T>(&self, work: impl FnOnce(&redb::Database) -> Result<T, RecordError>) -> Result<T, RecordError> {
        let database = self.file.database()?;
        let result = work(&database);
        if let Err(RecordError::File(error)) = &result
            && error.closes_file()
        {
            self.file.retire(&database);
        }
        result
    }
}

enum Change<T> {
    Made(T),
    Unneeded(T),
}

/// A table of a store into which something was ever written.
fn table<K: redb::Key + 'static, V: redb::Value + 'static>(
    transaction: &ReadTransaction,
    definition: TableDefinition<'_, K, V>,
) -> Result<Option<redb::ReadOnlyTable<K, V>>, FileError> {
    match transaction.open_table(definition) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn newest(transaction: &ReadTransaction, secret: &str) -> Result<u64, RecordError> {
    let secrets = table(transaction, SECRETS)?.ok_or(RecordError::NoSecret)?;
    let row = secrets.get(secret)?.ok_or(RecordError::NoSecret)?;
    Ok(row.value().1)
}

fn find(transaction: &ReadTransaction, secret: &str, wanted: Wanted) -> Result<VersionRow, RecordError> {
    let newest = newest(transaction, secret)?;
    let versions = table(transaction, VERSIONS)?.ok_or(RecordError::Corrupt)?;
    version_row(&versions, secret, newest, wanted)
}

fn find_for_write(transaction: &WriteTransaction, secret: &str, wanted: Wanted) -> Result<VersionRow, RecordError> {
    let secrets = transaction.open_table(SECRETS)?;
    let newest = secrets.get(secret)?.ok_or(RecordError::NoSecret)?.value().1;
    version_row(&transaction.open_table(VERSIONS)?, secret, newest, wanted)
}

fn version_row(
    versions: &impl ReadableTable<(&'static str, u64), (u64, bool)>,
    secret: &str,
    newest: u64,
    wanted: Wanted,
) -> Result<VersionRow, RecordError> {
    let number = match wanted {
        Wanted::Newest => newest,
        Wanted::Number(number) => number,
    };
    let row = versions.get((secret, number))?.ok_or(RecordError::NoVersion)?;
    let (created, enabled) = row.value();
    Ok(VersionRow { number, created, enabled })
}

fn put_version(transaction: &WriteTransaction, secret: &str, row: VersionRow) -> Result<(), FileError> {
    transaction.open_table(VERSIONS)?.insert((secret, row.number), (row.created, row.enabled))?;
    Ok(())
}

fn labels_text(labels: &BTreeMap<String, String>) -> Result<String, RecordError> {
    serde_json::to_string(labels).map_err(|_| RecordError::Corrupt)
}

fn secret_row(id: &str, (created, _, labels): (u64, u64, &str)) -> Result<SecretRow, RecordError> {
    let labels = serde_json::from_str(labels).map_err(|_| RecordError::Corrupt)?;
    Ok(SecretRow { id: id.to_owned(), created, labels })
}
