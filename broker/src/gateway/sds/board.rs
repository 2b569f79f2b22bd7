//! How each resource is: what is published, what keeps a newer value back, and which Envoys refused what.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::resource::{Resource, ResourceName, Versions};
use crate::clock::Timestamp;
use crate::error::{Failure, Reason};
use crate::state::Position;

/// Of one resource; more are not told apart by anybody.
const MAX_REJECTIONS: usize = 100;

/// All resources. Clones share them.
#[derive(Clone, Debug)]
pub struct Board(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    entries: BTreeMap<ResourceName, Entry>,
    seats: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    resource: Resource,
    account: Mutex<Account>,
}

/// What is told of one resource.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// The last versions that were found good, and since when.
    pub good: Option<(Versions, Timestamp)>,
    /// How much of the log was known when those were read.
    as_of: Option<Position>,
    /// Why the newest value is not published.
    pub trouble: Option<(Reason, String)>,
    pub streams: usize,
    pub published: u64,
    pub accepted: u64,
    pub rejected: u64,
    /// Of open streams, by their seats.
    pub rejections: BTreeMap<u64, Rejection>,
}

/// A version that an Envoy refused.
#[derive(Clone, Debug)]
pub struct Rejection {
    pub caller: Arc<str>,
    pub node: String,
    pub version: String,
    pub why: String,
    pub at: Timestamp,
}

/// One stream's share in one resource. Dropped, the stream is done with it.
#[derive(Debug)]
pub struct Seat {
    board: Board,
    name: ResourceName,
    number: u64,
}

impl Board {
    pub fn new(resources: BTreeMap<ResourceName, Resource>) -> Self {
        let entry = |resource| Entry { resource, account: Mutex::default() };
        let entries = resources.into_iter().map(|(name, resource)| (name, entry(resource))).collect();
        Self(Arc::new(Inner { entries, seats: AtomicU64::new(0) }))
    }

    pub fn resource(&self, name: &str) -> Option<(&ResourceName, &Resource)> {
        self.0.entries.get_key_value(name).map(|(name, entry)| (name, &entry.resource))
    }

    pub fn all(&self) -> impl Iterator<Item = (&ResourceName, &Resource, Account)> {
        self.0.entries.iter().map(|(name, entry)| (name, &entry.resource, lock(entry).clone()))
    }

    /// The last versions that could be published.
    pub fn good(&self, name: &ResourceName) -> Option<Versions> {
        self.account(name)?.good.as_ref().map(|(versions, _)| versions.clone())
    }

    /// The newest value can be published, as it was read as of a place in the log. One stream's slow read does not take
    /// back what another has read since.
    pub fn is_good(&self, name: &ResourceName, versions: &Versions, as_of: Option<Position>, now: Timestamp) {
        let Some(mut account) = self.account(name) else { return };
        let is_older = |known: Position, read: Position| known.epoch == read.epoch && read.revision < known.revision;
        if account.as_of.zip(as_of).is_some_and(|(known, read)| is_older(known, read)) {
            return;
        }
        account.as_of = as_of;
        if account.trouble.take().is_some() {
            tracing::info!(resource = %name, "the newest value can be published to Envoys again");
        }
        if account.good.as_ref().is_none_or(|(known, _)| known != versions) {
            account.good = Some((versions.clone(), now));
        }
    }

    /// The newest value cannot be published, or not be read.
    pub fn is_troubled(&self, name: &ResourceName, failure: &Failure) {
        let Some(mut account) = self.account(name) else { return };
        let trouble = (failure.reason(), failure.message().to_owned());
        if account.trouble.as_ref() != Some(&trouble) {
            tracing::warn!(resource = %name, why = trouble.1, "the newest value is kept from Envoys; the last good one stays");
            account.trouble = Some(trouble);
        }
    }

    pub fn published(&self, name: &ResourceName) {
        if let Some(mut account) = self.account(name) {
            account.published += 1;
        }
    }

    pub fn enter(&self, name: &ResourceName) -> Seat {
        if let Some(mut account) = self.account(name) {
            account.streams += 1;
        }
        Seat { board: self.clone(), name: name.clone(), number: self.0.seats.fetch_add(1, Ordering::Relaxed) }
    }

    fn account(&self, name: &ResourceName) -> Option<MutexGuard<'_, Account>> {
        self.0.entries.get(name).map(lock)
    }
}

impl Seat {
    pub fn accepted(&self) {
        if let Some(mut account) = self.board.account(&self.name) {
            account.accepted += 1;
            account.rejections.remove(&self.number);
        }
    }

    pub fn rejected(&self, rejection: Rejection) {
        let Some(mut account) = self.board.account(&self.name) else { return };
        let Rejection { caller, node, version, why, .. } = &rejection;
        tracing::warn!(resource = %self.name, %caller, node, version, why, "an Envoy refused what was published");
        account.rejected += 1;
        account.rejections.insert(self.number, rejection);
        if account.rejections.len() > MAX_REJECTIONS {
            account.rejections.pop_first();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(mut account) = self.board.account(&self.name) {
            account.streams -= 1;
            account.rejections.remove(&self.number);
        }
    }
}

fn lock(entry: &Entry) -> MutexGuard<'_, Account> {
    entry.account.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::resource::Kind;
    use super::*;
    use crate::names::SecretName;
    use crate::state::{Epoch, Revision};

    #[test]
    fn what_is_good_does_not_go_back_to_what_was_read_before() {
        let name = ResourceName::parse("web").unwrap();
        let secret = SecretName::parse("stores/a/secrets/web").unwrap();
        let board = Board::new([(name.clone(), Resource { kind: Kind::Generic, secret, key: None })].into());
        let versions = |id: &str| Versions(vec![id.into()]);
        let at = |epoch: &str, revision| {
            Some(Position { epoch: Epoch::parse(&epoch.repeat(32)).unwrap(), revision: Revision::new(revision) })
        };
        for (read, as_of, good) in [
            ("2", at("1", 7), "2"),
            ("1", at("1", 6), "2"),
            // It was disabled since.
            ("1", at("1", 8), "1"),
            ("3", at("2", 5), "3"),
        ] {
            board.is_good(&name, &versions(read), as_of, Timestamp::from_secs(1));
            assert_eq!(board.good(&name), Some(versions(good)), "{read} as of {as_of:?}");
        }
    }
}
