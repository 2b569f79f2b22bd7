//! Writing the log, and reading it.

use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::event::Observation;
use super::ring::{Behind, Change, Ring};
use super::standing::{SECRETS, Standing};
use crate::clock::SharedClock;
use crate::error::{Failure, Reason};
use crate::names::{SecretName, StoreName};
use crate::secrets::{Ward, Word};
use crate::state::{
    Condition, Conflict, Fence, Key, ListPage, Outcome, Page, Position, Prefix, Revision, State, Stored, Txn,
};

/// The log of all replicas that share the state, as this one follows it. Clones share it.
#[derive(Clone, Debug)]
pub struct Log(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    state: State,
    clock: SharedClock,
    ring: RwLock<Ring>,
    /// How far this replica has come. Absent until it has reached the state.
    head: watch::Sender<Option<Position>>,
}

/// What became of an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Reads from there on reflect it.
    pub position: Position,
    /// False where it was known.
    pub changed: bool,
}

/// How often somebody else's change of the same secrets is given way to.
const TRIES: usize = 64;
/// How long a change waits to be followed here. It stands all the same.
const PATIENCE: Duration = Duration::from_secs(1);

impl Log {
    /// Empty until somebody follows it ([`Log::follow`]). Keeps the last `backlog` events for its readers.
    pub fn new(state: State, clock: SharedClock, backlog: usize) -> Self {
        Self(Arc::new(Parts { state, clock, ring: RwLock::new(Ring::new(backlog)), head: watch::Sender::new(None) }))
    }

    /// Puts on record what somebody says of a secret, unless it is known. Returns once this replica serves by it.
    pub async fn observe(&self, secret: &SecretName, observation: &Observation) -> Result<Observed, Failure> {
        let key = key(secret)?;
        for _ in 0..TRIES {
            let (mut standing, revision) = self.read(secret, &key).await?;
            let now = self.0.clock.now();
            if !standing.observe(observation, now) {
                return Ok(Observed { position: self.position(revision.unwrap_or_default())?, changed: false });
            }
            standing.committed = now;
            let txn = Txn::new().when(condition(&key, revision)).put(&key, &standing);
            match self.0.state.commit(txn).await? {
                Outcome::Committed(revision) => {
                    self.followed(revision).await;
                    return Ok(Observed { position: self.position(revision)?, changed: true });
                }
                // Where it was written and nobody said so, the next look finds it known.
                Outcome::Conflict(_) | Outcome::Unknown => {}
            }
        }
        Err(crowded())
    }

    /// Changes what is known of several secrets, and whatever else belongs to that, in one transaction and at one
    /// position. `edit` is given the standings in the order of `secrets`, and again where somebody was quicker. `None`:
    /// the fence or a condition of `edit`'s own did not hold, and nothing was changed by this try.
    pub async fn change(
        &self,
        fence: Option<Fence>,
        secrets: &[SecretName],
        mut edit: impl FnMut(&mut [Standing], Txn) -> Result<Txn, Failure> + Send,
    ) -> Result<Option<Position>, Failure> {
        let keys = secrets.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        for _ in 0..TRIES {
            let mut standings = Vec::with_capacity(keys.len());
            let mut txn = Txn::new();
            for (secret, key) in secrets.iter().zip(&keys) {
                let (standing, revision) = self.read(secret, key).await?;
                txn = txn.when(condition(key, revision));
                standings.push(standing);
            }
            if let Some(fence) = fence {
                txn = txn.when(Condition::Leads(fence));
            }
            let before = standings.clone();
            txn = edit(&mut standings, txn)?;
            let now = self.0.clock.now();
            for ((standing, before), key) in standings.iter_mut().zip(&before).zip(&keys) {
                if standing != before {
                    standing.committed = now;
                    txn = txn.put(key, standing);
                }
            }
            match self.0.state.commit(txn).await? {
                Outcome::Committed(revision) => {
                    self.followed(revision).await;
                    return self.position(revision).map(Some);
                }
                Outcome::Conflict(Conflict::Key { key, .. }) if keys.contains(&key) => {}
                Outcome::Conflict(_) => return Ok(None),
                // What was written shows in the next look: standings are as they shall be, or `edit`'s own are not as
                // they were.
                Outcome::Unknown => {}
            }
        }
        Err(crowded())
    }

