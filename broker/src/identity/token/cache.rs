//! Verified tokens by their mark, so that a caller's second call costs a look-up.
//!
//! Nothing is kept about a token that was refused: an attacker can make those without end. A general cache would bring
//! a clock of its own, and what to evict is plain here: what ends first.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::mark::Mark;
use super::verified::Token;
use crate::clock::Timestamp;

const SHARDS: usize = 16;
/// What an entry takes beside the token: its places in the map and in the order, and the allocator's overhead.
const ENTRY: usize = 320;

pub(super) struct Cache {
    shards: [Mutex<Shard>; SHARDS],
}

struct Shard {
    tokens: HashMap<Mark, Arc<Token>>,
    by_end: BTreeSet<(Timestamp, Mark)>,
    bytes: usize,
    max_bytes: usize,
}

impl Cache {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::new(Shard::new(max_bytes / SHARDS))) }
    }

    pub(super) fn get(&self, mark: &Mark, now: Timestamp) -> Option<Arc<Token>> {
        self.shard(mark).tokens.get(mark).filter(|token| now < token.ends()).map(Arc::clone)
    }

    pub(super) fn insert(&self, mark: Mark, token: &Arc<Token>, now: Timestamp) {
        let mut shard = self.shard(&mark);
        shard.remove(&mark);
        shard.end(now);
        shard.add(mark, token);
    }

    pub(super) fn remove(&self, mark: &Mark) {
        self.shard(mark).remove(mark);
    }

    /// The tokens kept and the bytes that they take.
    pub(super) fn size(&self) -> (usize, usize) {
        self.shards
            .iter()
            .map(lock)
            .fold((0, 0), |(count, bytes), shard| (count + shard.tokens.len(), bytes + shard.bytes))
    }

    fn shard(&self, mark: &Mark) -> MutexGuard<'_, Shard> {
        lock(&self.shards[usize::from(mark.0[0]) % SHARDS])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    fn new(max_bytes: usize) -> Self {
        Self { tokens: HashMap::new(), by_end: BTreeSet::new(), bytes: 0, max_bytes }
    }

    fn add(&mut self, mark: Mark, token: &Arc<Token>) {
        let weight = weight(token);
        if weight > self.max_bytes {
            return;
        }
        while self.bytes + weight > self.max_bytes {
            let Some((_, first)) = self.by_end.first().copied() else { break };
            self.remove(&first);
        }
        self.bytes += weight;
        self.by_end.insert((token.ends(), mark));
        self.tokens.insert(mark, Arc::clone(token));
    }

    fn remove(&mut self, mark: &Mark) {
        if let Some(token) = self.tokens.remove(mark) {
            self.by_end.remove(&(token.ends(), *mark));
            self.bytes -= weight(&token);
        }
    }

    fn end(&mut self, now: Timestamp) {
        while let Some((end, mark)) = self.by_end.first().copied()
            && end <= now
        {
            self.remove(&mark);
        }
    }
}

fn weight(token: &Token) -> usize {
    ENTRY + token.weight()
}
