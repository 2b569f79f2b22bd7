//! Loads under way: one at a time for each key, and at most one more that is to follow it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::Supply;
use super::slot::{Slot, Stamp};
use crate::error::Failure;
use crate::names::SecretName;
use crate::secrets::revision::Turn;

/// Asks the provider, once it is polled.
pub(crate) type Load<V> = BoxFuture<'static, Result<V, Failure>>;

/// What those who wait for a load are told.
pub(super) enum State<V> {
    Aloft,
    Landed(Arc<Slot<V>>),
    /// The secret was changed since the load began: load again.
    Overtaken,
}

/// A load that has not begun.
pub(super) struct Planned<V> {
    pub(super) load: Load<V>,
    pub(super) trip: Trip<V>,
    pub(super) held: Held,
}

/// What is needed when it lands.
pub(super) struct Trip<V> {
    pub(super) told: watch::Sender<State<V>>,
    pub(super) supply: Arc<Supply>,
    pub(super) life: Duration,
}

/// Its place among the store's loads, and among its refreshes if it is one.
pub(super) struct Held {
    pub(super) _place: OwnedSemaphorePermit,
    pub(super) _refresh: Option<OwnedSemaphorePermit>,
}

/// A load under way.
pub(super) struct Flight<K, V> {
    pub(super) key: K,
    pub(super) number: u64,
    pub(super) stamp: Stamp,
    pub(super) trip: Trip<V>,
    /// For those whom a load that began when this one did would not satisfy.
    pub(super) next: Option<Planned<V>>,
}

/// Under one lock, which also orders landings and invalidations. It is taken by misses alone.
pub(super) struct Flights<K, V> {
    by_secret: HashMap<SecretName, Vec<Flight<K, V>>, foldhash::fast::RandomState>,
    last_number: u64,
}

impl<K: Eq, V> Flights<K, V> {
    pub(super) fn new() -> Self {
        Self { by_secret: HashMap::default(), last_number: 0 }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(super) fn add(&mut self, secret: &SecretName, flight: Flight<K, V>) {
        self.by_secret.entry(secret.clone()).or_default().push(flight);
    }

    pub(super) fn find(&mut self, secret: &SecretName, key: &K) -> Option<&mut Flight<K, V>> {
        self.by_secret.get_mut(secret)?.iter_mut().find(|flight| flight.key == *key)
    }

    /// `None` for a load that was overtaken.
    pub(super) fn land(&mut self, secret: &SecretName, number: u64) -> Option<Flight<K, V>> {
        let flights = self.by_secret.get_mut(secret)?;
        let place = flights.iter().position(|flight| flight.number == number)?;
        let flight = flights.swap_remove(place);
        if flights.is_empty() {
            self.by_secret.remove(secret);
        }
        Some(flight)
    }

    pub(super) fn secrets(&self) -> Vec<SecretName> {
        self.by_secret.keys().cloned().collect()
    }

    /// Takes out the loads that began before `turn`.
    pub(super) fn overtake(&mut self, secret: &SecretName, turn: Turn) -> Vec<Flight<K, V>> {
        let Some(flights) = self.by_secret.get_mut(secret) else { return Vec::new() };
        let overtaken = flights.extract_if(.., |flight| flight.stamp.turn < turn).collect();
        if flights.is_empty() {
            self.by_secret.remove(secret);
        }
        overtaken
    }

    /// Whoever waits learns that nothing comes any more.
    pub(super) fn abandon(&mut self) {
        self.by_secret.clear();
    }
}
