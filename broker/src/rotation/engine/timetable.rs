//! Starts what is due by schedule. Runs that were missed are made up for by one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::worker::LONGEST_SLEEP;
use super::{Engine, Inner};
use crate::clock::Timestamp;
use crate::error::{Failure, Reason};
use crate::rotation::Origin;
use crate::rotation::schedule::Schedule;
use crate::rotation::settings::RotationSettings;
use crate::state::{Condition, Fence, Key, Kind, Outcome, Record, Revision, Txn};

static TIMETABLES: Kind = Kind { name: "rotation-schedules", upgrades: &[] };

/// When a schedule last started a rotation, or was first seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Timetable {
    last: Timestamp,
}

impl Record for Timetable {
    const KIND: &'static Kind = &TIMETABLES;
}

/// What this replica knows of one schedule while it leads.
#[derive(Clone, Copy, Debug)]
struct Known {
    last: Timestamp,
    revision: Revision,
    /// After a failure: not before.
    not_before: Timestamp,
}

/// After a start that failed.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(15);

impl Engine {
    pub(super) async fn keep_time(self) {
        let mut leadership = self.0.state.leadership();
        let (mut led_by, mut known) = (None, BTreeMap::new());
        loop {
            let fence = leadership.elected().await;
            if led_by != Some(fence) {
                // Another leader may have started some.
                known.clear();
                led_by = Some(fence);
            }
            let mut next_start: Option<Timestamp> = None;
            for (name, settings) in &self.0.plans {
                let Some(schedule) = &settings.schedule else { continue };
                if let Err(failure) = self.0.start_if_due(name, settings, schedule, fence, &mut known).await {
                    let (reason, cause) = (failure.reason().as_str_name(), failure.cause());
                    tracing::warn!(
                        rotation = name,
                        reason,
                        cause,
                        message = failure.message(),
                        "a scheduled rotation could not be started; tried again"
                    );
                    if let Some(known) = known.get_mut(name.as_str()) {
                        known.not_before = self.0.clock.now().plus(PAUSE);
                    }
                }
                let last = known.get(name.as_str()).map(|known| known.last);
                let start = last.and_then(|last| schedule.next(name, last, settings.window.as_ref()));
                next_start = next_start.into_iter().chain(start).min();
            }
            *self.0.next_start() = next_start;
            sleep(LONGEST_SLEEP).await;
        }
    }
}

impl Inner {
    async fn start_if_due<'a>(
        &self,
        name: &'a str,
        settings: &RotationSettings,
        schedule: &Schedule,
        fence: Fence,
        cache: &mut BTreeMap<&'a str, Known>,
    ) -> Result<(), Failure> {
        let now = self.clock.now();
        let key = key(name)?;
        let known = match cache.get(name) {
            Some(known) => *known,
            None => {
                let Some((last, revision)) = self.last_run(&key, fence, now).await? else { return Ok(()) };
                let known = Known { last, revision, not_before: now };
                cache.insert(name, known);
                known
            }
        };
        let due = schedule.next(name, known.last, settings.window.as_ref()).is_some_and(|start| start <= now);
        let is_free = {
            let book = self.book();
            book.is_read && !book.is_busy(&settings.targets)
        };
        // One that still runs is not doubled; this one starts when it has ended.
        if !due || now < known.not_before || !is_free {
            return Ok(());
        }
        let Some(first) = settings.targets.first() else { return Ok(()) };
        let mut draft = self.draft(name, settings, first, now)?;
        draft.origin = Origin::Schedule;
        let unchanged = Condition::Unchanged(key.clone(), known.revision);
        self.start(draft, Some(fence), |txn, _, now| txn.when(unchanged.clone()).put(&key, &Timetable { last: now }))
            .await?;
        // Started here or by somebody else: it is read anew.
        cache.remove(name);
        Ok(())
    }

    /// A schedule that is seen for the first time counts from now on.
    async fn last_run(
        &self,
        key: &Key,
        fence: Fence,
        now: Timestamp,
    ) -> Result<Option<(Timestamp, Revision)>, Failure> {
        if let Some(stored) = self.state.get::<Timetable>(key).await? {
            return Ok(Some((stored.record.last, stored.revision)));
        }
        let txn = Txn::new().when(Condition::Absent(key.clone())).when(Condition::Leads(fence));
        match self.state.commit(txn.put(key, &Timetable { last: now })).await? {
            Outcome::Committed(revision) => Ok(Some((now, revision))),
            Outcome::Conflict(_) | Outcome::Unknown => Ok(None),
        }
    }
}

fn key(name: &str) -> Result<Key, Failure> {
    Key::new(&TIMETABLES, &[name]).map_err(|error| {
        Failure::new(Reason::Internal, "a schedule has no key in the state; report this").caused_by(error)
    })
}
