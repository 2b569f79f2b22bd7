//! What callers and the schedule ask of the engine. The decision is durable when a call answers; the leader carries it
//! out.

use std::time::Duration;

use aws_lc_rs::rand;

use super::record::{Rotation, Stage, Step, StrategyKind, Target};
use super::{Engine, Inner, key};
use crate::admission::{Action, Permit, Resource};
use crate::clock::Timestamp;
use crate::error::{Failure, Reason};
use crate::names::{RotationName, SecretName};
use crate::requests::{Remembered, RequestId, under_way};
use crate::rotation::settings::{RotationSettings, Strategy};
use crate::rotation::{Fact, Observation, Origin, VersionMark};
use crate::secrets::VersionInfo;
use crate::state::{Condition, Fence, Outcome, Revision, Txn};

/// Somebody wants a secret rotated.
#[derive(Debug)]
pub struct Order {
    pub secret: SecretName,
    pub initiator: String,
    pub justification: String,
    /// Though the window is closed, or an earlier rotation waits for those who hold the old version.
    pub force: bool,
    pub request: Option<Remembered>,
}

/// How long a forced start waits for the rotation before it to end.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often somebody else's change of the same rotation is given way to.
const TRIES: usize = 16;

impl Engine {
    /// What [`Engine::rotate`] would start. It has no name.
    pub async fn rehearse(&self, permit: &Permit, order: &Order) -> Result<Rotation, Failure> {
        let (plan, settings) = self.0.permitted(permit, order)?;
        let now = self.0.clock.now();
        let mut draft = self.0.draft(plan, settings, &order.secret, now)?;
        for target in &mut draft.targets {
            let newest = self.0.custody.newest(&target.secret).await?;
            target.previous = newest.map(|newest| newest.id);
            let standing = self.0.log.standing(&target.secret).await?;
            if let Some(underway) = standing.as_ref().and_then(|stored| stored.record.rotation())
                && !(order.force && underway.retiring.is_some())
            {
                return Err(in_progress(&target.secret, &underway.name));
            }
        }
        Ok(draft)
    }

    /// Returns once the rotation is on record. One permit is for the secret; that its fellow targets are permitted, too,
    /// is the caller's business.
    pub async fn rotate(&self, permit: &Permit, order: Order) -> Result<(Rotation, Revision), Failure> {
        let (plan, settings) = self.0.permitted(permit, &order)?;
        if order.force {
            self.end_retirement(settings).await?;
        }
        let mut draft = self.0.draft(plan, settings, &order.secret, self.0.clock.now())?;
        (draft.initiator, draft.justification) = (Some(order.initiator), order.justification);
        let started = self.0.start(draft, None, |txn, name, now| match &order.request {
            Some(request) => request.write(txn, Some(name.as_str()), now),
            None => txn,
        });
        // Nobody else has a condition in it: two calls with one request_id came at once.
        let Some(name) = started.await? else { return Err(under_way()) };
        self.find(&name).await
    }

    /// What is known of a call's id. Refused where it was used for another call.
    pub async fn remembered(&self, caller: &str, id: &RequestId) -> Result<Remembered, Failure> {
        id.remembered(&self.0.state, caller, self.0.clock.now()).await
    }

    /// Refuses an id that was used for another call, and remembers it for this one.
    pub async fn remember(&self, caller: &str, id: &RequestId) -> Result<(), Failure> {
        let remembered = self.remembered(caller, id).await?;
        // Somebody who wrote it at the same moment is the same caller, repeating itself.
        let _ = self.0.state.commit(remembered.write(Txn::new(), None, self.0.clock.now())).await?;
        Ok(())
    }

    /// Before `Current` the new version is abandoned; from then on the old one is kept.
    pub async fn cancel(&self, permits: &[Permit], name: &RotationName) -> Result<(), Failure> {
        self.decide(permits, Action::CancelRotation, name, |rotation, now| match rotation.stage() {
            Stage::Cancelled => Ok(false),
            Stage::Retiring if rotation.attempts() > 0 => {
                Err(wrong_state(name, "is taking the old version out of use"))
            }
            Stage::Planned | Stage::Created | Stage::Set | Stage::Tested | Stage::Current | Stage::Retiring => {
                rotation.enter(Stage::Cancelled, 0, now);
                Ok(true)
            }
            Stage::Retired => Err(wrong_state(name, "has ended well")),
            Stage::Failed => Err(wrong_state(name, "has failed")),
        })
        .await
    }

