//! What reads met.

use crate::telemetry::Counter;

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) hits: Counter,
    pub(super) misses: Counter,
    pub(super) joined: Counter,
    pub(super) stale: Counter,
}

/// A cache's account of itself. Counts are since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheAccount {
    pub entries: u64,
    pub bytes: u64,
    pub max_bytes: u64,
    pub hits: u64,
    pub misses: u64,
    pub joined: u64,
    pub stale: u64,
    pub evicted: u64,
}
