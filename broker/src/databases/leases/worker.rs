//! Ends leases: when their time is over, when somebody decided it, and again until it is done.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::book::Held;
use super::record::{Cause, Lease, Stage};
use super::{Inner, LEASES, Leases, OpenError, Point, key};
use crate::clock::Timestamp;
use crate::error::Failure;
use crate::names::{DatabaseName, LeaseName};
use crate::state::{Condition, Fence, Outcome, Position, Prefix, Revision, Txn, WatchEnd, Watched};

/// The clock is looked at so often at least: it can be set.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);
const FIRST_DELAY: Duration = Duration::from_millis(500);
pub(super) const LONGEST_DELAY: Duration = Duration::from_secs(15);
/// After a failure, so that a database that is down is not knocked at for each of its leases at once.
pub(super) const PAUSE: Duration = Duration::from_millis(250);

impl Leases {
    pub(super) fn start(&self, read: Option<Position>) -> Result<(), OpenError> {
        let prefix = Prefix::new(&LEASES, &[])?;
        // Whoever leads would wait for another node's mint as long as one may take, and the caller who repeats it as long.
        let abandoned = self.0.book().abandoned_by(&self.0.node);
        for (lease, issue) in abandoned {
            let inner = Arc::clone(&self.0);
            self.spawn(inner.give_up(lease, issue));
        }
        for (name, database) in &self.0.databases {
            // The others stay for mints.
            for _ in 0..(database.settings.connections / 2).max(1) {
                self.spawn(self.clone().work(name.clone()));
            }
            self.spawn(self.clone().sweep_for_ever(name.clone()));
        }
        self.spawn(self.clone().follow(prefix, read));
        Ok(())
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.0.stop.clone();
        self.0.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Keeps up with what other replicas write.
    async fn follow(self, prefix: Prefix, mut read: Option<Position>) {
        loop {
            let Some(Position { epoch, revision }) = &mut read else {
                sleep(PAUSE).await;
                read = self.read_all().await.unwrap_or(None);
                continue;
            };
            let mut watch = self.0.state.watch(*epoch, prefix.clone(), revision.next());
            let end = loop {
                match watch.next().await {
                    Ok(Watched::Progress(seen)) => *revision = seen,
                    Ok(Watched::Batch(batch)) => {
                        *revision = batch.revision;
                        for change in &batch.changes {
                            self.0.changed_elsewhere(change, batch.revision);
                        }
                    }
                    Err(end) => break end,
                }
            };
            // What was committed before the end is in the book by then.
            sleep(PAUSE).await;
            match end {
                WatchEnd::Compacted { .. } => {
                    if let Ok(again @ Some(_)) = self.read_all().await {
                        read = again;
                    }
                }
                WatchEnd::Replaced => {
                    self.0.book().doubt();
                    if let Ok(again @ Some(_)) = self.read_all().await {
                        tracing::warn!(
                            "the state's history was replaced by another; the leases are those of the new one"
                        );
                        self.0.book().drop_doubtful();
                        read = again;
                    }
                }
                WatchEnd::Unavailable(error) => {
                    tracing::warn!(%error, "the leases' changes cannot be followed for now");
                }
            }
        }
    }

    async fn work(self, database: DatabaseName) {
        let mut leadership = self.0.state.leadership();
        loop {
            let fence = leadership.elected().await;
            let changed = self.0.changed.notified();
            let now = self.0.clock.now();
            let next = self.0.book().take_due(database.as_str(), now);
            match next {
                Ok(lease) => {
                    let outcome = self.0.attend(&lease, fence).await;
                    if let Err(failure) = outcome {
                        self.0.put_off(&lease, failure);
                        self.0.let_go(&lease);
                        sleep(PAUSE).await;
                    } else {
                        self.0.let_go(&lease);
                    }
                }
                Err(due) => {
                    let wait = due.map_or(LONGEST_SLEEP, |due| due.since(now).min(LONGEST_SLEEP));
                    let _ = tokio::time::timeout(wait, changed).await;
                }
            }
        }
    }
}

impl Inner {
    /// Does what the lease's stage asks for now. Begins with what is on record.
    async fn attend(&self, name: &LeaseName, fence: Fence) -> Result<(), Failure> {
        let Some((mut lease, mut revision)) = self.read(name).await? else {
            self.book().remove(name);
            return Ok(());
        };
        let now = self.clock.now();
        if lease.is_live() {
            let Some(cause) = end_of(&lease, now) else {
                // It was renewed elsewhere.
                self.book().put(lease, revision, now, &self.node);
                return Ok(());
            };
            self.decide(name, cause, Some(fence)).await?;
            // Nobody's user waits for the decisions about all others. While the database is out, those come first.
            let is_out = self.database(&lease.role)?.users.account().failure.is_some();
            let decided = if is_out { None } else { self.read(name).await? };
            let Some(decided) = decided else { return Ok(()) };
            (lease, revision) = decided;
        }
        match &lease.stage {
            Stage::Pending | Stage::Active => Ok(()),
            Stage::Revoking { cause, since } => {
                self.failpoints.reach(Point::RevokeBegun);
                let database = self.database(&lease.role)?;
                let settings = database.settings.roles.get(lease.role.id());
                let heir = settings.and_then(|role| role.heir.as_ref().or(role.groups.first()));
                let heir = heir.unwrap_or(&database.settings.user);
                database.users.remove(&lease.user, heir).await?;
                self.failpoints.reach(Point::RevokeRemoved);
                let gone = Stage::Revoked { cause: *cause, since: *since, gone: self.clock.now() };
                self.write(&lease.at(gone), revision, Some(fence), |txn| txn).await?;
                self.failpoints.reach(Point::RevokeEnded);
                Ok(())
            }
            Stage::Revoked { .. } => {
                let key = key(name)?;
                let txn = Txn::new().when(Condition::Unchanged(key.clone(), revision)).delete(&key);
                if let Outcome::Committed(_) = self.state.commit(txn.when(Condition::Leads(fence))).await? {
                    self.book().remove(name);
                }
                Ok(())
            }
        }
    }

