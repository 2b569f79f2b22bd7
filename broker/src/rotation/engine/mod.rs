//! The engine: replaces the value of a secret by a new version, in all stores that share it, and takes the old one out
//! of use.
//!
//! A rotation is a record in the state. Each of its steps can be repeated and is on record before the next one begins,
//! so that whoever leads after a crash goes on where it stopped. Up to `Tested` the old version is the current one and a
//! failure leaves it so; from `Current` on there is no way but forward, unless an operator stops it.
//!
//! A value exists in memory only, between its making and its storing. Its digest goes on record before it is sent to any
//! store: by it the version is found whose addition nobody lived to hear of.

mod attempt;
mod book;
mod calls;
mod ending;
mod own;
mod record;
mod steps;
mod timetable;
mod worker;

use std::collections::{BTreeMap, HashMap};
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::book::Book;
pub use self::book::Counts;
pub use self::calls::{Order, check_retirable};
pub use self::record::{Rotation, Stage, Step, StrategyKind, Target, Trouble};
pub(crate) use self::timetable::Timetable;
use super::Log;
use super::holders::{Holders, Release, Tally};
use super::settings::RotationSettings;
use super::strategies::postgres::Logins;
use crate::clock::{SharedClock, Timestamp};
use crate::error::{Failure, Reason};
use crate::failpoints::Failpoints;
use crate::names::{DatabaseName, RotationName, SecretName};
use crate::secrets::Custody;
use crate::state::{Key, KeyError, Revision, State};

/// How old a list's counts of subscribers may be.
const LATELY: Duration = Duration::from_secs(1);
/// For how long a failure is counted.
const DAY: Duration = Duration::from_hours(24);

/// All rotations, and the tasks that carry them out. Clones share them.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// By the NAME of `[rotations.NAME]`.
    plans: BTreeMap<String, RotationSettings>,
    logins: BTreeMap<DatabaseName, Arc<dyn Logins>>,
    custody: Custody,
    log: Log,
    state: State,
    holders: Arc<dyn Holders>,
    clock: SharedClock,
    failpoints: Arc<dyn Failpoints>,
    book: Mutex<Book>,
    /// What was counted for lists.
    lately: Mutex<HashMap<RotationName, (Instant, Tally)>>,
    /// When a schedule starts the next rotation, as far as this replica knows: while it leads.
    next_start: Mutex<Option<Timestamp>>,
    /// Told whenever something may be due earlier than it seemed.
    changed: Notify,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What the engine is started with.
#[derive(Debug)]
pub struct Opening {
    pub plans: BTreeMap<String, RotationSettings>,
    pub logins: BTreeMap<DatabaseName, Arc<dyn Logins>>,
    pub custody: Custody,
    pub log: Log,
    pub state: State,
    pub holders: Arc<dyn Holders>,
    pub clock: SharedClock,
    pub failpoints: Arc<dyn Failpoints>,
    /// Cancelled, the workers end, also where nobody stops the engine in order.
    pub stop: CancellationToken,
}

impl Engine {
    /// Returns at once: a state that is out is waited for in the background.
    pub fn start(opening: Opening) -> Result<Self, KeyError> {
        let Opening { plans, logins, custody, log, state, holders, clock, failpoints, stop } = opening;
        let engine = Self(Arc::new(Inner {
            plans,
            logins,
            custody,
            log,
            state,
            holders,
            clock,
            failpoints,
            book: Mutex::default(),
            lately: Mutex::default(),
            next_start: Mutex::default(),
            changed: Notify::new(),
            tasks: TaskTracker::new(),
            stop,
        }));
        engine.work()?;
        Ok(engine)
    }

    /// Lets go of what is under way; it is on record.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// As it is on record, and since when.
    pub async fn find(&self, name: &RotationName) -> Result<(Rotation, Revision), Failure> {
        self.0.read(name).await?.ok_or_else(|| no_such_rotation(name))
    }

    /// Newest first, those below `below` where it is given, as far as this replica has followed.
    pub fn list(&self, below: Option<&RotationName>, most: usize) -> Result<Vec<(Arc<Rotation>, Revision)>, Failure> {
        let book = self.0.book();
        if !book.is_read {
            let message = "this replica has not read the rotations yet; retry shortly";
            return Err(Failure::new(Reason::StateUnavailable, message));
        }
        let found = book.newest(below).take(most);
        Ok(found.map(|(rotation, revision)| (Arc::clone(rotation), revision)).collect())
    }

    /// How many run the new version or a newer one, and how many do not.
    pub async fn tally(&self, rotation: &Rotation) -> Result<Tally, Failure> {
        self.0.tally(rotation).await
    }

