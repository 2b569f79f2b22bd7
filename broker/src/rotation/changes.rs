//! Changes that callers make through this broker: made at the store, put on record in the log, and answered once.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::event::{Fact, Observation, Origin};
use super::log::Log;
use crate::admission::Permit;
use crate::clock::SharedClock;
use crate::error::{Failure, Reason};
use crate::names::{SecretName, VersionId};
use crate::requests::{Remembered, RequestId, under_way, unheard_of};
use crate::secrets::{Labels, SecretBytes, Secrets, Switched, VersionInfo, permitted_secret, was_not_made};
use crate::state::{Epoch, Outcome, Position, Revision, State, StateError, Txn};

/// Clones share it.
#[derive(Clone, Debug)]
pub struct Changes(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    secrets: Secrets,
    log: Log,
    state: State,
    clock: SharedClock,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// For what could not be put on record at once.
    late: Arc<Semaphore>,
}

/// A version that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub version: VersionInfo,
    /// Reads from there on reflect it. Absent where nothing changed, and where it is not on record yet.
    pub position: Option<Position>,
}

/// What a repeated call is answered by.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    version: VersionInfo,
    revision: Option<u64>,
    epoch: Option<String>,
}

/// After which a call that was begun and did not end is taken for dead; longer than a store may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a caller waits for a state that does not answer.
const OUTAGE: Duration = Duration::from_secs(2);
const LATE: usize = 1_000;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

impl Changes {
    pub fn new(secrets: Secrets, log: Log, state: State, clock: SharedClock) -> Self {
        let (tasks, stop, late) = (TaskTracker::new(), CancellationToken::new(), Arc::new(Semaphore::new(LATE)));
        Self(Arc::new(Parts { secrets, log, state, clock, tasks, stop, late }))
    }

    /// Lets what is under way end. What the log has not heard of by then, a poll tells it.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Adds a version; a repeat of the same request within its hour adds none.
    pub async fn add(
        &self,
        permit: Permit,
        request: Option<RequestId>,
        payload: SecretBytes,
        creation: Option<Labels>,
    ) -> Result<Changed, Failure> {
        let parts = Arc::clone(&self.0);
        self.carry_out(async move {
            let Some(request) = request else { return parts.add(&permit, payload, creation).await };
            let mut remembered = request.remembered(&parts.state, permit.caller(), parts.clock.now()).await?;
            if let Some(answer) = &remembered.answer {
                return repeated(answer);
            }
            if let Some(begun) = remembered.earlier {
                // Nobody has heard how it ended.
                if let Some(version) = parts.secrets.newest_if_it_is(&permit, &payload).await? {
                    let changed = parts.added(&permit, version).await?;
                    parts.answer(&remembered, &changed).await;
                    return Ok(changed);
                }
                let since = parts.clock.now().since(begun);
                if since < PATIENCE {
                    return Err(unheard_of(since, PATIENCE));
                }
            }
            let begin = remembered.write(Txn::new(), None, parts.clock.now());
            match parts.state.commit(begin).await? {
                Outcome::Committed(revision) => remembered.written(revision),
                Outcome::Conflict(_) | Outcome::Unknown => return Err(under_way()),
            }
            match parts.add(&permit, payload, creation).await {
                Ok(changed) => {
                    parts.answer(&remembered, &changed).await;
                    Ok(changed)
                }
                Err(failure) => {
                    if was_not_made(failure.reason()) {
                        parts.conclude(remembered.forget(Txn::new())).await;
                    }
                    Err(failure)
                }
            }
        })
        .await
    }

    /// Enables or disables a version; repeating that does no harm, so that nothing needs to be on record before.
    pub async fn set_enabled(
        &self,
        permit: Permit,
        request: Option<RequestId>,
        version: VersionId,
        enabled: bool,
    ) -> Result<Changed, Failure> {
        let parts = Arc::clone(&self.0);
        self.carry_out(async move {
            let remembered = match request {
                None => None,
                Some(request) => Some(request.remembered(&parts.state, permit.caller(), parts.clock.now()).await?),
            };
            if let Some(answer) = remembered.as_ref().and_then(|remembered| remembered.answer.as_deref()) {
                return repeated(answer);
            }
            let Switched { version, changed } = parts.secrets.set_enabled(&permit, &version, enabled).await?;
            let id = Arc::clone(&version.id);
            let fact = if enabled { Fact::VersionEnabled(id) } else { Fact::VersionDisabled(id) };
            let position = parts.record(permitted_secret(&permit)?, fact).await.filter(|_| changed);
            let changed = Changed { version, position };
            if let Some(remembered) = &remembered {
                parts.answer(remembered, &changed).await;
            }
            Ok(changed)
        })
        .await
    }

