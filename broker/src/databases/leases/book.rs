//! All leases in memory, and which of them wants attention when. The state is the truth; this follows it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use super::record::{Lease, Stage};
use crate::clock::Timestamp;
use crate::error::Failure;
use crate::names::{LeaseName, RoleName};
use crate::state::Revision;

/// For how long a revoked lease can be asked about.
pub(super) const RETENTION: Duration = Duration::from_secs(3600);
/// After which another node's mint is taken for dead; longer than any call may last.
const MINT_PATIENCE: Duration = Duration::from_secs(180);

#[derive(Debug, Default)]
pub(super) struct Book {
    /// Boxed, because the nodes of a map that grows at its end stay half empty.
    leases: BTreeMap<LeaseName, Box<Held>>,
    /// Of each owner: how many are pending or active.
    live: HashMap<Arc<str>, usize>,
    texts: Shared<Arc<str>>,
    roles: Shared<RoleName>,
    /// By database: who wants attention next.
    due: HashMap<String, BTreeSet<(Timestamp, LeaseName)>>,
    /// By database: when the last sweep began that ended well.
    pub(super) swept: HashMap<String, Timestamp>,
}

/// How many leases are at which stage, of all replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub pending: u64,
    pub active: u64,
    pub revoking: u64,
    /// Of those that are being revoked: tried more than once.
    pub failing: u64,
    /// When the first of those should have been gone that are not.
    pub overdue: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) revision: Revision,
    /// A mint or a worker has it in hand and will say what comes next.
    pub(super) in_hand: bool,
    trouble: Option<Box<Trouble>>,
    due: Timestamp,
}

/// What many leases have in common, once. With how many have it.
#[derive(Debug)]
struct Shared<T>(HashMap<T, usize>);

/// What revoking has met so far, in this process.
#[derive(Clone, Debug, Default)]
pub struct Trouble {
    pub attempts: u32,
    pub last_error: Option<Arc<Failure>>,
    pub next_attempt: Option<Timestamp>,
}

impl Book {
    pub(super) fn get(&self, name: &LeaseName) -> Option<&Held> {
        self.leases.get(name).map(|held| &**held)
    }

    /// Newest first.
    pub(super) fn newest(&self) -> impl Iterator<Item = &Held> {
        self.leases.values().rev().map(|held| &**held)
    }

