//! A watch that reads the file's history.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::file::{FileError, Readable, StateFile};
use super::rows::{self, HISTORY, OLDEST, REVISION, stored_key};
use crate::state::failure::StateError;
use crate::state::key::Prefix;
use crate::state::store::Revision;
use crate::state::watch::{Batch, Change, Source, WatchEnd, Watched};

/// What one read takes into memory, rounded up to whole transactions.
const MOST_CHANGES: usize = 1000;
const MOST_BYTES: usize = 4 << 20;

pub(super) struct HistoryReader {
    file: Arc<StateFile>,
    prefix: Prefix,
    /// The first revision that has not been read.
    next: Revision,
    revisions: watch::Receiver<Revision>,
    read: VecDeque<Watched>,
}

impl HistoryReader {
    pub(super) fn new(
        file: Arc<StateFile>,
        prefix: Prefix,
        next: Revision,
        revisions: watch::Receiver<Revision>,
    ) -> Self {
        Self { file, prefix, next, revisions, read: VecDeque::new() }
    }

    /// Nothing is kept of a read that was given up, so that the next one repeats it.
    async fn read_on(&mut self) -> Result<(), WatchEnd> {
        let (file, prefix, next) = (Arc::clone(&self.file), self.prefix.clone(), self.next);
        let part = spawn_blocking(move || file.attempt(|file| read(&*file.readable()?, &prefix, next)))
            .await
            .map_err(|error| StateError::unavailable("reading it was cut short", error))??;
        match part {
            Part::Compacted { oldest } => return Err(WatchEnd::Compacted { oldest }),
            Part::Read { batches, until } if until >= self.next => {
                self.next = until.next();
                let told = batches.last().is_some_and(|batch| batch.revision == until);
                self.read.extend(batches.into_iter().map(Watched::Batch));
                self.read.extend((!told).then_some(Watched::Progress(until)));
            }
            Part::Read { .. } => {
                let closed = |_| StateError::Unavailable("it was closed", None);
                self.revisions.changed().await.map_err(closed)?;
            }
        }
        Ok(())
    }
}

impl Source for HistoryReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Watched, WatchEnd>> {
        Box::pin(async move {
            loop {
                if let Some(watched) = self.read.pop_front() {
                    return Ok(watched);
                }
                // Before reading, so that a commit during it is not slept through.
                self.revisions.borrow_and_update();
                self.read_on().await?;
            }
        })
    }
}

enum Part {
    Compacted { oldest: Revision },
    Read { batches: Vec<Batch>, until: Revision },
}

fn read(database: &Readable, prefix: &Prefix, from: Revision) -> Result<Part, FileError> {
    let transaction = database.begin_read()?;
    let header = rows::header(&transaction)?;
    let oldest = Revision::new(rows::number(&header, OLDEST)?);
    if from < oldest {
        return Ok(Part::Compacted { oldest });
    }
    let mut until = Revision::new(rows::number(&header, REVISION)?);
    let mut batches: Vec<Batch> = Vec::new();
    let (mut changes, mut bytes, mut at) = (0, 0, from);
    for row in transaction.open_table(HISTORY)?.range((from.get(), 0)..)? {
        let (place, row) = row?;
        let revision = Revision::new(place.value().0);
        if revision != at && (changes >= MOST_CHANGES || bytes >= MOST_BYTES) {
            until = at;
            break;
        }
        let (_, key, value) = row.value();
        (at, changes, bytes) = (revision, changes + 1, bytes + value.map_or(0, <[u8]>::len));
        if !key.starts_with(prefix.as_str()) {
            continue;
        }
        let change = Change { key: stored_key(key)?, value: value.map(Bytes::copy_from_slice) };
        match batches.last_mut() {
            Some(batch) if batch.revision == revision => batch.changes.push(change),
            _ => batches.push(Batch { revision, changes: vec![change] }),
        }
    }
    Ok(Part::Read { batches, until })
}
