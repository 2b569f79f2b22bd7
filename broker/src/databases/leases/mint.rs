//! Minting, in the order that survives a crash at any point.

use std::sync::Arc;
use std::time::Duration;

use super::minted::{Delivery, Minted};
use super::record::{Cause, Lease, Stage};
use super::{Database, Inner, Leases, Point, new_name};
use crate::admission::{Action, Permit, Resource};
use crate::clock::Timestamp;
use crate::databases::users::{NewUser, Tag, UserName, new_password};
use crate::databases::{LeaseSettings, RoleSettings};
use crate::error::{Failure, Reason};
use crate::names::{LeaseName, RoleName};
use crate::requests::{Remembered, RequestId, under_way};
use crate::state::Revision;

/// What a caller wishes for. Its own credential's end bounds what it gets.
#[derive(Clone, Debug)]
pub struct Wish {
    pub ttl: Option<Duration>,
    pub credential_ends: Timestamp,
    pub request: Option<RequestId>,
}

const SHORTEST: Duration = Duration::from_secs(1);

impl Wish {
    /// Until when, of a life that began at `from` and may last until `most`.
    pub(super) fn until(&self, role: &RoleSettings, now: Timestamp, most: Timestamp) -> Result<Timestamp, Failure> {
        let ttl = self.ttl.unwrap_or(role.default_ttl);
        if ttl < SHORTEST {
            return Err(Failure::bad_field(
                Reason::InvalidArgument,
                "ttl",
                "is shorter than a second; write 1s or more",
            ));
        }
        Ok(now.plus(ttl.min(role.max_ttl)).min(most).min(self.credential_ends))
    }
}

impl Leases {
    /// Everything that a mint would check, and nothing that it would do.
    pub async fn rehearse(&self, permit: &Permit, wish: &Wish) -> Result<(), Failure> {
        let (name, role, database) = self.permitted(permit)?;
        self.0.draft(name, role, permit.caller(), wish)?;
        self.0.check_room(permit.caller())?;
        database.users.probe().await
    }

    pub async fn mint(&self, permit: &Permit, wish: Wish) -> Result<Minted, Failure> {
        let (name, role, database) = self.permitted(permit)?;
        let lease = self.0.draft(name, role, permit.caller(), &wish)?;
        let mint = Mint {
            inner: Arc::clone(&self.0),
            role: role.clone(),
            database: database.clone(),
            lease,
            request: wish.request,
        };
        // A caller who goes away must not cut it off between two steps.
        let task = self.0.tasks.spawn(mint.run());
        task.await.unwrap_or_else(|error| {
            Err(Failure::new(Reason::Internal, "a mint ended unexpectedly; what it made is revoked").caused_by(error))
        })
    }

    fn permitted<'a>(&'a self, permit: &'a Permit) -> Result<(&'a RoleName, &'a RoleSettings, &'a Database), Failure> {
        let Resource::DatabaseRole(name) = permit.resource() else { return Err(misfit()) };
        if permit.action() != Action::MintDatabaseToken {
            return Err(misfit());
        }
        let (role, database) = self.role(name)?;
        self.0.deployment()?;
        Ok((name, role, database))
    }
}

pub(super) fn misfit() -> Failure {
    Failure::new(Reason::Internal, "the permit is for something else; report this")
}

/// One mint under way. Owned by a task of its own, and so never cancelled.
struct Mint {
    inner: Arc<Inner>,
    role: RoleSettings,
    database: Database,
    lease: Lease,
    request: Option<RequestId>,
}

impl Mint {
    async fn run(self) -> Result<Minted, Failure> {
        let inner = Arc::clone(&self.inner);
        let remembered = match &self.request {
            None => None,
            Some(id) => Some(id.remembered(&inner.state, &self.lease.owner, inner.clock.now()).await?),
        };
        if let Some(earlier) = remembered.as_ref().and_then(|remembered| remembered.answer.as_deref())
            && let Ok(earlier) = LeaseName::parse(earlier)
            && let Some((lease, revision)) = inner.repeatable(&earlier).await?
        {
            return self.renew_password(lease, revision).await;
        }
        // A database that is out leaves no record behind. One that answered last time is taken at its word.
        if self.database.users.account().is_in_doubt() {
            self.database.users.probe().await?;
        }
        inner.failpoints.reach(Point::MintBegun);
        let _in_hand = inner.reserve(&self.lease)?;
        self.make(remembered).await
    }

