//! How each resource is: what is published, what keeps a newer value back, and which Envoys refused what.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::resource::{Resource, ResourceName, Versions};
use crate::clock::Timestamp;
use crate::error::{Failure, Reason};

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

    /// The newest value can be published.
    pub fn is_good(&self, name: &ResourceName, versions: &Versions, now: Timestamp) {
        let Some(mut account) = self.account(name) else { return };
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
