//! All rotations in memory, and which of them wants attention when. The state is the truth; this follows it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::record::{Rotation, Stage, StrategyKind};
use crate::clock::Timestamp;
use crate::names::{RotationName, SecretName};
use crate::state::Revision;

/// For how long a rotation that is over can be asked about.
pub(super) const RETENTION: Duration = Duration::from_hours(7 * 24);

#[derive(Debug, Default)]
pub(super) struct Book {
    rotations: BTreeMap<RotationName, Held>,
    due: BTreeSet<(Timestamp, RotationName)>,
    /// Whether it was read at all.
    pub(super) is_read: bool,
}

/// Rotations, by what they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Before the new version is current.
    pub running: usize,
    /// The old version is not out of use yet.
    pub retiring: usize,
    pub failed: usize,
    /// When the oldest of those began that are not over.
    pub oldest: Option<Timestamp>,
    pub next_start: Option<Timestamp>,
}

#[derive(Debug)]
struct Held {
    rotation: Arc<Rotation>,
    revision: Revision,
    /// A worker has it in hand and will say what comes next.
    in_hand: bool,
    due: Timestamp,
}

impl Book {
    /// Newest first, those below a name where one is given.
    pub(super) fn newest<'a>(
        &'a self,
        below: Option<&'a RotationName>,
    ) -> impl Iterator<Item = (&'a Arc<Rotation>, Revision)> {
        let all = self.rotations.iter().rev().skip_while(move |(name, _)| below.is_some_and(|below| *name >= below));
        all.map(|(_, held)| (&held.rotation, held.revision))
    }

    pub(super) fn get(&self, name: &RotationName) -> Option<(&Arc<Rotation>, Revision)> {
        self.rotations.get(name).map(|held| (&held.rotation, held.revision))
    }

    pub(super) fn counts(&self, counts_still: impl Fn(Timestamp) -> bool) -> Counts {
        let mut counts = Counts::default();
        for rotation in self.rotations.values().map(|held| &held.rotation) {
            match rotation.stage() {
                Stage::Planned | Stage::Created | Stage::Set | Stage::Tested => counts.running += 1,
                Stage::Current | Stage::Retiring => counts.retiring += 1,
                Stage::Failed => counts.failed += usize::from(counts_still(rotation.reached())),
                Stage::Retired | Stage::Cancelled => {}
            }
            if !rotation.settled {
                let oldest = counts.oldest.unwrap_or(rotation.created);
                counts.oldest = Some(oldest.min(rotation.created));
            }
        }
        counts
    }

    /// Whether one that is not over has any of the secrets in hand.
    pub(super) fn is_busy(&self, secrets: &[SecretName]) -> bool {
        let unsettled = self.rotations.values().filter(|held| !held.rotation.settled);
        unsettled.flat_map(|held| &held.rotation.targets).any(|target| secrets.contains(&target.secret))
    }

    /// What the state says, if it is news.
    pub(super) fn put(&mut self, rotation: Rotation, revision: Revision, now: Timestamp) {
        let name = rotation.name.clone();
        let known = self.rotations.get(&name);
        if known.is_some_and(|held| held.revision >= revision) {
            return;
        }
        let in_hand = known.is_some_and(|held| held.in_hand);
        let due = if rotation.settled { rotation.updated.plus(RETENTION) } else { now };
        self.remove(&name);
        self.rotations.insert(name.clone(), Held { rotation: Arc::new(rotation), revision, in_hand, due });
        if !in_hand {
            self.due.insert((due, name));
        }
    }

    pub(super) fn remove(&mut self, name: &RotationName) {
        if let Some(held) = self.rotations.remove(name) {
            self.due.remove(&(held.due, name.clone()));
        }
    }

    pub(super) fn retain(&mut self, is_there: impl Fn(&RotationName) -> bool) {
        let gone: Vec<_> = self.rotations.keys().filter(|name| !is_there(name)).cloned().collect();
        gone.iter().for_each(|name| self.remove(name));
    }

    /// Another history has taken the place of the one that was followed: whatever it says is news.
    pub(super) fn doubt(&mut self) {
        self.rotations.values_mut().for_each(|held| held.revision = Revision::default());
    }

    /// The next that wants attention, now in hand; or when the first one will.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Result<RotationName, Option<Timestamp>> {
        let Some((due, name)) = self.due.first().cloned() else { return Err(None) };
        if due > now {
            return Err(Some(due));
        }
        self.due.pop_first();
        if let Some(held) = self.rotations.get_mut(&name) {
            held.in_hand = true;
        }
        Ok(name)
    }

    /// Its worker knew it as of `revision`: what was written since is looked at without delay.
    pub(super) fn let_go(&mut self, name: &RotationName, revision: Revision, next: Timestamp) {
        if let Some(held) = self.rotations.get_mut(name) {
            held.in_hand = false;
            if held.revision <= revision {
                held.due = next;
            }
            self.due.insert((held.due, name.clone()));
        }
    }

    /// What waits for others is looked at again.
    pub(super) fn wake(&mut self, now: Timestamp) {
        let Self { rotations, due, .. } = self;
        for (name, held) in rotations.iter_mut().filter(|(_, held)| !held.in_hand && waits(&held.rotation)) {
            due.remove(&(held.due, name.clone()));
            held.due = held.due.min(now);
            due.insert((held.due, name.clone()));
        }
    }
}

/// For subscribers, or for somebody to add a version; not for the end of a failure.
fn waits(rotation: &Rotation) -> bool {
    match rotation.stage() {
        Stage::Retiring => rotation.attempts() == 0,
        Stage::Planned => rotation.strategy == StrategyKind::External,
        Stage::Created
        | Stage::Set
        | Stage::Tested
        | Stage::Current
        | Stage::Retired
        | Stage::Failed
        | Stage::Cancelled => false,
    }
}
