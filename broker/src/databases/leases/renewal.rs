//! Renewing: never past the lease's longest life, nor the end of the caller's own credential.

use super::mint::{Wish, misfit};
use super::record::{Lease, Stage};
use super::{Leases, Point, no_such_lease};
use crate::admission::{Action, Permit, Resource};
use crate::error::{Failure, Reason};
use crate::names::LeaseName;

/// How often somebody else's change of the same lease is given way to.
const TRIES: usize = 5;

impl Leases {
    pub async fn renew(&self, permit: &Permit, name: &LeaseName, wish: &Wish) -> Result<Lease, Failure> {
        if permit.action() != Action::RenewLease {
            return Err(misfit());
        }
        let remembered = match &wish.request {
            None => None,
            Some(id) => Some(id.remembered(&self.0.state, permit.caller(), self.0.clock.now()).await?),
        };
        for _ in 0..TRIES {
            let (lease, revision) = self.owned(permit, name).await?;
            if remembered.as_ref().is_some_and(|remembered| remembered.earlier.is_some()) {
                return Ok(lease);
            }
            let renewed = self.renewed(&lease, wish)?;
            let now = self.0.clock.now();
            // The database first: were it last, a crash would leave a lease whose password ends too early.
            self.0.database(&lease.role)?.users.extend(&lease.user, renewed.expires).await?;
            self.0.failpoints.reach(Point::RenewExtended);
            let remember = |txn| match &remembered {
                Some(remembered) => remembered.write(txn, Some(name.as_str()), now),
                None => txn,
            };
            if self.0.write(&renewed, revision, None, remember).await?.is_some() {
                return Ok(renewed);
            }
        }
        let message = format!("{name} was changed by others at the same time; try again");
        Err(Failure::new(Reason::Conflict, message))
    }

    fn renewed(&self, lease: &Lease, wish: &Wish) -> Result<Lease, Failure> {
        let now = self.0.clock.now();
        if !matches!(lease.stage, Stage::Active) || lease.expires <= now {
            let message = format!("{} is no longer active; mint anew", lease.name);
            return Err(Failure::new(Reason::LeaseNotActive, message));
        }
        let (role, _) = self.role(&lease.role)?;
        let until = wish.until(role, now, lease.max_expires)?;
        if lease.expires >= lease.max_expires {
            let message = format!("{} has reached the end of its longest life; mint anew", lease.name);
            return Err(Failure::new(Reason::LeaseNotRenewable, message));
        }
        Ok(Lease { expires: until.max(lease.expires), ..lease.clone() })
    }

    async fn owned(&self, permit: &Permit, name: &LeaseName) -> Result<(Lease, crate::state::Revision), Failure> {
        let found = self.0.read(name).await?;
        let (lease, revision) = found.ok_or_else(|| no_such_lease(name))?;
        let is_permitted = matches!(permit.resource(), Resource::DatabaseRole(role) if *role == lease.role);
        if lease.owner != *permit.caller() {
            return Err(no_such_lease(name));
        }
        if is_permitted { Ok((lease, revision)) } else { Err(misfit()) }
    }
}
