//! The database is the second source of truth: a sweep compares its users with the leases.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::record::{Cause, Lease, Stage};
use super::{Database, Inner, LeaseName, Leases, OpenError, new_name};
use crate::clock::Timestamp;
use crate::databases::users::{Tagged, UserName};
use crate::error::{Failure, Reason};
use crate::names::{DatabaseName, RoleName};
use crate::state::{Condition, Fence, Key, KeyError, Kind, Outcome, Record, Revision, State, Txn};

static DEPLOYMENTS: Kind = Kind { name: "deployments", upgrades: &[] };

/// Made with the state: brokers that share it know their users by it, and leave those of others alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deployment {
    pub(super) mark: String,
    /// How late it was at the last sweep: a clock that was set back before a start extends no lease past that.
    #[serde(default = "never")]
    pub(super) seen: Timestamp,
}

fn never() -> Timestamp {
    Timestamp::from_micros(0)
}

impl Record for Deployment {
    const KIND: &'static Kind = &DEPLOYMENTS;
}

fn this() -> Result<Key, KeyError> {
    Key::new(&DEPLOYMENTS, &["this"])
}

pub(super) async fn deployment(state: &State) -> Result<Deployment, OpenError> {
    let key = this()?;
    loop {
        if let Some(found) = state.get::<Deployment>(&key).await? {
            return Ok(found.record);
        }
        let mut bytes = [0; 8];
        rand::fill(&mut bytes).map_err(|error| {
            OpenError::Mark(Failure::new(Reason::Internal, "the system has no random numbers").caused_by(error))
        })?;
        let mark = format!("{:016x}", u64::from_be_bytes(bytes));
        let txn = Txn::new().when(Condition::Absent(key.clone())).put(&key, &Deployment { mark, seen: never() });
        // Whoever came first has made it; it is read in any case.
        let _: Outcome = state.commit(txn).await?;
    }
}

impl Leases {
    pub(super) async fn sweep_for_ever(self, name: DatabaseName) {
        let mut leadership = self.0.state.leadership();
        let Some(database) = self.0.databases.get(&name) else { return };
        loop {
            let fence = leadership.elected().await;
            if let Err(failure) = self.0.sweep(&name, database, fence).await {
                tracing::warn!(database = %name, reason = failure.reason().as_str_name(), cause = failure.cause(),
                    "a database could not be compared with its leases; tried again");
            }
            sleep(self.0.settings.sweep_interval).await;
        }
    }
}

impl Inner {
    async fn sweep(&self, name: &DatabaseName, database: &Database, fence: Fence) -> Result<(), Failure> {
        let began = self.clock.now();
        self.remember_time(began, fence).await?;
        // In this order: a user is made after its lease is pending, and before it is active.
        let mut missing: HashMap<UserName, (LeaseName, Revision)> = {
            let book = self.book();
            let of_this = book.newest().filter(|held| held.lease.role.database() == name.as_str());
            let active = of_this.filter(|held| held.lease.stage == Stage::Active && !held.in_hand);
            active.map(|held| (held.lease.user.clone(), (held.lease.name.clone(), held.revision))).collect()
        };
        let deployment = self.deployment()?;
        // Of very many users only those are kept that no lease is known for.
        let mut strangers = Vec::new();
        let mut meet = |user: Tagged| {
            if user.tag.deployment != deployment {
                return;
            }
            missing.remove(&user.name);
            if !self.is_known(&user, began) {
                strangers.push(user);
            }
        };
        database.users.list(&mut meet).await?;
        for (lease, revision) in missing.into_values() {
            // Written since: then it is somebody's concern already.
            let Some((lease, _)) = self.read(&lease).await?.filter(|(_, now)| *now == revision) else { continue };
            tracing::warn!(lease = %lease.name, "the user of an active lease is gone; the lease is closed");
            let now = self.clock.now();
            let gone = lease.at(Stage::Revoked { cause: Cause::Reconciled, since: now, gone: now });
            let _ = self.write(&gone, revision, Some(fence), |txn| txn).await?;
        }
        for user in strangers {
            self.adopt_orphan(name, user, began, fence).await?;
        }
        self.book().swept.insert(name.as_str().to_owned(), began);
        Ok(())
    }

    async fn remember_time(&self, now: Timestamp, fence: Fence) -> Result<(), Failure> {
        let impossible = |error| Failure::new(Reason::Internal, "the deployment has no key").caused_by(error);
        let record = Deployment { mark: self.deployment()?.to_owned(), seen: now };
        let txn = Txn::new().when(Condition::Leads(fence)).put(&this().map_err(impossible)?, &record);
        // Deposed, another one does it.
        let _ = self.state.commit(txn).await?;
        Ok(())
    }

    /// A user whose lease is over or unknown gets one that is being revoked.
    async fn adopt_orphan(
        &self,
        database: &DatabaseName,
        user: Tagged,
        began: Timestamp,
        fence: Fence,
    ) -> Result<(), Failure> {
        let recorded = self.read(&user.tag.lease).await?;
        if recorded.as_ref().is_some_and(|(lease, _)| has_its_user(lease, &user, began)) {
            return Ok(());
        }
        tracing::warn!(user = ?user.name, lease = %user.tag.lease, "a user without a lease was found; it is removed");
        let now = self.clock.now();
        let stage = Stage::Revoking { cause: Cause::Reconciled, since: now };
        let (lease, revision) = match recorded {
            Some((lease, revision)) if lease.user == user.name => (lease.at(stage), revision),
            other => {
                let name = if other.is_some() { new_name(now)? } else { user.tag.lease.clone() };
                (self.orphan(database, name, user, stage)?, Revision::default())
            }
        };
        let _ = self.write(&lease, revision, Some(fence), |txn| txn).await?;
        Ok(())
    }

    /// As far as this replica has heard.
    fn is_known(&self, user: &Tagged, began: Timestamp) -> bool {
        self.book().get(&user.tag.lease).is_some_and(|held| has_its_user(&held.lease, user, began))
    }

    fn orphan(&self, database: &DatabaseName, name: LeaseName, user: Tagged, stage: Stage) -> Result<Lease, Failure> {
        let now = self.clock.now();
        let role: RoleName = database.role(&user.tag.role).map_err(|error| {
            Failure::new(Reason::Internal, "a user's comment names an impossible role; correct or drop that user")
                .caused_by(error)
        })?;
        Ok(Lease {
            name,
            role,
            owner: user.tag.caller.into(),
            user: user.name,
            minter: Arc::clone(&self.node),
            created: now,
            expires: now,
            max_expires: now,
            issue: 0,
            stage,
        })
    }
}

/// One that was removed after the list was begun may be on it still.
fn has_its_user(lease: &Lease, user: &Tagged, began: Timestamp) -> bool {
    let is_over = matches!(lease.stage, Stage::Revoked { gone, .. } if gone < began);
    lease.user == user.name && !is_over
}