    /// Whoever still holds the old version.
    pub async fn retire(&self, permits: &[Permit], name: &RotationName) -> Result<(), Failure> {
        self.decide(permits, Action::RetireRotation, name, |rotation, _| {
            check_retirable(rotation)?;
            let is_news = !rotation.retire_now && rotation.stage() != Stage::Retired;
            rotation.retire_now = true;
            Ok(is_news)
        })
        .await
    }

    /// Returns once the rotation has nothing left to do, or a try has failed, or the time is over.
    pub async fn watch_end(&self, name: &RotationName, patience: Duration) -> Result<(Rotation, Revision), Failure> {
        let ended = async {
            loop {
                let changed = self.0.changed.notified();
                let (rotation, revision) = self.find(name).await?;
                let has_failed =
                    rotation.attempts() > 0 && rotation.last_error.is_some() && !rotation.stage().is_final();
                if rotation.settled || has_failed {
                    return Ok((rotation, revision));
                }
                changed.await;
            }
        };
        match tokio::time::timeout(patience, ended).await {
            Ok(found) => found,
            // How far it is by now is answer enough.
            Err(_) => self.find(name).await,
        }
    }

    /// Needs a permit for each of the rotation's secrets.
    async fn decide(
        &self,
        permits: &[Permit],
        action: Action,
        name: &RotationName,
        edit: impl Fn(&mut Rotation, Timestamp) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let key = key(name)?;
        for _ in 0..TRIES {
            let (mut rotation, revision) = self.find(name).await?;
            let fits = |permit: &Permit, target: &Target| {
                let is_of = matches!(permit.resource(), Resource::Secret(secret, _) if *secret == target.secret);
                is_of && permit.action() == action
            };
            if !rotation.targets.iter().all(|target| permits.iter().any(|permit| fits(permit, target))) {
                return Err(misfit());
            }
            let now = self.0.clock.now();
            if !edit(&mut rotation, now)? {
                return Ok(());
            }
            rotation.updated = now;
            let txn = Txn::new().when(Condition::Unchanged(key.clone(), revision)).put(&key, &rotation);
            if let Outcome::Committed(revision) = self.0.state.commit(txn).await? {
                self.0.put(rotation, revision);
                return Ok(());
            }
        }
        Err(Failure::new(Reason::Conflict, format!("{name} is being changed by others at the same time; try again")))
    }

    /// A rotation of these targets that waits for subscribers waits no longer.
    async fn end_retirement(&self, settings: &RotationSettings) -> Result<(), Failure> {
        for target in &settings.targets {
            let standing = self.0.log.standing(target).await?;
            let Some(underway) = standing.as_ref().and_then(|stored| stored.record.rotation()) else { continue };
            let Ok((mut rotation, revision)) = self.find(&underway.name).await else { continue };
            if rotation.stage() != Stage::Retiring {
                continue;
            }
            if !rotation.retire_now {
                rotation.retire_now = true;
                let key = key(&rotation.name)?;
                let txn = Txn::new().when(Condition::Unchanged(key.clone(), revision)).put(&key, &rotation);
                // Whoever was quicker has moved it on.
                if let Outcome::Committed(revision) = self.0.state.commit(txn).await? {
                    self.0.put(rotation, revision);
                }
            }
            self.watch_end(&underway.name, PATIENCE).await?;
        }
        Ok(())
    }
}

impl Inner {
    fn permitted(&self, permit: &Permit, order: &Order) -> Result<(&str, &RotationSettings), Failure> {
        let fits = matches!(permit.resource(), Resource::Secret(secret, _) if *secret == order.secret);
        if permit.action() != Action::RotateSecret || !fits {
            return Err(misfit());
        }
        let (plan, settings) = self.plan_of(&order.secret)?;
        let now = self.clock.now();
        if let Some(window) = settings.window.as_ref().filter(|window| !order.force && !window.contains(now)) {
            let message = format!(
                "{} is rotated within {window} UTC only, from {} on; wait until then, or force it",
                order.secret,
                window.opening(now)
            );
            return Err(Failure::new(Reason::RotationState, message));
        }
        Ok((plan, settings))
    }

