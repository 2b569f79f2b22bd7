//! What is kept of one secret: for each thing that was asked of it, the last answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::freshness::{Verdict, spans_all_versions, verdict};
use super::{Demand, Kept};
use crate::clock::Timestamp;
use crate::error::Failure;
use crate::secrets::revision::Turn;
use crate::state::{Position, Revision};

/// Versions of one secret that are kept; more than anybody should need at a time.
const MAX_SLOTS: usize = 64;
/// What the allocator and the cache itself spend on a secret and on each answer; `tests/memory.rs` holds it to the truth.
const LINE_BYTES: usize = 650;
const SLOT_BYTES: usize = 350;

/// When a load began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) turn: Turn,
    pub(super) position: Option<Position>,
    pub(super) begun: Instant,
    pub(super) wall: Timestamp,
}

impl Stamp {
    /// What began then reflects what happened up to the revision.
    pub(super) fn knows(&self, revision: Revision) -> bool {
        revision == Revision::default() || self.position.is_some_and(|position| position.revision >= revision)
    }
}

/// One answer, good or bad, and how long it may be served.
pub(crate) struct Slot<V> {
    pub(super) outcome: Result<V, Failure>,
    pub(super) stamp: Stamp,
    pub(super) fresh_until: Instant,
    pub(super) fresh_until_wall: Timestamp,
    refresh_from: Instant,
    stale_until: Instant,
    refresh_begun: AtomicBool,
}

impl<V: Kept> Slot<V> {
    /// `life` and `stale` as the store's settings have it; `early`, below 1, spreads the refreshes of what was loaded together.
    pub(super) fn new(outcome: Result<V, Failure>, stamp: Stamp, life: Duration, stale: Duration, early: f64) -> Self {
        let (life, stale) = match &outcome {
            Ok(value) => {
                // Past its end at the provider nothing is handed out, not even as stale.
                let rest = value.expires().map_or(Duration::MAX, |end| end.since(stamp.wall));
                let life = life.min(rest);
                (life, stale.min(rest - life))
            }
            Err(failure) => match verdict(failure.reason()) {
                Verdict::Refused(kept) => (kept.min(life), Duration::ZERO),
                Verdict::Unanswered | Verdict::Unclear => (Duration::ZERO, Duration::ZERO),
            },
        };
        let fresh_until = stamp.begun + life;
        Self {
            outcome,
            stamp,
            fresh_until,
            fresh_until_wall: stamp.wall.plus(life),
            refresh_from: stamp.begun + life.mul_f64(0.75 + 0.2 * early),
            stale_until: fresh_until + stale,
            refresh_begun: AtomicBool::new(false),
        }
    }

    pub(super) fn satisfies(&self, demand: Demand<'_>, now: Instant) -> bool {
        let young = demand.max_age.is_none_or(|most| is_within(self.stamp.begun, most, now));
        now < self.fresh_until && young && self.stamp.knows(demand.min_revision)
    }

    /// In the last part of its life, until somebody had it refreshed.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.refresh_from && self.outcome.is_ok() && !self.refresh_begun.load(Relaxed)
    }

    /// True for one reader alone.
    pub(super) fn claim_refresh(&self) -> bool {
        !self.refresh_begun.swap(true, Relaxed)
    }

    /// Whether it may stand in for an answer that the provider does not give.
    pub(super) fn may_serve_stale(&self, demand: Demand<'_>, now: Instant) -> bool {
        let undemanding = demand.max_age.is_none() && demand.min_revision == Revision::default();
        undemanding && self.outcome.is_ok() && now < self.stale_until
    }

    fn weight(&self) -> usize {
        SLOT_BYTES + self.outcome.as_ref().map_or(0, Kept::weight)
    }
}

/// With no age allowed at all, whatever began before is too old, even within the same tick of the clock.
pub(super) fn is_within(begun: Instant, most: Duration, now: Instant) -> bool {
    !most.is_zero() && now.saturating_duration_since(begun) <= most
}

/// All that is kept of one secret. Never changed, only replaced, so that readers need no lock.
pub(super) struct Line<K, V> {
    slots: Box<[(K, Arc<Slot<V>>)]>,
}

impl<K: Eq + Clone, V: Kept<Key = K>> Line<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&Arc<Slot<V>>> {
        self.slots.iter().find(|(known, _)| known == key).map(|(_, slot)| slot)
    }

    /// With the answer of one more load, where it is to be kept.
    pub(super) fn with(before: Option<&Self>, key: &K, slot: &Arc<Slot<V>>, now: Instant) -> Option<Self> {
        let alone = match &slot.outcome {
            Ok(_) => false,
            Err(failure) => match verdict(failure.reason()) {
                Verdict::Refused(_) => spans_all_versions(failure.reason()),
                Verdict::Unanswered | Verdict::Unclear => return None,
            },
        };
        let others = before.filter(|_| !alone).into_iter().flat_map(|line| line.slots.iter());
        // A version is refused under whichever of its names it was asked for.
        let refused = |known: &K, other: &Slot<V>| {
            let former = before.and_then(|line| line.get(key)).and_then(|slot| slot.outcome.as_ref().ok());
            slot.outcome.is_err()
                && other.outcome.as_ref().is_ok_and(|value| {
                    value.is_pinned_by(key) || former.is_some_and(|former| former.is_pinned_by(known))
                })
        };
        // What nobody may be served any more would live on with the line.
        let kept = others.filter(|(known, other)| known != key && now < other.stale_until && !refused(known, other));
        let mut slots: Vec<_> = kept.cloned().collect();
        if slots.len() >= MAX_SLOTS {
            // Anybody can have versions refused that never were.
            slots.sort_by_key(|(_, slot)| (slot.outcome.is_ok(), slot.stamp.begun));
            slots.drain(..=slots.len() - MAX_SLOTS);
        }
        slots.push((key.clone(), Arc::clone(slot)));
        Some(Self { slots: slots.into() })
    }

    /// Without what was loaded before `turn`; `None` when nothing is left.
    pub(super) fn since(&self, turn: Turn) -> Option<Self> {
        let kept: Box<[_]> = self.slots.iter().filter(|(_, slot)| slot.stamp.turn >= turn).cloned().collect();
        (!kept.is_empty()).then_some(Self { slots: kept })
    }

    pub(super) fn has_value(&self) -> bool {
        self.slots.iter().any(|(_, slot)| slot.outcome.is_ok())
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn weight(&self) -> usize {
        LINE_BYTES + self.slots.iter().map(|(_, slot)| slot.weight()).sum::<usize>()
    }
}
