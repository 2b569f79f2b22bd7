//! Which records could not be read.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::key::Key;
use super::record::Fault;

/// Beyond this many, further ones are not told apart from these.
const MOST: usize = 10_000;

/// The unreadable records met so far, by key.
#[derive(Debug, Default)]
pub struct Quarantine(Mutex<BTreeMap<Key, Fault>>);

impl Quarantine {
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn add(&self, key: &Key, fault: Fault) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() < MOST && records.insert(key.clone(), fault).is_none() {
            tracing::error!(
                %key, %fault,
                "a record of the state cannot be read and is passed over; `keyferry state quarantined` lists all of them"
            );
        }
    }

    /// It was read, written or deleted since.
    pub(super) fn clear(&self, key: &Key) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !records.is_empty() {
            records.remove(key);
        }
    }
}