    async fn make(self, remembered: Option<Remembered>) -> Result<Minted, Failure> {
        let (inner, name) = (Arc::clone(&self.inner), self.lease.name.clone());
        let remember = |txn| match &remembered {
            Some(remembered) => remembered.write(txn, Some(name.as_str()), self.lease.created),
            None => txn,
        };
        // Without an answer of the state it may be on record, and no more than that: whoever leads will close it.
        let Some(pending) = inner.write(&self.lease, Revision::default(), None, remember).await? else {
            // Two calls with one request_id came at once.
            return Err(under_way());
        };
        // From here on, whatever does not end well is revoked.
        let delivery = Delivery::new(Arc::clone(&inner), &self.lease);
        inner.failpoints.reach(Point::MintPending);
        let password = new_password()?;
        let user = NewUser {
            name: self.lease.user.clone(),
            password: password.clone(),
            until: self.lease.expires,
            groups: self.role.groups.clone(),
            connection_limit: self.role.connection_limit,
            search_path: self.role.search_path.clone(),
            tag: Tag {
                deployment: inner.deployment()?.to_owned(),
                lease: name.clone(),
                role: self.lease.role.id().to_owned(),
                caller: self.lease.owner.to_string(),
            },
        };
        self.database.users.create(&user).await?;
        inner.failpoints.reach(Point::MintCreated);
        let active = self.lease.at(Stage::Active);
        let Some(_) = inner.write(&active, pending, None, |txn| txn).await? else {
            let message = "the token was revoked before it was ready; ask for another";
            return Err(Failure::new(Reason::LeaseNotActive, message));
        };
        inner.failpoints.reach(Point::MintActive);
        Ok(Minted { lease: active, password, database: self.database, delivery })
    }

    /// The same user, with another password: no password is kept that could be told again.
    async fn renew_password(self, lease: Lease, revision: Revision) -> Result<Minted, Failure> {
        let lease = Lease { issue: lease.issue.wrapping_add(1), ..lease };
        // On record first: from here on it is this call's to give up, and no longer the one's before.
        if self.inner.write(&lease, revision, None, |txn| txn).await?.is_none() {
            return Err(under_way());
        }
        let delivery = Delivery::new(Arc::clone(&self.inner), &lease);
        let password = new_password()?;
        self.database.users.set_password(&lease.user, &password).await?;
        Ok(Minted { lease, password, database: self.database, delivery })
    }
}

struct InHand(Arc<Inner>, LeaseName);

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.let_go(&self.1);
    }
}

impl Inner {
    fn draft(&self, role: &RoleName, settings: &RoleSettings, owner: &Arc<str>, wish: &Wish) -> Result<Lease, Failure> {
        let now = self.clock.now();
        let max_expires = now.plus(settings.max_lifetime).min(wish.credential_ends);
        Ok(Lease {
            name: new_name(now)?,
            role: role.clone(),
            owner: Arc::clone(owner),
            user: UserName::generate(role.id())?,
            minter: Arc::clone(&self.node),
            created: now,
            expires: wish.until(settings, now, max_expires)?,
            max_expires,
            issue: 0,
            stage: Stage::Pending,
        })
    }

    /// No worker attends to it while a mint has it in hand.
    fn reserve(self: &Arc<Self>, lease: &Lease) -> Result<InHand, Failure> {
        // Under one lock, so that no two mints take the last place.
        let mut book = self.book();
        room(book.live_of(&lease.owner), &lease.owner, &self.settings)?;
        book.reserve(lease.clone());
        Ok(InHand(Arc::clone(self), lease.name.clone()))
    }

    fn check_room(&self, owner: &str) -> Result<(), Failure> {
        room(self.book().live_of(owner), owner, &self.settings)
    }

    /// The lease of the same call, made before. `None`: that call came to nothing, and this one may try.
    async fn repeatable(&self, earlier: &LeaseName) -> Result<Option<(Lease, Revision)>, Failure> {
        let Some((lease, revision)) = self.read(earlier).await? else { return Ok(None) };
        match lease.stage {
            Stage::Active if lease.expires > self.clock.now() => Ok(Some((lease, revision))),
            Stage::Pending => Err(under_way()),
            Stage::Revoking { cause: Cause::MintIncomplete, .. }
            | Stage::Revoked { cause: Cause::MintIncomplete, .. } => Ok(None),
            Stage::Active | Stage::Revoking { .. } | Stage::Revoked { .. } => {
                let message = format!("the token of this request_id has ended with {earlier}; mint with a new one");
                Err(Failure::new(Reason::LeaseNotActive, message))
            }
        }
    }
}

fn room(live: usize, owner: &str, settings: &LeaseSettings) -> Result<(), Failure> {
    let most = settings.live_per_caller;
    if live < most {
        return Ok(());
    }
    let limit = format!("{most} live leases");
    let message =
        format!("{owner} holds {limit}, as many as [leases] live_per_caller allows; revoke what is not needed");
    Err(Failure::new(Reason::LeaseLimitExceeded, message).quota(owner.to_owned(), limit, Duration::from_secs(30)))
}
