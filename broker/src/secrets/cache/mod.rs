//! What was loaded, for as long as it may be served; and who waits for a load.
//!
//! Readers of what is cached take no lock but moka's own. Misses, landings and invalidations share one, so that a load
//! either lands before an invalidation, which then drops it, or is overtaken by it and never kept.

mod counts;
mod flight;
mod freshness;
mod slot;
mod standing;

use std::hash::{BuildHasher, Hash};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use moka::notification::RemovalCause;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::errands::Errands;
use super::revision::{Revisions, Turn};
use crate::clock::{SharedClock, Timestamp};
use crate::error::{Failure, Reason};
use crate::names::SecretName;
use crate::state::{Position, Revision};
use crate::telemetry::Counter;

pub use counts::CacheAccount;
pub use freshness::Freshness;

use counts::Counts;
use flight::{Flight, Flights, Held, Planned, State, Trip};
use freshness::{Verdict, verdict};
use slot::{Line, Slot, Stamp, is_within};
use standing::Standing;

pub(crate) use flight::Load;
pub(super) use freshness::is_answer;

/// Loads of one store under way or planned; more would only fill memory while the store hangs.
const MAX_LOADS: usize = 16_384;

/// A value that can be kept.
pub(super) trait Kept: Clone + Send + Sync + 'static {
    /// What it is asked for by.
    type Key;

    /// In bytes, beyond what every value takes.
    fn weight(&self) -> usize;
    /// When the provider stops handing it out.
    fn expires(&self) -> Option<Timestamp>;
    /// Whether this key names it and can never name another.
    fn is_pinned_by(&self, key: &Self::Key) -> bool;
}

/// What a reader demands beyond the name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand<'a> {
    /// The oldest load that will do, counted from its beginning; zero: one that begins after the call.
    pub max_age: Option<Duration>,
    pub min_revision: Revision,
    /// Of `min_revision`; empty where the caller did not say.
    pub epoch: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Cache,
    Provider,
    Stale,
}

/// An answer, and what is known of the load that brought it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found<V> {
    pub(super) value: V,
    pub(super) source: Source,
    pub(super) position: Option<Position>,
    pub(super) loaded: Timestamp,
    pub(super) fresh_until: Timestamp,
}

/// Where one store's values come from, as far as caching goes.
#[derive(Debug)]
pub(super) struct Supply {
    stale: Duration,
    standing: Standing,
    places: Arc<Semaphore>,
}

/// What is read, and how long it stays fresh.
pub(super) struct Want<'a, K> {
    pub(super) secret: &'a SecretName,
    pub(super) key: &'a K,
    pub(super) supply: &'a Arc<Supply>,
    pub(super) life: Duration,
}

/// Of each secret, the answers by key.
pub(super) struct Cache<K, V> {
    lines: moka::sync::Cache<SecretName, Arc<Line<K, V>>, foldhash::fast::RandomState>,
    flights: Mutex<Flights<K, V>>,
    revisions: Arc<Revisions>,
    errands: Errands,
    clock: SharedClock,
    counts: Counts,
    evicted: Arc<Counter>,
    max_bytes: u64,
    spread: foldhash::fast::RandomState,
}

/// What one look under the lock came to.
enum Boarding<V> {
    There(Arc<Slot<V>>),
    Waiting(watch::Receiver<State<V>>),
}

impl Supply {
    pub(super) fn new(stale: Duration, clock: &SharedClock) -> Arc<Self> {
        Arc::new(Self {
            stale,
            standing: Standing::new(clock.monotonic()),
            places: Arc::new(Semaphore::new(MAX_LOADS)),
        })
    }
}

