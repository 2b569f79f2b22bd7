//! The tables of the file, and reading the records in them. Blocking: the callers choose the thread.

use std::ops::Bound;

use bytes::Bytes;
use redb::{ReadOnlyTable, ReadTransaction, TableDefinition};

use super::file::{FileError, Readable};
use crate::state::key::{Key, Prefix};
use crate::state::store::{Entry, ListPage, Listing, Revision};

/// What the file says about itself.
pub(super) const HEADER: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keyferry-state");
/// key → the revision that wrote it, its value
pub(super) const RECORDS: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("records");
/// revision, place within it → when, key, the value unless it was deleted
pub(super) const HISTORY: TableDefinition<'_, (u64, u32), Past> = TableDefinition::new("history");
pub(super) type Past = (u64, &'static str, Option<&'static [u8]>);

/// A number of the header that changes with commits.
pub(super) const REVISION: &str = "revision";
/// The first revision that the history still holds whole.
pub(super) const OLDEST: &str = "oldest";

pub(super) fn get(database: &Readable, key: Key) -> Result<Option<Entry>, FileError> {
    let records = database.begin_read()?.open_table(RECORDS)?;
    let Some(row) = records.get(key.as_str())? else {
        return Ok(None);
    };
    let (revision, value) = row.value();
    let value = Bytes::copy_from_slice(value);
    drop(row);
    Ok(Some(Entry { key, value, revision: Revision::new(revision) }))
}

pub(super) fn list(database: &Readable, prefix: &Prefix, page: &ListPage) -> Result<Listing, FileError> {
    let transaction = database.begin_read()?;
    let revision = Revision::new(number(&header(&transaction)?, REVISION)?);
    let records = transaction.open_table(RECORDS)?;
    let from = page.after.as_ref().map_or(Bound::Included(prefix.as_str()), |after| {
        // A key of before the prefix must not widen the list.
        if after.as_str() < prefix.as_str() {
            Bound::Included(prefix.as_str())
        } else {
            Bound::Excluded(after.as_str())
        }
    });
    let (mut entries, size) = (Vec::new(), page.size());
    for row in records.range::<&str>((from, Bound::Unbounded))? {
        let (key, row) = row?;
        if !key.value().starts_with(prefix.as_str()) {
            break;
        }
        if entries.len() == size {
            return Ok(Listing { entries, more: true, revision });
        }
        let key = stored_key(key.value())?;
        let (written, value) = row.value();
        entries.push(Entry { key, value: Bytes::copy_from_slice(value), revision: Revision::new(written) });
    }
    Ok(Listing { entries, more: false, revision })
}

pub(super) fn header(transaction: &ReadTransaction) -> Result<ReadOnlyTable<&'static str, &'static [u8]>, FileError> {
    Ok(transaction.open_table(HEADER)?)
}

pub(super) fn number(
    header: &impl redb::ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<u64, FileError> {
    let row = header.get(name)?;
    let bytes = row.and_then(|row| row.value().try_into().ok());
    bytes.map(u64::from_le_bytes).ok_or(FileError::Content)
}

pub(super) fn stored_key(text: &str) -> Result<Key, FileError> {
    Key::parse(text).map_err(|_| FileError::Content)
}
