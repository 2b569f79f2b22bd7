//! The seam to whatever keeps the state. It knows keys and bytes; what the bytes mean is [`super::State`]'s to know.

use std::fmt;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::failure::StateError;
use super::key::{Key, Prefix};
use super::leadership::Leadership;
use super::txn::{Outcome, Txn};
use super::watch::Watch;

/// One backend. Whatever it answers was true at one moment, and what it committed stays.
pub trait Store: Send + Sync + fmt::Debug {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, StateError>>;

    /// Records in order of their keys. Pages are of different moments: watch from the first page's revision on to learn
    /// what changed in between.
    fn list<'a>(&'a self, prefix: &'a Prefix, page: ListPage) -> BoxFuture<'a, Result<Listing, StateError>>;

    /// On disk when it returns, on a majority of disks where there are several. Goes through even when its caller no
    /// longer waits.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StateError>>;

    /// Every change from `from` on, that revision's included.
    fn watch(&self, prefix: Prefix, from: Revision) -> Watch;

    fn leadership(&self) -> Leadership;

    /// As far as it is known, without asking anybody.
    fn status(&self) -> Status;

    /// Lets go of what others wait for: leadership, files.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Counts commits. Each transaction that changes something gets a higher one than all before; gaps mean nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one history. Revisions of different epochs cannot be compared: the store was wiped, or an old copy restored.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch([u8; 16]);

impl Epoch {
    pub(super) fn random() -> Result<Self, Unspecified> {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    pub fn parse(text: &str) -> Option<Self> {
        let number = u128::from_str_radix(text, 16).ok()?;
        let epoch = Self(number.to_be_bytes());
        (epoch.to_string() == text).then_some(epoch)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Part of each answer: formatting the number would take longer than encoding the rest.
        let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
        let mut digits = [0; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        f.write_str(str::from_utf8(&digits).unwrap_or_default())
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A place in one history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    pub epoch: Epoch,
    pub revision: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub value: Bytes,
    /// Of the transaction that wrote it.
    pub revision: Revision,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// The last key of the page before.
    pub after: Option<Key>,
    /// At most [`ListPage::MAX_SIZE`]; more is cut to it.
    pub size: usize,
}

impl ListPage {
    pub const MAX_SIZE: usize = 500;

    pub(super) fn size(&self) -> usize {
        self.size.clamp(1, Self::MAX_SIZE)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    pub entries: Vec<Entry>,
    pub more: bool,
    /// The store's when the page was read.
    pub revision: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub backend: &'static str,
    /// Absent until the backend was reached for the first time.
    pub epoch: Option<Epoch>,
    pub revision: Revision,
    /// The oldest that a watch can begin at, where the backend knows.
    pub oldest: Option<Revision>,
    /// The replicas alive, sorted.
    pub nodes: Vec<String>,
    pub leader: Option<String>,
    /// Why the last access failed; absent when it did not.
    pub failing: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_comes_back_from_its_text() {
        let epoch = Epoch::random().unwrap();
        assert_eq!(Epoch::parse(&epoch.to_string()), Some(epoch));
        for wrong in ["", "+0", &"0".repeat(31), &"A".repeat(32), &"g".repeat(32)] {
            assert_eq!(Epoch::parse(wrong), None, "{wrong}");
        }
    }
}