impl<K, V> Cache<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Kept<Key = K>,
{
    /// `longest`: after this long, nothing is served any more and may be let go.
    pub(super) fn new(
        max_bytes: u64,
        longest: Duration,
        revisions: Arc<Revisions>,
        errands: Errands,
        clock: SharedClock,
    ) -> Arc<Self> {
        let evicted = Arc::new(Counter::default());
        let counted = Arc::clone(&evicted);
        let lines = moka::sync::Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_: &SecretName, line: &Arc<Line<K, V>>| u32::try_from(line.weight()).unwrap_or(u32::MAX))
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    counted.add(1);
                }
            })
            .time_to_live(longest.max(Duration::from_secs(1)));
        Arc::new(Self {
            lines: lines.build_with_hasher(foldhash::fast::RandomState::default()),
            flights: Mutex::new(Flights::new()),
            revisions,
            errands,
            clock,
            counts: Counts::default(),
            evicted,
            max_bytes,
            spread: foldhash::fast::RandomState::default(),
        })
    }

    /// From here, or from the provider through `load`, which is asked for nothing where the answer is here.
    pub(super) async fn read(
        self: &Arc<Self>,
        want: Want<'_, K>,
        demand: Demand<'_>,
        load: impl Fn() -> Load<V>,
    ) -> Result<Found<V>, Failure> {
        let now = self.clock.monotonic();
        if let Some(slot) = self.look(want.secret, want.key) {
            if slot.satisfies(demand, now) {
                self.counts.hits.add(1);
                if slot.is_due(now) {
                    self.refresh_ahead(&want, &slot, now, load);
                }
                return found(&slot, Source::Cache);
            }
            // While the store fails, who would only wait for one more failure is served at once.
            if slot.may_serve_stale(demand, now) && want.supply.standing.is_unsteady(want.secret, now) {
                if let Some(refresh) = want.supply.standing.claim(want.secret, now) {
                    self.load_in_background(&want, Some(refresh), load());
                }
                self.counts.stale.add(1);
                return found(&slot, Source::Stale);
            }
        }
        let landed = self.loaded(&want, demand, load).await?;
        match &landed.outcome {
            Err(failure) if verdict(failure.reason()) == Verdict::Unanswered => {
                let left = self.look(want.secret, want.key);
                match left.filter(|slot| slot.may_serve_stale(demand, self.clock.monotonic())) {
                    Some(slot) => {
                        self.counts.stale.add(1);
                        found(&slot, Source::Stale)
                    }
                    None => Err(failure.clone()),
                }
            }
            _ => found(&landed, Source::Provider),
        }
    }

    /// What is kept, fresh or not.
    pub(super) fn peek(&self, secret: &SecretName, key: &K) -> Option<V> {
        self.look(secret, key)?.outcome.as_ref().ok().cloned()
    }

    /// Of which something good is kept, fresh or not.
    pub(super) fn kept(&self) -> impl Iterator<Item = Arc<SecretName>> + '_ {
        self.lines.iter().filter(|(_, line)| line.has_value()).map(|(secret, _)| secret)
    }

    /// Something happened to the secret at `turn`: once this has returned, nothing that began to load before is served.
    pub(super) fn invalidate(self: &Arc<Self>, secret: &SecretName, turn: Turn) {
        self.drop_before(&mut self.flights(), secret, turn);
    }

    /// The same, of all secrets.
    pub(super) fn invalidate_all(self: &Arc<Self>, turn: Turn) {
        let mut flights = self.flights();
        for secret in flights.secrets() {
            self.drop_before(&mut flights, &secret, turn);
        }
        self.lines.iter().for_each(|(secret, _)| self.drop_before(&mut flights, &secret, turn));
    }

    fn drop_before(self: &Arc<Self>, flights: &mut Flights<K, V>, secret: &SecretName, turn: Turn) {
        for overtaken in flights.overtake(secret, turn) {
            overtaken.trip.told.send_replace(State::Overtaken);
            if let Some(next) = overtaken.next {
                self.launch(flights, secret, overtaken.key, next);
            }
        }
        if let Some(line) = self.lines.get(secret) {
            match line.since(turn) {
                Some(rest) if rest.len() == line.len() => {}
                Some(rest) => self.lines.insert(secret.clone(), Arc::new(rest)),
                None => self.lines.invalidate(secret),
            }
        }
    }

    /// Lets go of what nobody will be served: moka does it only when it is used.
    pub(super) fn tidy(&self) {
        self.lines.run_pending_tasks();
    }

    pub(super) fn account(&self) -> CacheAccount {
        CacheAccount {
            entries: self.lines.entry_count(),
            bytes: self.lines.weighted_size(),
            max_bytes: self.max_bytes,
            hits: self.counts.hits.get(),
            misses: self.counts.misses.get(),
            joined: self.counts.joined.get(),
            stale: self.counts.stale.get(),
            evicted: self.evicted.get(),
        }
    }

    /// Once the loads were broken off.
    pub(super) fn abandon(&self) {
        self.flights().abandon();
    }

    fn look(&self, secret: &SecretName, key: &K) -> Option<Arc<Slot<V>>> {
        self.lines.get(secret)?.get(key).cloned()
    }

    /// What a load brought that meets the demand: one under way, or one of our own.
    async fn loaded(
        self: &Arc<Self>,
        want: &Want<'_, K>,
        demand: Demand<'_>,
        load: impl Fn() -> Load<V>,
    ) -> Result<Arc<Slot<V>>, Failure> {
        loop {
            let mut told = match self.board(want, demand, &load)? {
                Boarding::There(slot) => return Ok(slot),
                Boarding::Waiting(told) => told,
            };
            match &*told.wait_for(|state| !matches!(state, State::Aloft)).await.map_err(|_| stopping())? {
                State::Landed(slot) => return Ok(Arc::clone(slot)),
                State::Overtaken | State::Aloft => {}
            }
        }
    }

    fn board(
        self: &Arc<Self>,
        want: &Want<'_, K>,
        demand: Demand<'_>,
        load: impl Fn() -> Load<V>,
    ) -> Result<Boarding<V>, Failure> {
        let mut flights = self.flights();
        let now = self.clock.monotonic();
        // It may have landed since the reader looked.
        if let Some(slot) = self.look(want.secret, want.key).filter(|slot| slot.satisfies(demand, now)) {
            self.counts.joined.add(1);
            return Ok(Boarding::There(slot));
        }
        let Some(flight) = flights.find(want.secret, want.key) else {
            let (planned, told) = self.plan(want, None, load())?;
            self.counts.misses.add(1);
            self.launch(&mut flights, want.secret, want.key.clone(), planned);
            return Ok(Boarding::Waiting(told));
        };
        let early_enough = demand.max_age.is_none_or(|most| is_within(flight.stamp.begun, most, now));
        if early_enough && flight.stamp.knows(demand.min_revision) {
            self.counts.joined.add(1);
            return Ok(Boarding::Waiting(flight.trip.told.subscribe()));
        }
        if let Some(next) = &flight.next {
            self.counts.joined.add(1);
            return Ok(Boarding::Waiting(next.trip.told.subscribe()));
        }
        let (planned, told) = self.plan(want, None, load())?;
        self.counts.misses.add(1);
        flight.next = Some(planned);
        Ok(Boarding::Waiting(told))
    }

    fn refresh_ahead(self: &Arc<Self>, want: &Want<'_, K>, slot: &Slot<V>, now: Instant, load: impl Fn() -> Load<V>) {
        let standing = &want.supply.standing;
        let refresh = if standing.is_unsteady(want.secret, now) {
            let Some(refresh) = standing.claim(want.secret, now) else { return };
            Some(refresh)
        } else {
            None
        };
        if slot.claim_refresh() {
            self.load_in_background(want, refresh, load());
        }
    }

    /// Unless a load of the same is under way. Where there is no place for it, a reader will load it later.
    fn load_in_background(self: &Arc<Self>, want: &Want<'_, K>, refresh: Option<OwnedSemaphorePermit>, load: Load<V>) {
        let mut flights = self.flights();
        if flights.find(want.secret, want.key).is_none()
            && let Ok((planned, _)) = self.plan(want, refresh, load)
        {
            self.launch(&mut flights, want.secret, want.key.clone(), planned);
        }
    }

    fn plan(
        &self,
        want: &Want<'_, K>,
        refresh: Option<OwnedSemaphorePermit>,
        load: Load<V>,
    ) -> Result<(Planned<V>, watch::Receiver<State<V>>), Failure> {
        if self.errands.are_ending() {
            return Err(stopping());
        }
        let place = Arc::clone(&want.supply.places).try_acquire_owned().map_err(|_| crowded())?;
        let (told, listener) = watch::channel(State::Aloft);
        let trip = Trip { told, supply: Arc::clone(want.supply), life: want.life };
        Ok((Planned { load, trip, held: Held { _place: place, _refresh: refresh } }, listener))
    }

    fn launch(self: &Arc<Self>, flights: &mut Flights<K, V>, secret: &SecretName, key: K, planned: Planned<V>) {
        let Planned { load, trip, held } = planned;
        let number = flights.number();
        let stamp = Stamp {
            turn: self.revisions.turn(),
            position: self.revisions.position(),
            begun: self.clock.monotonic(),
            wall: self.clock.now(),
        };
        let (cache, name) = (Arc::clone(self), secret.clone());
        self.errands.spawn(async move {
            let ended = AssertUnwindSafe(load).catch_unwind().await;
            // Its place is free by the time that those who waited go on.
            drop(held);
            cache.land(&name, number, ended.unwrap_or_else(|_| Err(broken())));
        });
        flights.add(secret, Flight { key, number, stamp, trip, next: None });
    }

    fn land(self: &Arc<Self>, secret: &SecretName, number: u64, outcome: Result<V, Failure>) {
        let mut flights = self.flights();
        let Some(Flight { key, stamp, trip, next, .. }) = flights.land(secret, number) else { return };
        let standing = &trip.supply.standing;
        let now = self.clock.monotonic();
        match outcome.as_ref().err().map(Failure::reason) {
            // The store was not asked.
            Some(Reason::ProviderBudgetExhausted) => {}
            Some(reason) if verdict(reason) == Verdict::Unanswered => standing.failed(secret, now),
            _ => standing.answered(secret, now),
        }
        let early = self.spread.hash_one((secret, number)) as u8;
        let slot = Arc::new(Slot::new(outcome, stamp, trip.life, trip.supply.stale, f64::from(early) / 256.0));
        let before = self.lines.get(secret);
        if let Some(line) = Line::with(before.as_deref(), &key, &slot, now) {
            self.lines.insert(secret.clone(), Arc::new(line));
        }
        if let Some(next) = next {
            self.launch(&mut flights, secret, key, next);
        }
        drop(flights);
        trip.told.send_replace(State::Landed(slot));
    }

    fn flights(&self) -> MutexGuard<'_, Flights<K, V>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn found<V: Kept>(slot: &Slot<V>, source: Source) -> Result<Found<V>, Failure> {
    match &slot.outcome {
        Ok(value) => Ok(Found {
            value: value.clone(),
            source,
            position: slot.stamp.position,
            loaded: slot.stamp.wall,
            fresh_until: slot.fresh_until_wall,
        }),
        Err(failure) => Err(failure.clone()),
    }
}

fn crowded() -> Failure {
    let message = format!("the store has {MAX_LOADS} loads under way and takes no more; retry with backoff");
    Failure::new(Reason::Overloaded, message)
}

fn stopping() -> Failure {
    Failure::new(Reason::Draining, "this replica is shutting down; reconnect elsewhere")
}

fn broken() -> Failure {
    Failure::new(Reason::Internal, "the load ended in a defect of the broker; report this with its log")
}

impl Source {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "CACHE",
            Self::Provider => "PROVIDER",
            Self::Stale => "STALE",
        }
    }
}