    /// What was begun goes on when its caller leaves: a change that is not on record would be heard of late.
    async fn carry_out(
        &self,
        change: impl Future<Output = Result<Changed, Failure>> + Send + 'static,
    ) -> Result<Changed, Failure> {
        self.0.tasks.spawn(change).await.unwrap_or_else(|_| {
            let message = "the change ended in a defect of the broker; look at the secret before you repeat it";
            Err(Failure::new(Reason::Internal, message))
        })
    }
}

impl Parts {
    async fn add(
        self: &Arc<Self>,
        permit: &Permit,
        payload: SecretBytes,
        creation: Option<Labels>,
    ) -> Result<Changed, Failure> {
        let version = self.secrets.add(permit, payload, creation).await?;
        self.added(permit, version).await
    }

    async fn added(self: &Arc<Self>, permit: &Permit, version: VersionInfo) -> Result<Changed, Failure> {
        let position = self.record(permitted_secret(permit)?, Fact::VersionAdded((&version).into())).await;
        Ok(Changed { version, position })
    }

    /// The change stands whether or not it can be put on record; what cannot be now will be later.
    async fn record(self: &Arc<Self>, secret: &SecretName, fact: Fact) -> Option<Position> {
        let observation = Observation { fact, origin: Origin::Operator, happened: Some(self.clock.now()) };
        let observed = timeout(OUTAGE, self.log.observe(secret, &observation)).await;
        match observed.unwrap_or_else(|_| Err(Failure::new(Reason::StateUnavailable, "the state takes too long"))) {
            Ok(observed) => Some(observed.position),
            Err(failure) => {
                tracing::warn!(%secret, cause = failure.cause(), "a change is not on record yet: {failure}");
                self.record_late(secret.clone(), observation);
                None
            }
        }
    }

    fn record_late(self: &Arc<Self>, secret: SecretName, observation: Observation) {
        let Ok(place) = Arc::clone(&self.late).try_acquire_owned() else {
            tracing::error!(%secret, "too many changes wait to be put on record; subscribers hear of this one by the poll");
            return;
        };
        let (parts, stop) = (Arc::clone(self), self.stop.clone());
        self.tasks.spawn(async move {
            let recording = async {
                let mut pause = FIRST_PAUSE;
                loop {
                    sleep(pause).await;
                    if parts.log.observe(&secret, &observation).await.is_ok() {
                        break;
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            };
            stop.run_until_cancelled(recording).await;
            drop(place);
        });
    }

    async fn answer(&self, remembered: &Remembered, changed: &Changed) {
        let Changed { version, position } = changed;
        let answer = Answer {
            version: version.clone(),
            revision: position.map(|position| position.revision.get()),
            epoch: position.map(|position| position.epoch.to_string()),
        };
        match serde_json::to_string(&answer) {
            Ok(text) => self.conclude(remembered.write(Txn::new(), Some(&text), self.clock.now())).await,
            Err(error) => tracing::error!(%error, "an answer has no JSON form; report this"),
        }
    }

    async fn conclude(&self, txn: Txn) {
        if let Err(error) = self.state.commit(txn).await.and_then(|outcome| match outcome {
            Outcome::Committed(_) | Outcome::Conflict(_) => Ok(()),
            Outcome::Unknown => Err(StateError::Unavailable("it did not say whether it was written", None)),
        }) {
            tracing::warn!(%error, "the outcome of a request_id is not on record; its repeat may have to wait");
        }
    }
}

fn repeated(answer: &str) -> Result<Changed, Failure> {
    let answer: Answer = serde_json::from_str(answer).map_err(|error| {
        let message = "the answer of this request_id cannot be read; look at the secret, and choose a new one";
        Failure::new(Reason::Internal, message).caused_by(error)
    })?;
    let epoch = answer.epoch.as_deref().and_then(Epoch::parse);
    let position = epoch.zip(answer.revision).map(|(epoch, at)| Position { epoch, revision: Revision::new(at) });
    Ok(Changed { version: answer.version, position })
}
