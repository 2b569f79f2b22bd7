//! One rotation in a worker's hands: what is on record of it, and how that changes.

use super::record::{Rotation, Stage, Target, Trouble};
use super::{Inner, book, key};
use crate::clock::Timestamp;
use crate::error::{Failure, Reason};
use crate::names::SecretName;
use crate::rotation::Standing;
use crate::state::{Condition, Fence, Outcome, Revision, Txn};

pub(super) struct Attempt<'a> {
    pub(super) engine: &'a Inner,
    fence: Fence,
    pub(super) rotation: Rotation,
    revision: Revision,
    /// The present stage was entered by this attempt, which counted itself.
    is_counted: bool,
}

/// What comes next for a rotation of which nothing more can be done now.
pub(super) enum Next {
    At(Timestamp),
    Forget,
}

/// Why an attempt ends before its time.
pub(super) enum Halt {
    /// Somebody else wrote the rotation, or leads.
    Overtaken,
    Failed(Failure),
}

impl<'a> Attempt<'a> {
    pub(super) fn new(engine: &'a Inner, fence: Fence, rotation: Rotation, revision: Revision) -> Self {
        Self { engine, fence, rotation, revision, is_counted: false }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// As far as it goes now.
    pub(super) async fn go(&mut self) -> Result<Next, Halt> {
        loop {
            match self.advance().await {
                Ok(None) => {}
                Ok(Some(next)) => return Ok(next),
                Err(Halt::Overtaken) => return Err(Halt::Overtaken),
                Err(Halt::Failed(failure)) => {
                    if self.rotation.stage().is_before_current() && is_lasting(failure.reason()) {
                        self.fail(&failure).await?;
                    } else {
                        self.note(&failure).await?;
                        return Err(Halt::Failed(failure));
                    }
                }
            }
        }
    }

    /// One stage further.
    async fn advance(&mut self) -> Result<Option<Next>, Halt> {
        if self.rotation.settled {
            let forgotten = self.rotation.updated.plus(book::RETENTION);
            return Ok(Some(if forgotten <= self.engine.clock.now() { Next::Forget } else { Next::At(forgotten) }));
        }
        match self.rotation.stage() {
            stage if stage.is_before_current() && self.is_hopeless() => {
                let failure = self.rotation.last_error.as_ref().map(Failure::from);
                let failure =
                    failure.unwrap_or_else(|| Failure::new(Reason::DeadlineExceeded, "nobody added a version"));
                self.fail(&failure).await?;
            }
            Stage::Planned => return self.create().await.map(|wait| wait.map(Next::At)),
            Stage::Created => self.set().await?,
            Stage::Set => self.test().await?,
            Stage::Tested => self.promote().await?,
            Stage::Current => self.announce_retirement().await?,
            Stage::Retiring => return self.retire().await.map(|wait| wait.map(Next::At)),
            Stage::Retired | Stage::Failed | Stage::Cancelled => {
                return self.settle().await.map(|wait| wait.map(Next::At));
            }
        }
        Ok(None)
    }

    /// Work begins, or begins again.
    pub(super) async fn begin(&mut self) -> Result<(), Halt> {
        if std::mem::take(&mut self.is_counted) {
            return Ok(());
        }
        self.save(|rotation| {
            if let Some(step) = rotation.steps.last_mut() {
                step.attempts = step.attempts.saturating_add(1);
            }
        })
        .await
    }

    /// Counted whoever entered the stage.
    pub(super) async fn begin_anew(&mut self) -> Result<(), Halt> {
        self.is_counted = false;
        self.begin().await
    }

    /// The next stage, and the beginning of its work, with what that means to the secrets.
    pub(super) async fn enter(
        &mut self,
        stage: Stage,
        edit: impl FnMut(&mut [Standing], &mut Rotation, Timestamp) -> Result<(), Failure> + Send,
    ) -> Result<(), Halt> {
        let secrets = self.rotation.secrets();
        let mut edit = edit;
        // What waits first has not begun.
        let attempts = u32::from(stage != Stage::Retiring && !stage.is_final());
        self.change(&secrets, |standings, rotation, now| {
            rotation.enter(stage, attempts, now);
            rotation.last_error = None;
            edit(standings, rotation, now)
        })
        .await?;
        self.is_counted = true;
        Ok(())
    }

    /// Changes the rotation's record alone.
    pub(super) async fn save(&mut self, edit: impl FnOnce(&mut Rotation)) -> Result<(), Halt> {
        let mut next = self.rotation.clone();
        edit(&mut next);
        next.updated = self.engine.clock.now();
        let key = key(&next.name)?;
        let txn = self.conditions(Txn::new())?.put(&key, &next);
        match self.engine.state.commit(txn).await.map_err(Failure::from)? {
            Outcome::Committed(revision) => {
                self.adopt(next, revision);
                Ok(())
            }
            Outcome::Conflict(_) => Err(Halt::Overtaken),
            Outcome::Unknown => Err(Halt::Failed(undecided())),
        }
    }

    pub(super) async fn save_target(
        &mut self,
        target: usize,
        edit: impl FnOnce(&mut Target, Timestamp),
    ) -> Result<(), Halt> {
        let now = self.engine.clock.now();
        self.save(|rotation| {
            if let Some(target) = rotation.targets.get_mut(target) {
                edit(target, now);
            }
        })
        .await
    }

    /// Changes the record and what is known of some of its secrets, in one transaction.
    pub(super) async fn change(
        &mut self,
        secrets: &[SecretName],
        edit: impl FnMut(&mut [Standing], &mut Rotation, Timestamp) -> Result<(), Failure> + Send,
    ) -> Result<(), Halt> {
        let (mut edit, mut next) = (edit, self.rotation.clone());
        let (rotation, condition) = (&self.rotation, self.unchanged()?);
        let key = key(&rotation.name)?;
        let clock = &self.engine.clock;
        let changed = self
            .engine
            .log
            .change(Some(self.fence), secrets, |standings, txn| {
                let now = clock.now();
                next = rotation.clone();
                edit(standings, &mut next, now)?;
                next.updated = now;
                Ok(txn.when(condition.clone()).put(&key, &next))
            })
            .await?;
        let Some(position) = changed else { return Err(Halt::Overtaken) };
        self.adopt(next, position.revision);
        Ok(())
    }

    /// Stops with the old version still good. What was begun is undone by [`Attempt::settle`].
    pub(super) async fn fail(&mut self, failure: &Failure) -> Result<(), Halt> {
        let (reason, cause) = (failure.reason().as_str_name(), failure.cause());
        tracing::warn!(rotation = %self.rotation.name, reason, cause, message = failure.message(),
            "a rotation failed; the old version stays");
        let now = self.engine.clock.now();
        self.is_counted = false;
        self.save(|rotation| {
            rotation.enter(Stage::Failed, 0, now);
            rotation.last_error = Some(failure.into());
        })
        .await
    }

    /// Who looks at the rotation sees why it does not go on. Once over, why it failed stays to be seen.
    pub(super) async fn note(&mut self, failure: &Failure) -> Result<(), Halt> {
        self.is_counted = false;
        let trouble = Trouble::from(failure);
        if self.rotation.stage().is_final() || self.rotation.last_error.as_ref() == Some(&trouble) {
            return Ok(());
        }
        self.save(|rotation| rotation.last_error = Some(trouble)).await
    }

    fn is_hopeless(&self) -> bool {
        let plan = self.engine.plans.get(&self.rotation.plan);
        plan.is_some_and(|plan| self.engine.clock.now() >= self.rotation.created.plus(plan.give_up_after))
    }

    fn conditions(&self, txn: Txn) -> Result<Txn, Failure> {
        Ok(txn.when(self.unchanged()?).when(Condition::Leads(self.fence)))
    }

    fn unchanged(&self) -> Result<Condition, Failure> {
        Ok(Condition::Unchanged(key(&self.rotation.name)?, self.revision))
    }

    fn adopt(&mut self, rotation: Rotation, revision: Revision) {
        self.engine.put(rotation.clone(), revision);
        (self.rotation, self.revision) = (rotation, revision);
    }
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Whether trying again would meet the same.
fn is_lasting(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::InvalidArgument
            | Reason::InvalidName
            | Reason::SecretNotFound
            | Reason::VersionNotFound
            | Reason::VersionDisabled
            | Reason::VersionDestroyed
            | Reason::UnsupportedByStore
            | Reason::MessageTooLarge
            | Reason::RotationNotConfigured
            | Reason::RotationState
            | Reason::PayloadCorrupt
    )
}

fn undecided() -> Failure {
    let message = "the state store did not say whether it wrote the rotation; it is read again";
    Failure::new(Reason::StateUnavailable, message)
}