    /// Tried again later, for ever.
    fn put_off(&self, name: &LeaseName, failure: Failure) {
        let mut book = self.book();
        let attempts = book.get(name).map_or(0, Held::attempts);
        let delay = FIRST_DELAY.saturating_mul(1 << attempts.min(10)).min(LONGEST_DELAY);
        if attempts == 0 || attempts.is_power_of_two() {
            let (reason, cause) = (failure.reason().as_str_name(), failure.cause());
            tracing::warn!(lease = %name, attempts, reason, cause, "a database user could not be removed; tried again");
        }
        book.failed(name, failure, self.clock.now().plus(delay));
    }

    fn changed_elsewhere(&self, change: &crate::state::Change, revision: Revision) {
        let name = change.key.segments().next().and_then(|id| LeaseName::from_id(&id).ok());
        let Some(name) = name else { return };
        // Most are this replica's own.
        if self.book().get(&name).is_some_and(|held| held.revision >= revision) {
            return;
        }
        match self.state.changed::<Lease>(change) {
            Some(lease) => self.book().put(lease, revision, self.clock.now(), &self.node),
            None if self.book().get(&name).is_some_and(|held| !held.in_hand) => {
                self.book().remove(&name);
            }
            None => {}
        }
        self.tell(&name);
    }
}

impl Inner {
    /// Calls the workers, unless they will look in time by themselves: a mint is no news to them.
    pub(super) fn tell(&self, name: &LeaseName) {
        let soon = self.clock.now().plus(LONGEST_SLEEP);
        let is_far = |held: &Held| (held.lease.stage == Stage::Active && held.lease.expires > soon) || held.in_hand;
        if !self.book().get(name).is_some_and(is_far) {
            self.changed.notify_waiters();
        }
    }
}

/// Why a live lease must end now, if it must.
fn end_of(lease: &Lease, now: Timestamp) -> Option<Cause> {
    let pending = (lease.stage == Stage::Pending).then_some(Cause::MintIncomplete);
    pending.or((lease.expires <= now).then_some(Cause::Expired))
}