    pub(super) fn draft(
        &self,
        plan: &str,
        settings: &RotationSettings,
        first: &SecretName,
        now: Timestamp,
    ) -> Result<Rotation, Failure> {
        let others = settings.targets.iter().filter(|target| *target != first);
        let target = |secret: &SecretName| Target {
            secret: secret.clone(),
            version: None,
            previous: None,
            last_error: None,
            unanswered: Vec::new(),
        };
        Ok(Rotation {
            name: new_name(now)?,
            plan: plan.to_owned(),
            strategy: match settings.strategy {
                Strategy::Generate(_) => StrategyKind::Generate,
                Strategy::Postgres(_) => StrategyKind::Postgres,
                Strategy::External => StrategyKind::External,
            },
            targets: std::iter::once(first).chain(others).map(target).collect(),
            origin: Origin::Operator,
            initiator: None,
            justification: String::new(),
            steps: vec![Step { stage: Stage::Planned, reached: now, attempts: 0 }],
            last_error: None,
            created: now,
            updated: now,
            retires: None,
            retire_now: false,
            users: None,
            digests: Vec::new(),
            settled: false,
        })
    }

    /// Puts the rotation on record, and its secrets into its hands. `None`: a condition of `more` did not hold.
    pub(super) async fn start(
        &self,
        draft: Rotation,
        fence: Option<Fence>,
        more: impl Fn(Txn, &RotationName, Timestamp) -> Txn + Send + Sync,
    ) -> Result<Option<RotationName>, Failure> {
        let (secrets, name) = (draft.secrets(), draft.name.clone());
        let mut newest: Vec<Option<VersionInfo>> = Vec::with_capacity(secrets.len());
        for secret in &secrets {
            newest.push(self.custody.newest(secret).await?);
        }
        let key = key(&name)?;
        let adds = draft.strategy != StrategyKind::External;
        let started = self
            .log
            .change(fence, &secrets, |standings, txn| {
                let (mut rotation, now) = (draft.clone(), self.clock.now());
                for ((standing, target), newest) in standings.iter_mut().zip(&mut rotation.targets).zip(&newest) {
                    match standing.rotation() {
                        // An answer of the state was lost: this is how it ended.
                        Some(underway) if underway.name == name => return Ok(txn),
                        Some(underway) => return Err(in_progress(&target.secret, &underway.name)),
                        None => {}
                    }
                    if let Some(newest) = newest {
                        let fact = Fact::VersionAdded(VersionMark::from(newest));
                        standing.observe(&Observation { fact, origin: Origin::Poll, happened: None }, now);
                    }
                    target.previous = standing.current().map(|version| version.id.clone());
                    standing.begin(name.clone(), adds, rotation.origin, now);
                }
                let txn = txn.when(Condition::Absent(key.clone())).put(&key, &rotation);
                Ok(more(txn, &name, now))
            })
            .await?;
        if started.is_some() {
            if let Some((rotation, revision)) = self.read(&name).await? {
                self.put(rotation, revision);
            }
            return Ok(Some(name));
        }
        Ok(None)
    }
}

/// Only once the new version is the current one can the old one go.
pub fn check_retirable(rotation: &Rotation) -> Result<(), Failure> {
    match rotation.stage() {
        Stage::Current | Stage::Retiring | Stage::Retired => Ok(()),
        Stage::Planned | Stage::Created | Stage::Set | Stage::Tested => {
            Err(wrong_state(&rotation.name, "has not come to its new version yet"))
        }
        Stage::Failed => Err(wrong_state(&rotation.name, "has failed")),
        Stage::Cancelled => Err(wrong_state(&rotation.name, "was cancelled")),
    }
}

fn wrong_state(name: &RotationName, what: &str) -> Failure {
    Failure::new(Reason::RotationState, format!("{name} {what}; GetRotation shows how far it is"))
}

fn in_progress(secret: &SecretName, rotation: &RotationName) -> Failure {
    let message = format!("{secret} is being rotated by {rotation}; wait for it, or cancel it");
    Failure::new(Reason::RotationInProgress, message).about_rotation(rotation.clone())
}

fn misfit() -> Failure {
    Failure::new(Reason::Internal, "the permit is for something else; report this")
}

/// The moment and then chance, so that later rotations have greater names.
fn new_name(now: Timestamp) -> Result<RotationName, Failure> {
    let unnamed = "a rotation could not be named; report this";
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).map_err(|error| Failure::new(Reason::Internal, unnamed).caused_by(error))?;
    let id = format!("{:014x}{:016x}", now.as_micros(), u64::from_be_bytes(bytes));
    RotationName::from_id(&id).map_err(|error| Failure::new(Reason::Internal, unnamed).caused_by(error))
}
