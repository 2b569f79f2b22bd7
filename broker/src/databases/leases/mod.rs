//! Leases: every user that was made in a database is on record before it exists, until it is seen to be gone.
//!
//! A mint writes `Pending`, which names the user; then the database makes it, in one transaction; then `Active` is
//! written; then the answer may leave. Whatever ends in between leaves a record, and a worker takes the user away.

mod book;
mod clock;
mod mint;
mod minted;
mod record;
mod renewal;
mod revocation;
mod sweep;
mod worker;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::book::{Book, Held};
pub use self::book::{Counts, Trouble};
use self::clock::LeaseClock;
pub use self::mint::Wish;
pub use self::minted::Minted;
pub use self::record::{Cause, LEASES, Lease, Stage};
pub(crate) use self::sweep::Deployment;
use super::{LeaseSettings, PostgresSettings, RoleSettings, Users};
use crate::clock::{SharedClock, Timestamp};
use crate::error::{Failure, Reason};
use crate::failpoints::{Failpoints, Point};
use crate::names::{DatabaseName, LeaseName, RoleName};
use crate::requests::RequestId;
use crate::state::{
    Condition, Conflict, Fence, Key, KeyError, ListPage, Outcome, Position, Prefix, Revision, State, StateError, Txn,
};

/// One configured database, as leases use it.
#[derive(Clone, Debug)]
pub struct Database {
    pub settings: PostgresSettings,
    pub users: Arc<dyn Users>,
    /// The certificates in PEM that the server's chains to.
    pub ca: Arc<str>,
}

