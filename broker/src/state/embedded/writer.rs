//! The thread that commits.

use std::sync::Arc;

use redb::{Database, ReadableTable as _, ReadableTableMetadata as _, Table, WriteTransaction};
use tokio::sync::{mpsc, oneshot, watch};

use super::file::{FileError, StateFile};
use super::rows::{self, HEADER, HISTORY, OLDEST, Past, RECORDS, REVISION};
use crate::clock::SharedClock;
use crate::state::failure::StateError;
use crate::state::settings::EmbeddedSettings;
use crate::state::store::Revision;
use crate::state::txn::{Condition, Conflict, Outcome, Txn, Write};

/// Transactions that share one sync at most.
const GROUP: usize = 256;
/// Old history that one commit removes beyond what it adds, so that none of them takes long.
const REMOVED_BESIDES: usize = 256;

pub(super) type Answer = Result<Outcome, StateError>;

#[derive(Debug)]
pub(super) struct Request {
    pub(super) txn: Txn,
    pub(super) answer: oneshot::Sender<Answer>,
}

pub(super) struct Writer {
    file: Arc<StateFile>,
    clock: SharedClock,
    history_micros: u64,
    history_changes: u64,
    published: watch::Sender<Revision>,
}

/// What a group of transactions came to, before it is on disk.
struct Group {
    outcomes: Vec<Outcome>,
    revision: Revision,
    oldest: u64,
    changed: bool,
}

/// How far a group came that failed.
enum Stopped {
    /// Nothing of it is in the file.
    Before(FileError),
    /// All of it is in the file, or nothing.
    During(FileError),
}

impl<E: Into<FileError>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Before(error.into())
    }
}

impl Writer {
    pub(super) fn new(
        file: Arc<StateFile>,
        settings: &EmbeddedSettings,
        clock: SharedClock,
        published: watch::Sender<Revision>,
    ) -> Self {
        let history_micros = u64::try_from(settings.history_age.as_micros()).unwrap_or(u64::MAX);
        Self { file, clock, history_micros, history_changes: settings.history_changes, published }
    }

    /// Until nobody can ask any more.
    pub(super) fn run(self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(request) = requests.try_recv()
            {
                group.push(request);
            }
            self.serve(group);
        }
    }

    fn serve(&self, group: Vec<Request>) {
        let txns: Vec<&Txn> = group.iter().map(|request| &request.txn).collect();
        let mut planned = Vec::new();
        let done = self.file.attempt(|file| {
            let database = file.database()?;
            match self.commit(&database, &txns) {
                Ok(group) => Ok(group),
                Err(Stopped::Before(error)) => Err(error),
                Err(Stopped::During(error)) => {
                    planned.resize(txns.len(), Outcome::Unknown);
                    Err(error)
                }
            }
        });
        let answers: Vec<Answer> = match done {
            Ok(done) => {
                if done.changed {
                    self.file.set_oldest(done.oldest);
                    self.file.note(done.revision);
                    self.published.send_replace(done.revision);
                }
                done.outcomes.into_iter().map(Ok).collect()
            }
            Err(error) if planned.is_empty() => vec![Err(error); txns.len()],
            Err(error) => {
                tracing::error!(%error, "a commit of the state ended without saying whether it is on disk");
                planned.into_iter().map(Ok).collect()
            }
        };
        for (request, answer) in group.into_iter().zip(answers) {
            // Whoever no longer waits has its transaction all the same.
            let _ = request.answer.send(answer);
        }
    }

    fn commit(&self, database: &Database, txns: &[&Txn]) -> Result<Group, Stopped> {
        let transaction = database.begin_write().map_err(FileError::from)?;
        let group = self.apply(&transaction, txns)?;
        if group.changed {
            transaction.commit().map_err(|error| Stopped::During(error.into()))?;
        } else {
            transaction.abort().map_err(FileError::from)?;
        }
        Ok(group)
    }

    fn apply(&self, transaction: &WriteTransaction, txns: &[&Txn]) -> Result<Group, FileError> {
        let mut header = transaction.open_table(HEADER)?;
        let mut tables = Tables {
            records: transaction.open_table(RECORDS)?,
            history: transaction.open_table(HISTORY)?,
            now: self.clock.now().as_micros(),
        };
        let begun = Revision::new(rows::number(&header, REVISION)?);
        let mut oldest = rows::number(&header, OLDEST)?;
        let (mut revision, mut added) = (begun, 0);
        let mut outcomes = Vec::with_capacity(txns.len());
        for txn in txns {
            if let Some(conflict) = tables.conflict(txn)? {
                outcomes.push(Outcome::Conflict(conflict));
                continue;
            }
            let changes = tables.write(txn, revision.next())?;
            if changes > 0 {
                (revision, added) = (revision.next(), added + changes);
            }
            outcomes.push(Outcome::Committed(revision));
        }
        let changed = revision != begun;
        if changed {
            let before = tables.now.saturating_sub(self.history_micros);
            oldest = tables.forget(before, self.history_changes, added + REMOVED_BESIDES)?.unwrap_or(oldest);
            header.insert(REVISION, &revision.get().to_le_bytes()[..])?;
            header.insert(OLDEST, &oldest.to_le_bytes()[..])?;
        }
        Ok(Group { outcomes, revision, oldest, changed })
    }
}

struct Tables<'t> {
    records: Table<'t, &'static str, (u64, &'static [u8])>,
    history: Table<'t, (u64, u32), Past>,
    now: u64,
}

impl Tables<'_> {
    fn conflict(&self, txn: &Txn) -> Result<Option<Conflict>, FileError> {
        for condition in txn.conditions() {
            let key = match condition {
                Condition::Absent(key)
                | Condition::Present(key)
                | Condition::Unchanged(key, _)
                | Condition::WrittenBefore(key, _) => key,
                // Whoever has the file leads.
                Condition::Leads(_) => continue,
            };
            let found = self.records.get(key.as_str())?.map(|row| Revision::new(row.value().0));
            if !condition.holds(found) {
                return Ok(Some(Conflict::Key { key: key.clone(), found }));
            }
        }
        Ok(None)
    }

    /// How many changes it made.
    fn write(&mut self, txn: &Txn, revision: Revision) -> Result<usize, FileError> {
        let mut changes = 0;
        for write in txn.writes() {
            let key = write.key().as_str();
            let value = match write {
                Write::Put(_, value) => {
                    self.records.insert(key, (revision.get(), &**value))?;
                    Some(&**value)
                }
                Write::Delete(_) if self.records.remove(key)?.is_some() => None,
                Write::Delete(_) => continue,
            };
            self.history.insert((revision.get(), changes), (self.now, key, value))?;
            changes += 1;
        }
        Ok(usize::try_from(changes).unwrap_or(usize::MAX))
    }

    /// Removes what is too old or too much, a whole transaction at a time, and says what is the oldest then.
    fn forget(&mut self, before: u64, most: u64, at_once: usize) -> Result<Option<u64>, FileError> {
        let mut excess = self.history.len()?.saturating_sub(most);
        let (mut removed, mut last) = (0, None);
        loop {
            let Some((revision, time)) = self.first()? else { break };
            let unfinished = last == Some(revision);
            if !unfinished && (removed >= at_once || (excess == 0 && time >= before)) {
                break;
            }
            self.history.pop_first()?;
            (removed, excess, last) = (removed + 1, excess.saturating_sub(1), Some(revision));
        }
        Ok(last.map(|revision| revision + 1))
    }

    fn first(&self) -> Result<Option<(u64, u64)>, FileError> {
        Ok(self.history.first()?.map(|(place, row)| (place.value().0, row.value().0)))
    }
}
