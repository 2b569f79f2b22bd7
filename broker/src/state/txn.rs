//! One transaction: what must hold, what changes, and how it ended.

use bytes::Bytes;
use thiserror::Error;

use super::key::Key;
use super::leadership::Fence;
use super::record::{self, Record};
use super::store::Revision;

/// All of its writes happen, at one revision, or none of them does.
#[derive(Clone, Debug, Default)]
#[must_use = "a transaction does nothing until it is committed"]
pub struct Txn {
    conditions: Vec<Condition>,
    writes: Vec<Write>,
    fault: Option<TxnFault>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    Absent(Key),
    Present(Key),
    /// Nobody wrote it since this revision did.
    Unchanged(Key, Revision),
    /// Absent, or written before this revision.
    WrittenBefore(Key, Revision),
    /// Whoever had the fence still leads.
    Leads(Fence),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    Put(Key, Bytes),
    Delete(Key),
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a transaction may have met a conflict, or ended without saying how"]
pub enum Outcome {
    /// With no writes, or none that changes anything, the revision is the store's.
    Committed(Revision),
    /// Nothing was written.
    Conflict(Conflict),
    /// It was sent and no answer came: it is committed, or never will be, or will be in a while. Read what it wrote
    /// before doing anything that depends on it.
    Unknown,
}

/// The first condition that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// With the revision that wrote the key last, if it is there.
    Key {
        key: Key,
        found: Option<Revision>,
    },
    Deposed,
}

/// A mistake of whoever made the transaction.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TxnFault {
    #[error("more than {} conditions or writes in one transaction", Txn::MAX_OPERATIONS)]
    TooMany,
    #[error("the writes of one transaction have more than {} bytes", Txn::MAX_BYTES)]
    TooLarge,
    #[error("{0} is written twice in one transaction")]
    WrittenTwice(Key),
    #[error("{0} was given content of the kind {1}")]
    WrongKind(Key, &'static str),
    #[error("the content for {0} has no JSON form")]
    NoJson(Key),
}

impl Txn {
    /// Below etcd's own limit of 128, which counts its conditions and ours together.
    pub const MAX_OPERATIONS: usize = 100;
    /// Below etcd's own limit of 1.5 MiB a request.
    pub const MAX_BYTES: usize = 1 << 20;

    pub fn new() -> Self {
        Self::default()
    }

    pub fn when(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    pub fn put<R: Record>(mut self, key: &Key, record: &R) -> Self {
        if key.kind() != R::KIND.name {
            self.fault.get_or_insert(TxnFault::WrongKind(key.clone(), R::KIND.name));
        }
        match record::encode(record) {
            Ok(bytes) => self.put_bytes(key, bytes),
            Err(_) => {
                self.fault.get_or_insert(TxnFault::NoJson(key.clone()));
                self
            }
        }
    }

    /// Bytes as they are, of no kind.
    pub fn put_bytes(mut self, key: &Key, value: impl Into<Bytes>) -> Self {
        self.writes.push(Write::Put(key.clone(), value.into()));
        self
    }

    pub fn delete(mut self, key: &Key) -> Self {
        self.writes.push(Write::Delete(key.clone()));
        self
    }

    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// What every backend refuses, so that none of them differs.
    pub(super) fn check(&self) -> Result<(), TxnFault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if self.conditions.len().max(self.writes.len()) > Self::MAX_OPERATIONS {
            return Err(TxnFault::TooMany);
        }
        if self.writes.iter().map(Write::bytes).sum::<usize>() > Self::MAX_BYTES {
            return Err(TxnFault::TooLarge);
        }
        let mut keys: Vec<&Key> = self.writes.iter().map(Write::key).collect();
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair.first() == pair.last()) {
            Some(pair) => Err(TxnFault::WrittenTwice(pair[0].clone())),
            None => Ok(()),
        }
    }
}

impl Condition {
    /// Given the revision that wrote the condition's key last.
    pub(super) fn holds(&self, found: Option<Revision>) -> bool {
        match self {
            Self::Absent(_) => found.is_none(),
            Self::Present(_) => found.is_some(),
            Self::Unchanged(_, revision) => found == Some(*revision),
            Self::WrittenBefore(_, revision) => found.is_none_or(|found| found < *revision),
            Self::Leads(_) => true,
        }
    }
}

impl Write {
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Put(key, value) => key.as_str().len() + value.len(),
            Self::Delete(key) => key.as_str().len(),
        }
    }
}
