//! The one way to a permit.

use std::sync::Arc;

use super::action::{Action, Circumstances, Resource};
use super::decisions::Decisions;
use super::quota::{Quota, QuotaClass};
use super::store::PolicyStore;
use crate::digest::Digest;
use crate::error::{Failure, Reason};
use crate::identity::Caller;

/// Proof that one caller may do one thing to one resource. Only [`Gate::admit`] makes one.
///
/// ```compile_fail
/// let forged = keyferry_broker::admission::Permit { };
/// ```
#[derive(Debug)]
pub struct Permit {
    caller: Arc<str>,
    action: Action,
    resource: Resource,
    policy: Digest,
}

impl Permit {
    pub fn caller(&self) -> &Arc<str> {
        &self.caller
    }

    pub fn action(&self) -> Action {
        self.action
    }

    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// The hash of the policies that allowed it.
    pub fn policy(&self) -> Digest {
        self.policy
    }
}

/// A refusal: what the caller hears, and what the audit record says of it.
#[derive(Debug)]
pub struct Refused {
    pub failure: Failure,
    pub policy: Digest,
    /// Whether policy had allowed it, and quota did not.
    pub allowed: bool,
}

#[derive(Debug)]
pub struct Gate {
    policies: PolicyStore,
    decisions: Decisions,
    quota: Quota,
}

impl Gate {
    pub fn new(policies: PolicyStore, quota: Quota) -> Self {
        Self { policies, decisions: Decisions::new(), quota }
    }

    pub fn policies(&self) -> &PolicyStore {
        &self.policies
    }

    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Policy first, then quota. The answer is the same whether or not the resource exists.
    pub fn admit(
        &self,
        caller: &Caller,
        action: Action,
        class: QuotaClass,
        resource: Resource,
        circumstances: Circumstances,
    ) -> Result<Permit, Refused> {
        let policies = self.policies.current();
        let policy = policies.hash();
        if !self.decisions.decide(&policies, caller, action, &resource, circumstances) {
            return Err(Refused { failure: denied(caller, action, &resource), policy, allowed: false });
        }
        let secret = match &resource {
            Resource::Secret(secret, _) if action == Action::GetSecret => Some(secret),
            Resource::Secret(..) | Resource::Store(_) | Resource::DatabaseRole(_) | Resource::Broker => None,
        };
        match self.quota.take(&caller.shared_id(), class, secret) {
            Ok(()) => Ok(Permit { caller: caller.shared_id(), action, resource, policy }),
            Err(failure) => Err(Refused { failure, policy, allowed: true }),
        }
    }

    /// Whether policy would allow it, for leaving things out of a list. Not a permit, and nothing is counted.
    pub fn allows(&self, caller: &Caller, action: Action, resource: &Resource, circumstances: Circumstances) -> bool {
        let policies = self.policies.current();
        self.decisions.decide(&policies, caller, action, resource, circumstances)
    }
}

fn denied(caller: &Caller, action: Action, resource: &Resource) -> Failure {
    let message = format!(
        "{} may not {} on {}, or it does not exist; ExplainAccess tells why",
        caller.id(),
        action.as_str(),
        resource.name(),
    );
    Failure::new(Reason::AccessDenied, message)
}