/// All leases, and the tasks that end them. Clones share them.
#[derive(Clone, Debug)]
pub struct Leases(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    databases: BTreeMap<DatabaseName, Database>,
    settings: LeaseSettings,
    state: State,
    node: Arc<str>,
    /// Marks the users of those brokers that share this state. Absent until the leases were read.
    deployment: OnceLock<String>,
    book: Mutex<Book>,
    clock: LeaseClock,
    failpoints: Arc<dyn Failpoints>,
    /// Told whenever something may be due earlier than it seemed.
    changed: Notify,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What leases are opened with.
#[derive(Debug)]
pub struct Opening {
    pub databases: BTreeMap<DatabaseName, Database>,
    pub settings: LeaseSettings,
    pub state: State,
    pub node: String,
    pub clock: SharedClock,
    pub failpoints: Arc<dyn Failpoints>,
    /// Cancelled, the workers end, also where nobody stops the leases in order.
    pub stop: CancellationToken,
}

#[derive(Debug, Error)]
pub enum OpenError {
    #[error("the leases cannot be read from the state")]
    State(#[from] StateError),
    #[error("the leases have no key in the state; report this")]
    Key(#[from] KeyError),
    #[error("the deployment's mark cannot be made")]
    Mark(#[source] Failure),
}

impl Leases {
    /// Reads all leases, and starts to end those whose time is over. Where the state is out, that is done once it is
    /// back: secrets are served meanwhile, and whatever needs a lease is refused.
    pub async fn open(opening: Opening) -> Result<Self, OpenError> {
        let Opening { databases, settings, state, node, clock, failpoints, stop } = opening;
        let leases = Self(Arc::new(Inner {
            databases,
            settings,
            state,
            node: node.into(),
            deployment: OnceLock::new(),
            book: Mutex::default(),
            clock: LeaseClock::new(clock),
            failpoints,
            changed: Notify::new(),
            tasks: TaskTracker::new(),
            stop,
        }));
        match leases.begin().await {
            Err(OpenError::State(error)) => {
                tracing::error!(%error, "the leases cannot be read yet; until they are, no token is minted");
                leases.spawn(leases.clone().begin_later());
            }
            begun => begun?,
        }
        Ok(leases)
    }

    async fn begin(&self) -> Result<(), OpenError> {
        // Without a database there is no lease to keep, and nothing to ask the state for.
        if self.0.databases.is_empty() {
            let _ = self.0.deployment.set(String::new());
            return Ok(());
        }
        let deployment = sweep::deployment(&self.0.state).await?;
        self.0.clock.not_before(deployment.seen);
        let read = self.read_all().await?;
        // Only now: whoever finds it finds all leases, too.
        let _ = self.0.deployment.set(deployment.mark);
        self.start(read)
    }

    async fn begin_later(self) {
        loop {
            tokio::time::sleep(worker::PAUSE).await;
            match self.begin().await {
                Ok(()) => return tracing::info!("the leases are read"),
                Err(OpenError::State(error)) => tracing::debug!(%error, "the leases cannot be read yet"),
                Err(error) => return tracing::error!(%error, "the leases cannot be read; report this"),
            }
        }
    }

    /// Lets what is under way end; what is left is on record.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// The roles that tokens can be minted for, by name.
    pub fn roles(&self) -> impl Iterator<Item = (RoleName, &RoleSettings, &Database)> {
        self.0.databases.iter().flat_map(|(name, database)| {
            let roles = database.settings.roles.iter();
            roles.filter_map(move |(id, role)| Some((name.role(id).ok()?, role, database)))
        })
    }

    pub fn role(&self, name: &RoleName) -> Result<(&RoleSettings, &Database), Failure> {
        let database = self.0.databases.get(name.database());
        let found = database.and_then(|database| Some((database.settings.roles.get(name.id())?, database)));
        found.ok_or_else(|| {
            let message = format!("{name} is not configured; ListDatabaseRoles shows what there is for you");
            Failure::new(Reason::DatabaseRoleNotFound, message)
        })
    }

    /// As far as this replica has heard of it.
    pub fn heard_of(&self, name: &LeaseName) -> Option<(Lease, Trouble)> {
        self.0.find(name)
    }

    /// One that another replica made a moment ago is asked of the state.
    pub async fn find(&self, name: &LeaseName) -> Result<(Lease, Trouble), Failure> {
        self.0.deployment()?;
        if let Some(found) = self.0.find(name) {
            return Ok(found);
        }
        let (lease, _) = self.0.read(name).await?.ok_or_else(|| no_such_lease(name))?;
        Ok((lease, Trouble::default()))
    }

    /// `None` until the leases were read.
    pub fn counts(&self) -> Option<Counts> {
        self.0.deployment.get().map(|_| self.0.book().counts(self.0.clock.now()))
    }

    /// The configured databases, each with when its users were last compared with the leases.
    pub fn databases(&self) -> impl Iterator<Item = (&DatabaseName, &Database, Option<Timestamp>)> {
        let swept = |name: &DatabaseName| self.0.book().swept.get(name.as_str()).copied();
        self.0.databases.iter().map(move |(name, database)| (name, database, swept(name)))
    }

    /// Refuses an id that was used for another call, and remembers it for this one.
    pub async fn remember(&self, caller: &str, id: &RequestId) -> Result<(), Failure> {
        let remembered = id.remembered(&self.0.state, caller, self.0.clock.now()).await?;
        // Somebody who wrote it at the same moment is the same caller, repeating itself.
        let _ = self.0.state.commit(remembered.write(Txn::new(), None, self.0.clock.now())).await?;
        Ok(())
    }

    /// Newest first, those after `after`, as far as `wanted` says.
    pub fn list(
        &self,
        after: Option<&LeaseName>,
        most: usize,
        wanted: impl FnMut(&Lease) -> bool,
    ) -> Result<Vec<(Lease, Trouble)>, Failure> {
        self.0.deployment()?;
        let book = self.0.book();
        let mut wanted = wanted;
        let filter = |held: &&Held| wanted(&held.lease);
        Ok(match after {
            None => book.newest().filter(filter).take(most).map(Held::told).collect(),
            Some(after) => book.before(after).filter(filter).take(most).map(Held::told).collect(),
        })
    }

    /// Puts what is on record into memory; says as of where it was, once the state knows of which history.
    async fn read_all(&self) -> Result<Option<Position>, OpenError> {
        let prefix = Prefix::new(&LEASES, &[])?;
        let epoch = self.0.state.status().epoch;
        let mut after = None;
        let mut first = None;
        loop {
            let page = self.0.state.list::<Lease>(&prefix, ListPage { after, size: ListPage::MAX_SIZE }).await?;
            let now = self.0.clock.now();
            let mut book = self.0.book();
            for stored in page.records {
                self.0.clock.not_before(stored.record.created);
                book.put(stored.record, stored.revision, now, &self.0.node);
            }
            first = first.or(Some(page.revision));
            after = page.next;
            if after.is_none() {
                return Ok(epoch.map(|epoch| Position { epoch, revision: first.unwrap_or_default() }));
            }
        }
    }
}

impl Inner {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mark of this deployment, once the leases were read: before that, no answer about them would be true.
    fn deployment(&self) -> Result<&str, Failure> {
        self.deployment.get().map(String::as_str).ok_or_else(|| {
            let message = "the broker could not read its leases from its state store yet; ask again shortly, and if it \
                           lasts, tell the operators, whose GetStatus says why";
            Failure::new(Reason::StateUnavailable, message)
        })
    }

    fn find(&self, name: &LeaseName) -> Option<(Lease, Trouble)> {
        self.book().get(name).map(Held::told)
    }

    fn database(&self, role: &RoleName) -> Result<&Database, Failure> {
        self.databases.get(role.database()).ok_or_else(|| {
            let message = format!(
                "{} is no longer configured, and its users are still there; configure it until they are removed",
                role.database()
            );
            Failure::new(Reason::DatabaseUnavailable, message)
        })
    }

    /// Writes a lease as it shall be, if nobody wrote it since `revision`; `None` if somebody did.
    async fn write(
        &self,
        lease: &Lease,
        revision: Revision,
        fence: Option<Fence>,
        more: impl FnOnce(Txn) -> Txn,
    ) -> Result<Option<Revision>, Failure> {
        let key = key(&lease.name)?;
        let unchanged = match revision {
            new if new == Revision::default() => Condition::Absent(key.clone()),
            known => Condition::Unchanged(key.clone(), known),
        };
        let txn = more(Txn::new().when(unchanged).put(&key, lease));
        let txn = fence.into_iter().fold(txn, |txn, fence| txn.when(Condition::Leads(fence)));
        match self.state.commit(txn).await? {
            Outcome::Committed(revision) => {
                self.book().put(lease.clone(), revision, self.clock.now(), &self.node);
                self.tell(&lease.name);
                Ok(Some(revision))
            }
            Outcome::Conflict(Conflict::Key { .. } | Conflict::Deposed) => Ok(None),
            Outcome::Unknown => Err(undecided()),
        }
    }

    /// The lease as the state has it now.
    async fn read(&self, name: &LeaseName) -> Result<Option<(Lease, Revision)>, Failure> {
        let stored = self.state.get::<Lease>(&key(name)?).await?;
        Ok(stored.map(|stored| (stored.record, stored.revision)))
    }

    fn let_go(&self, name: &LeaseName) {
        self.book().let_go(name);
        self.tell(name);
    }
}

fn key(name: &LeaseName) -> Result<Key, Failure> {
    Key::new(&LEASES, &[name.id()]).map_err(|error| {
        Failure::new(Reason::Internal, "a lease has no key in the state; report this").caused_by(error)
    })
}

fn undecided() -> Failure {
    let message = "the state store did not say whether it wrote the lease; repeat the call with the same request_id";
    Failure::new(Reason::StateUnavailable, message)
}

/// What those hear who may not know of it, too.
pub fn no_such_lease(name: &LeaseName) -> Failure {
    Failure::new(
        Reason::LeaseNotFound,
        format!("{name} does not exist, or is not yours; ListLeases shows those that are"),
    )
}

/// The moment and then chance, so that later leases have greater names.
fn new_name(now: Timestamp) -> Result<LeaseName, Failure> {
    let mut bytes = [0; 8];
    super::users::fill_random(&mut bytes)?;
    let id = format!("{:014x}{:016x}", now.as_micros(), u64::from_be_bytes(bytes));
    LeaseName::from_id(&id)
        .map_err(|error| Failure::new(Reason::Internal, "a lease could not be named; report this").caused_by(error))
}
