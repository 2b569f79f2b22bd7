//! Carries rotations out, on the replica that leads.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::sleep;

use super::attempt::{Attempt, Halt, Next};
use super::record::{ROTATIONS, Rotation};
use super::{Engine, Inner, key};
use crate::error::Failure;
use crate::names::RotationName;
use crate::state::{
    Change, Condition, Fence, KeyError, ListPage, Prefix, Revision, StateError, Txn, WatchEnd, Watched,
};

/// Rotations that are worked on at a time.
const WORKERS: usize = 4;
/// The clock is looked at so often at least: it can be set.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_millis(500);
/// After a failure of the state, and between two looks at who holds what.
const PAUSE: Duration = Duration::from_millis(250);
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

impl Engine {
    pub(super) fn work(&self) -> Result<(), KeyError> {
        let prefix = Prefix::new(&ROTATIONS, &[])?;
        for _ in 0..WORKERS {
            self.spawn(self.clone().attend_for_ever());
        }
        self.spawn(self.clone().follow(prefix));
        self.spawn(self.clone().watch_others());
        self.spawn(self.clone().keep_time());
        Ok(())
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.0.stop.clone();
        self.0.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Keeps up with what other replicas, and calls to this one, write.
    async fn follow(self, prefix: Prefix) {
        let mut known = None;
        loop {
            let Some(epoch) = self.0.state.status().epoch else {
                // It has not been reached.
                sleep(PAUSE).await;
                continue;
            };
            if known.replace(epoch).is_some_and(|known| known != epoch) {
                self.0.book().doubt();
            }
            let mut revision = match self.0.read_all(&prefix).await {
                Ok(revision) => revision,
                Err(error) => {
                    tracing::warn!(%error, "the rotations cannot be read for now; tried again");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let end = loop {
                let mut watch = self.0.state.watch(epoch, prefix.clone(), revision.next());
                let end = loop {
                    match watch.next().await {
                        Ok(Watched::Progress(seen)) => revision = seen,
                        Ok(Watched::Batch(batch)) => {
                            revision = batch.revision;
                            batch.changes.iter().for_each(|change| self.0.changed_elsewhere(change, batch.revision));
                        }
                        Err(end) => break end,
                    }
                };
                match end {
                    WatchEnd::Compacted { .. } | WatchEnd::Replaced => break end,
                    WatchEnd::Unavailable(_) => sleep(PAUSE).await,
                }
            };
            tracing::warn!(%end, "the rotations are read anew");
            // What was committed before the end is in the book by then.
            sleep(PAUSE).await;
        }
    }

    /// Subscribers acknowledge, and others add versions.
    async fn watch_others(self) {
        let (mut holders, mut log) = (self.0.holders.changed(), self.0.log.watcher());
        loop {
            let changed = tokio::select! {
                changed = holders.changed() => changed,
                changed = log.changed() => changed,
            };
            if changed.is_err() {
                // Whoever told of changes is gone; deadlines remain.
                return std::future::pending().await;
            }
            self.0.book().wake(self.0.clock.now());
            self.0.changed.notify_waiters();
            sleep(PAUSE).await;
        }
    }

    async fn attend_for_ever(self) {
        let mut leadership = self.0.state.leadership();
        loop {
            let fence = leadership.elected().await;
            let changed = self.0.changed.notified();
            let now = self.0.clock.now();
            let next = self.0.book().take_due(now);
            match next {
                Ok(name) => self.0.attend(&name, fence).await,
                Err(due) => {
                    let wait = due.map_or(LONGEST_SLEEP, |due| due.since(now).min(LONGEST_SLEEP));
                    // Out of time: the clock is looked at again.
                    let _ = tokio::time::timeout(wait, changed).await;
                }
            }
        }
    }
}

impl Inner {
    /// Does what can be done now. Begins with what is on record.
    async fn attend(&self, name: &RotationName, fence: Fence) {
        let (outcome, revision) = match self.read(name).await {
            Ok(Some((rotation, revision))) => {
                let mut attempt = Attempt::new(self, fence, rotation, revision);
                let outcome = attempt.go().await;
                (outcome, attempt.revision())
            }
            Ok(None) => {
                self.book().remove(name);
                return;
            }
            Err(failure) => {
                let known = self.book().get(name).map(|(_, revision)| revision);
                (Err(Halt::Failed(failure)), known.unwrap_or_default())
            }
        };
        let now = self.clock.now();
        let next = match outcome {
            Ok(Next::At(time)) => time,
            Ok(Next::Forget) => match self.forget(name, revision, fence).await {
                Ok(()) => return,
                Err(_) => now.plus(LONGEST_DELAY),
            },
            // Looked at again, as it is now.
            Err(Halt::Overtaken) => now.plus(PAUSE),
            Err(Halt::Failed(failure)) => {
                let attempts = self.book().get(name).map_or(1, |(rotation, _)| rotation.attempts());
                let (reason, cause) = (failure.reason().as_str_name(), failure.cause());
                if attempts <= 1 || attempts.is_power_of_two() {
                    tracing::warn!(rotation = %name, attempts, reason, cause, message = failure.message(),
                        "a step of a rotation failed; tried again");
                }
                let delay = FIRST_DELAY.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(LONGEST_DELAY);
                now.plus(delay)
            }
        };
        self.book().let_go(name, revision, next);
    }

    async fn forget(&self, name: &RotationName, revision: Revision, fence: Fence) -> Result<(), Failure> {
        let key = key(name)?;
        let txn = Txn::new().when(Condition::Unchanged(key.clone(), revision)).when(Condition::Leads(fence));
        // Where it was written meanwhile, the watch brings it back.
        let _ = self.state.commit(txn.delete(&key)).await?;
        self.book().remove(name);
        Ok(())
    }

    fn changed_elsewhere(&self, change: &Change, revision: Revision) {
        let name = change.key.segments().next().and_then(|id| RotationName::from_id(&id).ok());
        let Some(name) = name else { return };
        match self.state.changed::<Rotation>(change) {
            Some(rotation) => self.put(rotation, revision),
            None => self.book().remove(&name),
        }
    }

    /// Puts what is on record into memory, and what is not out of it.
    async fn read_all(&self, prefix: &Prefix) -> Result<Revision, StateError> {
        let (mut after, mut first, mut found) = (None, None, Vec::new());
        loop {
            let page = self.state.list::<Rotation>(prefix, ListPage { after, size: ListPage::MAX_SIZE }).await?;
            found.extend(page.records);
            first = first.or(Some(page.revision));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let now = self.clock.now();
        let there: HashSet<_> = found.iter().map(|stored| stored.record.name.clone()).collect();
        let mut book = self.book();
        book.retain(|name| there.contains(name));
        found.into_iter().for_each(|stored| book.put(stored.record, stored.revision, now));
        book.is_read = true;
        drop(book);
        self.changed.notify_waiters();
        Ok(first.unwrap_or_default())
    }
}