    pub async fn standing(&self, secret: &SecretName) -> Result<Option<Stored<Standing>>, Failure> {
        Ok(self.0.state.get(&key(secret)?).await?)
    }

    /// Of one store, or of all, in order of their names. To be sure of all, go on from the first page's revision.
    pub async fn standings(&self, store: Option<&StoreName>, page: ListPage) -> Result<Page<Standing>, Failure> {
        let segments: &[&str] = match &store {
            Some(store) => &[store.id()],
            None => &[],
        };
        let prefix = Prefix::new(&SECRETS, segments).map_err(misnamed)?;
        Ok(self.0.state.list(&prefix, page).await?)
    }

    /// How far this replica has come; absent until it has reached the state.
    pub fn head(&self) -> Option<Position> {
        *self.0.head.borrow()
    }

    /// Told of each change once it can be read here. Revisions without one move the head silently.
    pub fn watcher(&self) -> watch::Receiver<Option<Position>> {
        self.0.head.subscribe()
    }

    /// Returns once this replica has reached the state, or after a while: secrets are served whatever the state does.
    pub async fn reached(&self) {
        let mut head = self.watcher();
        if tokio::time::timeout(PATIENCE, head.wait_for(Option::is_some)).await.is_err() {
            tracing::warn!(
                "the state is out: secrets are served, and changes made elsewhere are not heard of until it is back"
            );
        }
    }

    /// What happened after a position, as far as it is known here: nothing where that is all.
    pub fn after(&self, position: Position, most: usize) -> Result<Vec<Arc<Change>>, Behind> {
        self.0.ring.read().unwrap_or_else(PoisonError::into_inner).after(position, most)
    }

    /// When something happened last, as far as it is known here.
    pub fn last(&self) -> Revision {
        self.0.ring.read().unwrap_or_else(PoisonError::into_inner).last()
    }

    pub(super) fn state(&self) -> &State {
        &self.0.state
    }

    pub(super) fn ring(&self) -> RwLockWriteGuard<'_, Ring> {
        self.0.ring.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reach(&self, position: Position, told: bool) {
        self.0.head.send_if_modified(|head| {
            *head = Some(position);
            told
        });
    }

    async fn read(&self, secret: &SecretName, key: &Key) -> Result<(Standing, Option<Revision>), Failure> {
        let stored = self.0.state.get::<Standing>(key).await?;
        Ok(stored
            .map_or_else(|| (Standing::new(secret.clone()), None), |stored| (stored.record, Some(stored.revision))))
    }

    /// Waits until this replica has come to the revision, a while at most.
    async fn followed(&self, revision: Revision) {
        let mut head = self.watcher();
        let reached = head.wait_for(|head| head.is_some_and(|head| head.revision >= revision));
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            tracing::warn!(%revision, "a change of the rotation log is on record and has not come back to this replica yet");
        }
    }

    fn position(&self, revision: Revision) -> Result<Position, Failure> {
        let epoch = self.0.state.status().epoch.ok_or_else(|| {
            Failure::new(
                Reason::StateUnavailable,
                "the broker's state has not said which history it keeps; retry shortly",
            )
        })?;
        Ok(Position { epoch, revision })
    }
}

impl Ward for Log {
    fn word<'a>(&'a self, secret: &'a SecretName) -> BoxFuture<'a, Result<Word, Failure>> {
        Box::pin(async move {
            let standing = self.standing(secret).await?;
            Ok(standing.map(|stored| stored.record.word()).unwrap_or_default())
        })
    }
}

fn key(secret: &SecretName) -> Result<Key, Failure> {
    Key::new(&SECRETS, &[secret.store_id(), secret.id()]).map_err(misnamed)
}

fn condition(key: &Key, revision: Option<Revision>) -> Condition {
    revision.map_or_else(|| Condition::Absent(key.clone()), |revision| Condition::Unchanged(key.clone(), revision))
}

fn misnamed(error: crate::state::KeyError) -> Failure {
    Failure::new(Reason::Internal, "a secret has no key in the state; report this").caused_by(error)
}

fn crowded() -> Failure {
    Failure::new(Reason::Conflict, "the secret is being changed by many at the same time; try again")
        .retry_after(Duration::from_secs(1))
}
