//! The state as the rest of the broker uses it: typed records on whatever keeps their bytes.

use std::sync::Arc;

use super::failure::StateError;
use super::key::{Key, Prefix};
use super::leadership::Leadership;
use super::quarantine::Quarantine;
use super::record::{self, Record};
use super::same_history::SameHistory;
use super::store::{Entry, Epoch, ListPage, Revision, Status, Store};
use super::txn::{Outcome, Txn, Write};
use super::watch::{Change, Watch};

#[derive(Clone, Debug)]
pub struct State {
    store: Arc<dyn Store>,
    quarantine: Arc<Quarantine>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<R> {
    pub key: Key,
    pub record: R,
    /// Of the transaction that wrote it: what [`super::Condition::Unchanged`] wants.
    pub revision: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<R> {
    /// Without those that cannot be read.
    pub records: Vec<Stored<R>>,
    /// Where the next page begins; absent on the last one.
    pub next: Option<Key>,
    pub revision: Revision,
}

impl State {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, quarantine: Arc::default() }
    }

    pub async fn get<R: Record>(&self, key: &Key) -> Result<Option<Stored<R>>, StateError> {
        let Some(entry) = self.store.get(key).await? else {
            self.quarantine.clear(key);
            return Ok(None);
        };
        self.read(entry).map(Some)
    }

    /// Records in order of their keys. An unreadable one is counted and left out.
    pub async fn list<R: Record>(&self, prefix: &Prefix, page: ListPage) -> Result<Page<R>, StateError> {
        let listing = self.store.list(prefix, page).await?;
        let next = listing.entries.last().filter(|_| listing.more).map(|entry| entry.key.clone());
        let records = listing.entries.into_iter().filter_map(|entry| self.read(entry).ok()).collect();
        Ok(Page { records, next, revision: listing.revision })
    }

    pub async fn commit(&self, txn: Txn) -> Result<Outcome, StateError> {
        txn.check()?;
        let written: Vec<Key> = if self.quarantine.count() == 0 {
            Vec::new()
        } else {
            txn.writes().iter().map(Write::key).cloned().collect()
        };
        let outcome = self.store.txn(txn).await?;
        if matches!(outcome, Outcome::Committed(_)) {
            written.iter().for_each(|key| self.quarantine.clear(key));
        }
        Ok(outcome)
    }

    /// Every change from `from` on, that revision's included, of the history that `from` is of.
    pub fn watch(&self, epoch: Epoch, prefix: Prefix, from: Revision) -> Watch {
        let (store, watch) = (Arc::clone(&self.store), self.store.watch(prefix, from));
        Watch::new(SameHistory { store, epoch, watch })
    }

    /// The record after a change that was watched; `None` where it was deleted or cannot be read.
    pub fn changed<R: Record>(&self, change: &Change) -> Option<R> {
        change.record()?.inspect_err(|fault| self.quarantine.add(&change.key, *fault)).ok()
    }

    pub fn leadership(&self) -> Leadership {
        self.store.leadership()
    }

    pub fn status(&self) -> Status {
        self.store.status()
    }

    pub fn quarantined(&self) -> usize {
        self.quarantine.count()
    }

    pub async fn close(&self) {
        self.store.close().await;
    }

    fn read<R: Record>(&self, entry: Entry) -> Result<Stored<R>, StateError> {
        match record::decode(&entry.value) {
            Ok(record) => {
                self.quarantine.clear(&entry.key);
                Ok(Stored { key: entry.key, record, revision: entry.revision })
            }
            Err(fault) => {
                self.quarantine.add(&entry.key, fault);
                Err(StateError::Unreadable(entry.key, fault))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::clock::SystemClock;
    use crate::state::record::Kind;
    use crate::state::watch::Watched;
    use crate::state::{Embedded, EmbeddedSettings};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Thing {
        name: String,
    }

    static THINGS: Kind = Kind { name: "things", upgrades: &[] };

    impl Record for Thing {
        const KIND: &'static Kind = &THINGS;
    }

    #[tokio::test]
    async fn an_unreadable_record_is_left_out_and_counted_until_it_is_written_anew_or_gone() {
        let directory = tempfile::tempdir().unwrap();
        let settings = EmbeddedSettings {
            file: directory.path().join("state.redb"),
            history_age: Duration::from_secs(60),
            history_changes: 1000,
        };
        let state = State::new(Arc::new(Embedded::open(&settings, "node", Arc::new(SystemClock)).unwrap()));
        let [good, bad, worse] = ["a", "b", "c"].map(|id| Key::new(&THINGS, &[id]).unwrap());
        let thing = Thing { name: "x".into() };
        let written = state.commit(Txn::new().put(&good, &thing).put_bytes(&bad, "?").put_bytes(&worse, "\x01?")).await;
        let Ok(Outcome::Committed(revision)) = written else { panic!("{written:?}") };
        assert_eq!(state.quarantined(), 0, "nobody met them yet");

        let page = state.list::<Thing>(&Prefix::all(), ListPage { after: None, size: 10 }).await.unwrap();
        let names: Vec<_> = page.records.iter().map(|stored| (&stored.key, &stored.record)).collect();
        assert_eq!((names, page.next), (vec![(&good, &thing)], None));
        assert_eq!(state.quarantined(), 2);
        assert!(matches!(state.get::<Thing>(&bad).await, Err(StateError::Unreadable(key, _)) if key == bad));
        let mut watch = state.watch(state.status().epoch.unwrap(), Prefix::all(), revision);
        let Ok(Watched::Batch(batch)) = watch.next().await else { panic!("no batch") };
        assert_eq!(batch.changes.iter().filter_map(|change| state.changed::<Thing>(change)).count(), 1);
        assert_eq!(state.quarantined(), 2, "met again, each is one still");

        let repaired = state.commit(Txn::new().put(&bad, &thing)).await;
        assert!(matches!(repaired, Ok(Outcome::Committed(_))));
        assert_eq!(state.quarantined(), 1);
        let deleted = state.commit(Txn::new().delete(&worse)).await;
        assert!(matches!(deleted, Ok(Outcome::Committed(_))));
        assert_eq!((state.get::<Thing>(&worse).await, state.quarantined()), (Ok(None), 0));
    }
}