    /// Those below a name, newest first.
    pub(super) fn before<'a>(&'a self, name: &LeaseName) -> impl Iterator<Item = &'a Held> {
        self.leases.range(..name).rev().map(|(_, held)| &**held)
    }

    pub(super) fn counts(&self, now: Timestamp) -> Counts {
        let mut counts = Counts::default();
        for held in self.leases.values() {
            let lease = &held.lease;
            let due = match lease.stage {
                Stage::Pending => {
                    counts.pending += 1;
                    lease.expires
                }
                Stage::Active => {
                    counts.active += 1;
                    lease.expires
                }
                Stage::Revoking { since, .. } => {
                    counts.revoking += 1;
                    counts.failing += u64::from(held.attempts() > 1);
                    since.min(lease.expires)
                }
                Stage::Revoked { .. } => continue,
            };
            if due <= now {
                counts.overdue = Some(counts.overdue.map_or(due, |first| first.min(due)));
            }
        }
        counts
    }

    pub(super) fn live_of(&self, owner: &str) -> usize {
        self.live.get(owner).copied().unwrap_or_default()
    }

    /// A mint begins; its record is not written yet.
    pub(super) fn reserve(&mut self, lease: Lease) {
        let name = lease.name.clone();
        self.put(lease, Revision::default(), Timestamp::from_micros(0), "");
        self.take_in_hand(&name);
    }

    /// Mints that this node began and does not have in hand, each with its issue: those of a process before this one.
    pub(super) fn abandoned_by(&self, node: &str) -> Vec<(LeaseName, u32)> {
        let held = self.leases.values().map(|held| &**held);
        held.filter(|held| held.lease.stage == Stage::Pending && *held.lease.minter == *node && !held.in_hand)
            .map(|held| (held.lease.name.clone(), held.lease.issue))
            .collect()
    }

    /// What the state says, if it is news. `node` is this node, whose own pending mints are in hand or dead.
    pub(super) fn put(&mut self, mut lease: Lease, revision: Revision, now: Timestamp, node: &str) {
        let name = lease.name.clone();
        if self.leases.get(&name).is_some_and(|held| held.revision > revision) {
            return;
        }
        let due = match &lease.stage {
            Stage::Pending if *lease.minter == *node => now,
            Stage::Pending => lease.created.plus(MINT_PATIENCE),
            Stage::Active => lease.expires,
            Stage::Revoking { .. } => now,
            Stage::Revoked { gone, .. } => gone.plus(RETENTION),
        };
        self.roles.share(&mut lease.role);
        self.texts.share(&mut lease.owner);
        self.texts.share(&mut lease.minter);
        if lease.is_live() {
            *self.live.entry(Arc::clone(&lease.owner)).or_default() += 1;
        }
        let old = self.remove(&name);
        let (in_hand, trouble) = old.map_or((false, None), |old| (old.in_hand, old.trouble));
        let next_attempt = trouble.as_ref().and_then(|trouble| trouble.next_attempt);
        let due = next_attempt.filter(|_| matches!(lease.stage, Stage::Revoking { .. })).unwrap_or(due);
        self.leases.insert(name.clone(), Box::new(Held { lease, revision, in_hand, trouble, due }));
        if !in_hand {
            self.enqueue(&name);
        }
    }

    pub(super) fn remove(&mut self, name: &LeaseName) -> Option<Box<Held>> {
        self.dequeue(name);
        let held = self.leases.remove(name)?;
        let lease = &held.lease;
        if lease.is_live()
            && let Some(count) = self.live.get_mut(&lease.owner)
        {
            *count -= 1;
            if *count == 0 {
                self.live.remove(&lease.owner);
            }
        }
        self.roles.let_go(&lease.role);
        self.texts.let_go(&lease.owner);
        self.texts.let_go(&lease.minter);
        Some(held)
    }

    /// Another history has taken the place of the one that was followed: whatever it says is news.
    pub(super) fn doubt(&mut self) {
        self.leases.values_mut().for_each(|held| held.revision = Revision::default());
    }

    /// What was doubted is not on record, unless somebody is just about to write it.
    pub(super) fn drop_doubtful(&mut self) {
        let doubtful = self.leases.values().filter(|held| held.revision == Revision::default() && !held.in_hand);
        let doubtful: Vec<_> = doubtful.map(|held| held.lease.name.clone()).collect();
        doubtful.iter().for_each(|name| drop(self.remove(name)));
    }

    /// The next lease of the database that wants attention, now in hand; or when the first one will.
    pub(super) fn take_due(&mut self, database: &str, now: Timestamp) -> Result<LeaseName, Option<Timestamp>> {
        let first = self.due.get(database).and_then(BTreeSet::first).cloned();
        let Some((due, name)) = first else { return Err(None) };
        if due > now {
            return Err(Some(due));
        }
        self.take_in_hand(&name);
        Ok(name)
    }

    /// It goes back into the queue, as its stage and its trouble say; what was never written is forgotten.
    pub(super) fn let_go(&mut self, name: &LeaseName) {
        let Some(held) = self.leases.get_mut(name) else { return };
        held.in_hand = false;
        if held.revision == Revision::default() {
            self.remove(name);
        } else {
            self.enqueue(name);
        }
    }

    pub(super) fn failed(&mut self, name: &LeaseName, failure: Failure, next: Timestamp) {
        if let Some(held) = self.leases.get_mut(name) {
            let trouble = held.trouble.get_or_insert_default();
            trouble.attempts = trouble.attempts.saturating_add(1);
            trouble.last_error = Some(Arc::new(failure));
            trouble.next_attempt = Some(next);
            self.reschedule(name, next);
        }
    }

    pub(super) fn reschedule(&mut self, name: &LeaseName, due: Timestamp) {
        self.dequeue(name);
        let Some(held) = self.leases.get_mut(name) else { return };
        held.due = due;
        if !held.in_hand {
            self.enqueue(name);
        }
    }

    fn take_in_hand(&mut self, name: &LeaseName) {
        self.dequeue(name);
        if let Some(held) = self.leases.get_mut(name) {
            held.in_hand = true;
        }
    }

    fn enqueue(&mut self, name: &LeaseName) {
        let Some(held) = self.leases.get(name) else { return };
        let database = held.lease.role.database();
        if !self.due.contains_key(database) {
            self.due.insert(database.to_owned(), BTreeSet::new());
        }
        if let Some(queue) = self.due.get_mut(database) {
            queue.insert((held.due, held.lease.name.clone()));
        }
    }

    fn dequeue(&mut self, name: &LeaseName) {
        let Some(held) = self.leases.get(name) else { return };
        if let Some(queue) = self.due.get_mut(held.lease.role.database()) {
            queue.remove(&(held.due, held.lease.name.clone()));
        }
    }
}

