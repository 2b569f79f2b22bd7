//! A bounded map for what every call looks up. It keeps no order and has no clock: with them, looking up would cost more
//! than what is looked up.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const SHARDS: usize = 64;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// What was not looked up while a generation filled, or grew old, is let go with the next.
#[derive(Debug)]
pub(super) struct Kept<K, V> {
    shards: Box<[Mutex<Shard<K, V>>]>,
    spread: foldhash::fast::RandomState,
    /// Of one shard's generation.
    most: usize,
    idle: Duration,
}

#[derive(Debug)]
struct Shard<K, V> {
    young: Map<K, V>,
    old: Map<K, V>,
    begun: Duration,
}

impl<K: Hash + Eq, V: Clone> Kept<K, V> {
    /// For so many at most; what nobody looks up for `idle` is let go, in twice that time at the latest.
    pub(super) fn new(most: usize, idle: Duration) -> Self {
        let shard = || Mutex::new(Shard { young: Map::default(), old: Map::default(), begun: Duration::ZERO });
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            spread: foldhash::fast::RandomState::default(),
            most: most / SHARDS / 2,
            idle,
        }
    }

    /// `now` may count from any moment.
    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q, now: Duration) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let mut shard = self.shard(key, now);
        if let Some(value) = shard.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = shard.old.remove_entry(key)?;
        self.add(&mut shard, key, value.clone());
        Some(value)
    }

    /// Two who come at once get the same.
    pub(super) fn get_or_insert(&self, key: &K, value: impl FnOnce() -> V, now: Duration) -> V
    where
        K: Clone,
    {
        let mut shard = self.shard(key, now);
        if let Some(value) = shard.young.get(key) {
            return value.clone();
        }
        let (key, value) = shard.old.remove_entry(key).unwrap_or_else(|| (key.clone(), value()));
        self.add(&mut shard, key, value.clone());
        value
    }

    pub(super) fn insert(&self, key: K, value: V, now: Duration) {
        let mut shard = self.shard(&key, now);
        self.add(&mut shard, key, value);
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(lock).map(|shard| shard.young.len() + shard.old.len()).sum()
    }

    fn add(&self, shard: &mut Shard<K, V>, key: K, value: V) {
        if shard.young.len() >= self.most {
            shard.old = std::mem::take(&mut shard.young);
        }
        shard.young.insert(key, value);
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q, now: Duration) -> MutexGuard<'_, Shard<K, V>> {
        // The upper bits: the map within goes by the lower ones of another hash.
        let place = self.spread.hash_one(key) >> 58;
        let mut shard = lock(&self.shards[usize::try_from(place).unwrap_or(0)]);
        let age = now.saturating_sub(shard.begun);
        if age >= self.idle {
            let young = std::mem::take(&mut shard.young);
            shard.old = if age < self.idle.saturating_mul(2) { young } else { Map::default() };
            shard.begun = now;
        }
        shard
    }
}

fn lock<K, V>(shard: &Mutex<Shard<K, V>>) -> MutexGuard<'_, Shard<K, V>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_looked_up_stays_while_others_come_and_go() {
        let kept = Kept::new(SHARDS * 2 * 100, Duration::MAX);
        kept.insert(0, "stays", Duration::ZERO);
        for number in 1..1_000_000 {
            kept.insert(number, "goes", Duration::ZERO);
            if number % 50 == 0 {
                assert_eq!(kept.get(&0, Duration::ZERO), Some("stays"));
            }
        }
        assert!(kept.len() <= SHARDS * 2 * 100, "{}", kept.len());
        assert_eq!(kept.get(&1, Duration::ZERO), None);
    }

    #[test]
    fn what_is_idle_is_let_go() {
        let kept = Kept::new(100_000, IDLE);
        kept.insert("idle", (), IDLE);
        kept.insert("used", (), IDLE);
        for seconds in 60..240 {
            assert_eq!(kept.get("used", Duration::from_secs(seconds)), Some(()));
        }
        assert_eq!(kept.get("idle", 3 * IDLE), None);
        assert_eq!(kept.get("used", 1000 * IDLE), None);
    }
}
