//! What each stage does. Each can be done again after any failure.

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use super::attempt::{Attempt, Halt};
use super::own::misfit;
use super::record::{Stage, StrategyKind, Users};
use crate::clock::Timestamp;
use crate::error::{Failure, Reason};
use crate::failpoints::Point;
use crate::rotation::settings::RotationSettings;
use crate::rotation::strategies::postgres::{Credential, Logins};
use crate::rotation::{Fact, Observation, Origin, VersionMark};
use crate::secrets::{SecretBytes, VersionInfo, VersionState, was_not_made};

/// How often a secret is looked at that somebody else is to change; events are quicker.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(10);

impl Attempt<'_> {
    /// Every target gets a version with the new value. Or else: when to look again.
    pub(super) async fn create(&mut self) -> Result<Option<Timestamp>, Halt> {
        let strategy = self.plan()?.strategy.clone();
        if self.rotation.strategy == StrategyKind::External {
            return self.look_for_versions().await;
        }
        self.begin().await?;
        self.engine.failpoints.reach(Point::RotationBegun);
        let value = self.value(&strategy).await?;
        let digest = self.rotation.digest(&value);
        for target in 0..self.rotation.targets.len() {
            let Some(place) = self.rotation.targets.get(target).filter(|target| target.version.is_none()) else {
                continue;
            };
            let secret = place.secret.clone();
            // From here on it may be added, whatever is heard of it.
            self.save_target(target, |target, now| target.asks(digest.clone(), now)).await?;
            match self.engine.custody.add(&secret, value.clone()).await {
                Ok(version) => {
                    self.engine.failpoints.reach(Point::RotationAdded);
                    self.claim(target, &version, &digest).await?;
                }
                Err(failure) => {
                    self.save_target(target, |target, _| {
                        target.last_error = Some((&failure).into());
                        if was_not_made(failure.reason()) {
                            target.answered(&digest);
                        }
                    })
                    .await?;
                    return Err(Halt::Failed(failure));
                }
            }
        }
        self.engine.failpoints.reach(Point::RotationCreated);
        Ok(None)
    }

    /// What the secret opens takes the new value beside the old.
    pub(super) async fn set(&mut self) -> Result<(), Halt> {
        self.begin().await?;
        if let Some(users) = self.rotation.users.clone() {
            let credential = self.new_credential().await?;
            if self.in_use().await?.contains(&users.new) {
                return Err(Halt::Failed(overtaken()));
            }
            self.logins(&users)?.admit(&users.new, &credential.password()).await?;
            self.engine.failpoints.reach(Point::RotationAdmitted);
        }
        self.enter(Stage::Set, |standings, _, now| {
            standings.iter_mut().for_each(|standing| standing.advance(now));
            Ok(())
        })
        .await?;
        self.engine.failpoints.reach(Point::RotationSet);
        Ok(())
    }

    /// Every store gives back what it was given, and what the secret opens is opened by it.
    pub(super) async fn test(&mut self) -> Result<(), Halt> {
        self.begin().await?;
        let mut values = Vec::new();
        for target in 0..self.rotation.targets.len() {
            values.push(self.new_value(target).await?);
        }
        let alike = values.windows(2).all(|pair| pair[0].expose() == pair[1].expose());
        let is_own = values.first().is_some_and(|value| self.rotation.digests.contains(&self.rotation.digest(value)));
        if !alike || (!is_own && self.rotation.strategy != StrategyKind::External) {
            return Err(Halt::Failed(self.unlike()));
        }
        if let Some(users) = &self.rotation.users {
            let credential = self.new_credential().await?;
            self.logins(users)?.prove(&users.new, &credential.password()).await?;
            self.engine.failpoints.reach(Point::RotationProved);
        }
        self.enter(Stage::Tested, |standings, _, now| {
            standings.iter_mut().for_each(|standing| standing.advance(now));
            Ok(())
        })
        .await?;
        self.engine.failpoints.reach(Point::RotationTested);
        Ok(())
    }

    /// From here on there is no way back: readers of all targets get the new version.
    pub(super) async fn promote(&mut self) -> Result<(), Halt> {
        self.begin().await?;
        let retire_after = self.plan()?.retire_after;
        let is_external = self.rotation.strategy == StrategyKind::External;
        self.enter(Stage::Current, |standings, rotation, now| {
            let retires = now.plus(retire_after);
            rotation.retires = Some(retires);
            for standing in standings {
                if is_external {
                    // It became current when it was seen.
                    standing.advance(now);
                } else if !standing.promote(Some(retires), now) {
                    return Err(overtaken());
                }
            }
            Ok(())
        })
        .await?;
        self.engine.failpoints.reach(Point::RotationCurrent);
        Ok(())
    }

    /// Subscribers hear that the old version is on its way out, where there is one.
    pub(super) async fn announce_retirement(&mut self) -> Result<(), Halt> {
        let has_old = self.rotation.targets.iter().any(|target| target.previous.is_some());
        if !has_old {
            return self.end_well().await;
        }
        self.enter(Stage::Retiring, |standings, rotation, now| {
            for (standing, target) in standings.iter_mut().zip(&rotation.targets) {
                match &target.previous {
                    Some(old) => standing.retire(&rotation.name, old, rotation.retires, rotation.origin, now),
                    None => standing.advance(now),
                }
            }
            Ok(())
        })
        .await?;
        self.engine.failpoints.reach(Point::RotationRetiring);
        Ok(())
    }

    /// The old version goes, once nobody holds it or its time is over. Or else: when to look again.
    pub(super) async fn retire(&mut self) -> Result<Option<Timestamp>, Halt> {
        if let Some(wait) = self.patience().await? {
            return Ok(Some(match self.late_additions().await? {
                Some(look_again) => look_again.min(wait),
                None => wait,
            }));
        }
        // Counted whoever entered the stage: nobody cancels what has begun.
        self.begin_anew().await?;
        let mut failed = None;
        // Of several that fail, none keeps the others from being tried.
        if let Some(users) = self.rotation.users.clone()
            && let Some(old) = &users.old
        {
            failed = self.expel(&users, old).await.err();
            self.engine.failpoints.reach(Point::RotationExpelled);
        }
        for target in &self.rotation.targets {
            if let Some(old) = &target.previous
                && let Err(failure) = self.engine.custody.disable(&target.secret, old).await
            {
                failed = failed.or(Some(failure));
            }
        }
        self.engine.failpoints.reach(Point::RotationDisabled);
        if let Some(failure) = failed {
            return Err(Halt::Failed(failure));
        }
        self.disable_strays().await?;
        let look_again = self.late_additions().await?;
        if look_again.is_none() {
            self.end_well().await?;
        }
        Ok(look_again)
    }

    async fn end_well(&mut self) -> Result<(), Halt> {
        self.enter(Stage::Retired, |standings, rotation, now| {
            rotation.settled = true;
            standings.iter_mut().for_each(|standing| standing.retired(now));
            Ok(())
        })
        .await?;
        self.engine.failpoints.reach(Point::RotationRetired);
        Ok(())
    }

    /// Until when to wait for those who hold the old version.
    async fn patience(&self) -> Result<Option<Timestamp>, Failure> {
        let (rotation, now) = (&self.rotation, self.engine.clock.now());
        let deadline = rotation.retires.unwrap_or(now);
        if rotation.retire_now || rotation.attempts() > 0 || deadline <= now {
            return Ok(None);
        }
        let grace = self.engine.plans.get(&rotation.plan).map_or(Duration::ZERO, |plan| plan.subscriber_grace);
        let releases = self.engine.releases(rotation).await?;
        let mut tallies = releases.iter().map(|release| self.engine.holders.tally(slice::from_ref(release)));
        // Of those who never subscribed nobody knows what they run: each target needs somebody who did.
        let all_have_let_go = tallies.all(|tally| tally.pending == 0 && tally.acknowledged > 0);
        let wait = if all_have_let_go { rotation.reached().plus(grace).min(deadline) } else { deadline };
        Ok((wait > now).then_some(wait))
    }

    /// Somebody else adds the versions; they are current as soon as they are seen.
    async fn look_for_versions(&mut self) -> Result<Option<Timestamp>, Halt> {
        let mut found = Vec::new();
        for target in &self.rotation.targets {
            let newest = self.engine.custody.newest(&target.secret).await?;
            let is_news = |newest: &VersionInfo| {
                Some(&newest.id) != target.previous.as_ref() && newest.state == VersionState::Enabled
            };
            let Some(newest) = newest.filter(is_news) else { continue };
            let fact = Fact::VersionAdded(VersionMark::from(&newest));
            let observation = Observation { fact, origin: Origin::Poll, happened: None };
            self.engine.log.observe(&target.secret, &observation).await?;
            let value = self.engine.custody.value(&target.secret, &newest.id).await?;
            found.push((newest.id, value));
        }
        let look_again = Some(self.engine.clock.now().plus(LOOK_INTERVAL));
        if found.len() < self.rotation.targets.len() {
            return Ok(look_again);
        }
        if found.windows(2).any(|pair| pair[0].1.expose() != pair[1].1.expose()) {
            self.note(&self.unlike()).await?;
            return Ok(look_again);
        }
        self.enter(Stage::Created, |standings, rotation, now| {
            for (target, (version, _)) in rotation.targets.iter_mut().zip(&found) {
                target.version = Some(Arc::clone(version));
            }
            standings.iter_mut().for_each(|standing| standing.advance(now));
            Ok(())
        })
        .await?;
        Ok(None)
    }

    fn plan(&self) -> Result<&RotationSettings, Failure> {
        self.engine.plans.get(&self.rotation.plan).ok_or_else(|| {
            let message = format!("[rotations.{}] is no longer configured", self.rotation.plan);
            Failure::new(Reason::RotationNotConfigured, message)
        })
    }

    pub(super) fn logins(&self, users: &Users) -> Result<&Arc<dyn Logins>, Failure> {
        self.engine.logins.get(users.database.as_str()).ok_or_else(|| {
            let message = format!(
                "{} is no longer configured, and the rotation's users are there; configure it until they are dealt with",
                users.database
            );
            Failure::new(Reason::DatabaseUnavailable, message)
        })
    }

    async fn new_value(&self, target: usize) -> Result<SecretBytes, Failure> {
        let target = self.rotation.targets.get(target).ok_or_else(misfit)?;
        let version = target.version.as_ref().ok_or_else(misfit)?;
        self.engine.custody.value(&target.secret, version).await
    }

    async fn new_credential(&self) -> Result<Credential, Failure> {
        Credential::read(&self.new_value(0).await?).ok_or_else(misfit)
    }

    fn unlike(&self) -> Failure {
        if self.rotation.strategy == StrategyKind::External {
            let message = "the targets' newest versions hold different values; add the same one to all of them";
            return Failure::new(Reason::Conflict, message);
        }
        Failure::new(Reason::PayloadCorrupt, "a store gives back another value than it was given; look into that store")
    }
}

fn overtaken() -> Failure {
    let message =
        "somebody added a newer version meanwhile, which is the current one; rotate again if that is not enough";
    Failure::new(Reason::RotationState, message)
}