impl Held {
    pub(super) fn attempts(&self) -> u32 {
        self.trouble.as_ref().map_or(0, |trouble| trouble.attempts)
    }

    /// As it is shown.
    pub(super) fn told(&self) -> (Lease, Trouble) {
        (self.lease.clone(), self.trouble.as_deref().cloned().unwrap_or_default())
    }
}

impl<T: Clone + Eq + Hash> Shared<T> {
    fn share(&mut self, value: &mut T) {
        match self.0.get_key_value(value) {
            Some((known, _)) => *value = known.clone(),
            None => drop(self.0.insert(value.clone(), 0)),
        }
        if let Some(count) = self.0.get_mut(value) {
            *count += 1;
        }
    }

    fn let_go(&mut self, value: &T) {
        if let Some(count) = self.0.get_mut(value) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(value);
            }
        }
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Cause;
    use super::*;
    use crate::databases::UserName;
    use crate::names::DatabaseName;

    fn lease(id: &str) -> Lease {
        let time = Timestamp::from_micros(1);
        Lease {
            name: LeaseName::from_id(id).unwrap(),
            role: DatabaseName::from_id("shop").unwrap().role("reader").unwrap(),
            owner: "x509/orders".into(),
            user: UserName::generate("reader").unwrap(),
            minter: "node".into(),
            created: time,
            expires: time,
            max_expires: time,
            issue: 0,
            stage: Stage::Active,
        }
    }

    #[test]
    fn what_leases_have_in_common_is_kept_once_and_no_longer_than_they_are() {
        let (mut book, now) = (Book::default(), Timestamp::from_micros(0));
        let [one, other] = ["0a", "0b"].map(lease);
        let names = [one.name.clone(), other.name.clone()];
        book.put(one, Revision::new(1), now, "node");
        book.put(other, Revision::new(2), now, "node");
        let [one, other] = [&names[0], &names[1]].map(|name| book.get(name).unwrap().lease.clone());
        assert!(Arc::ptr_eq(&one.owner, &other.owner) && Arc::ptr_eq(&one.minter, &other.minter));
        assert!(Arc::ptr_eq(&one.role.shared(), &other.role.shared()));

        book.put(one.at(Stage::Revoking { cause: Cause::Owner, since: now }), Revision::new(3), now, "node");
        assert_eq!(book.live_of("x509/orders"), 1);
        for name in &names {
            book.remove(name);
        }
        assert!(book.texts.0.is_empty() && book.roles.0.is_empty() && book.live.is_empty());
        assert_eq!(book.take_due("databases/shop", now), Err(None));
    }
}
