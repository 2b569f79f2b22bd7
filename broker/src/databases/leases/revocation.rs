//! Revoking by decision. The decision is durable when a call answers; carrying it out is the workers' business.

use super::mint::misfit;
use super::record::{Cause, Lease, Stage};
use super::{Inner, Leases, Trouble, no_such_lease};
use crate::admission::{Action, Permit, Resource};
use crate::error::Failure;
use crate::names::LeaseName;

impl Leases {
    /// Its owner may, with a permit for its own leases, and an operator with one for anybody's.
    pub async fn revoke(&self, permit: &Permit, name: &LeaseName) -> Result<(Lease, Trouble), Failure> {
        let found = self.0.read(name).await?;
        let (lease, _) = found.ok_or_else(|| no_such_lease(name))?;
        let own = lease.owner == *permit.caller();
        let cause = if permit.action() == Action::RevokeAnyLease {
            Cause::Operator
        } else if permit.action() == Action::RevokeLease && own {
            Cause::Owner
        } else {
            return Err(if own { misfit() } else { no_such_lease(name) });
        };
        if !matches!(permit.resource(), Resource::DatabaseRole(role) if *role == lease.role) {
            return Err(misfit());
        }
        self.0.decide(name, cause, None).await?;
        self.find(name).await
    }

    /// Returns once the user is gone, or a first try has failed, or the time is over.
    pub async fn watch_first_try(&self, name: &LeaseName, patience: std::time::Duration) {
        let settled = async {
            loop {
                let changed = self.0.changed.notified();
                match self.0.find(name) {
                    Some((lease, trouble))
                        if matches!(lease.stage, Stage::Revoking { .. }) && trouble.attempts == 0 => {}
                    _ => return,
                }
                changed.await;
            }
        };
        // Out of time: how far it is by now is answer enough.
        let _ = tokio::time::timeout(patience, settled).await;
    }
}

impl Inner {
    /// Puts the decision on record; what is being revoked already stays as it is.
    pub(super) async fn decide(
        &self,
        name: &LeaseName,
        cause: Cause,
        fence: Option<crate::state::Fence>,
    ) -> Result<(), Failure> {
        self.decide_if(name, cause, fence, |_| true).await
    }

    pub(super) async fn decide_if(
        &self,
        name: &LeaseName,
        cause: Cause,
        fence: Option<crate::state::Fence>,
        condition: impl Fn(&Lease) -> bool,
    ) -> Result<(), Failure> {
        loop {
            let Some((lease, revision)) = self.read(name).await? else {
                self.book().remove(name);
                return Ok(());
            };
            if !lease.is_live() || !condition(&lease) {
                return Ok(());
            }
            let revoking = lease.at(Stage::Revoking { cause, since: self.clock.now() });
            if self.write(&revoking, revision, fence, |txn| txn).await?.is_some() {
                return Ok(());
            }
            if fence.is_some() && self.state.leadership().term().fence != fence {
                return Ok(());
            }
        }
    }
}