    /// The same, as it was within the last second: a list asks about many, and each is counted over all subscribers.
    pub async fn tally_lately(&self, rotation: &Rotation) -> Result<Tally, Failure> {
        let now = self.0.clock.monotonic();
        let is_late = |counted: Instant| now.saturating_duration_since(counted) < LATELY;
        let known = self.0.lately().get(&rotation.name).copied();
        if let Some((_, tally)) = known.filter(|(counted, _)| is_late(*counted)) {
            return Ok(tally);
        }
        let tally = self.0.tally(rotation).await?;
        let mut lately = self.0.lately();
        lately.retain(|_, (counted, _)| is_late(*counted));
        lately.insert(rotation.name.clone(), (now, tally));
        Ok(tally)
    }

    /// The secret's fellow targets, which whoever rotates it must be permitted to rotate, too. Fails where nothing is
    /// configured.
    pub async fn fellows(&self, secret: &SecretName) -> Result<Vec<SecretName>, Failure> {
        match self.0.plan_of(secret) {
            Ok((_, settings)) => Ok(settings.targets.iter().filter(|target| *target != secret).cloned().collect()),
            // Of a secret that does not exist, that is what there is to say.
            Err(not_configured) => Err(self.0.custody.newest(secret).await.err().unwrap_or(not_configured)),
        }
    }

    /// How many there are, as far as this replica has followed.
    pub fn counts(&self) -> Counts {
        let now = self.0.clock.now();
        let counts = self.0.book().counts(|failed| failed.plus(DAY) >= now);
        Counts { next_start: *self.0.next_start(), ..counts }
    }

    /// Of the log whose revisions rotations tell.
    pub fn epoch(&self) -> String {
        self.0.state.status().epoch.map(|epoch| epoch.to_string()).unwrap_or_default()
    }
}

impl Inner {
    fn lately(&self) -> MutexGuard<'_, HashMap<RotationName, (Instant, Tally)>> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_start(&self) -> MutexGuard<'_, Option<Timestamp>> {
        self.next_start.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rotation as the state has it now.
    async fn read(&self, name: &RotationName) -> Result<Option<(Rotation, Revision)>, Failure> {
        let stored = self.state.get::<Rotation>(&key(name)?).await?;
        Ok(stored.map(|stored| (stored.record, stored.revision)))
    }

    fn put(&self, rotation: Rotation, revision: Revision) {
        self.book().put(rotation, revision, self.clock.now());
        self.changed.notify_waiters();
    }

    /// Of each target that has its version.
    async fn releases(&self, rotation: &Rotation) -> Result<Vec<Release>, Failure> {
        let mut releases = Vec::with_capacity(rotation.targets.len());
        for target in &rotation.targets {
            let Some(version) = &target.version else { continue };
            let mut release = Release { secret: target.secret.clone(), versions: vec![version.to_string()] };
            // What seems behind may be ahead, which only the log can tell.
            if self.holders.tally(slice::from_ref(&release)).pending > 0
                && let Some(standing) = self.log.standing(&target.secret).await?
            {
                release.versions = standing.record.since(version).map(str::to_owned).collect();
            }
            releases.push(release);
        }
        Ok(releases)
    }

    async fn tally(&self, rotation: &Rotation) -> Result<Tally, Failure> {
        // Before and after that nobody is waited for.
        if !matches!(rotation.stage(), Stage::Current | Stage::Retiring) {
            return Ok(Tally::default());
        }
        Ok(self.holders.tally(&self.releases(rotation).await?))
    }

    fn plan_of(&self, secret: &SecretName) -> Result<(&str, &RotationSettings), Failure> {
        let plan = self.plans.iter().find(|(_, settings)| settings.targets.contains(secret));
        plan.map(|(name, settings)| (name.as_str(), settings)).ok_or_else(|| {
            let message =
                format!("no rotation is configured for {secret}; add it to the targets of a [rotations.NAME]");
            Failure::new(Reason::RotationNotConfigured, message)
        })
    }
}

fn key(name: &RotationName) -> Result<Key, Failure> {
    Key::new(&record::ROTATIONS, &[name.id()]).map_err(|error| {
        Failure::new(Reason::Internal, "a rotation has no key in the state; report this").caused_by(error)
    })
}

/// What those hear who may not know of it, too.
pub fn no_such_rotation(name: &RotationName) -> Failure {
    let message = format!("{name} does not exist, or you may not see it; ListRotations shows those that you may");
    Failure::new(Reason::RotationNotFound, message)
}
