//! The one way to a permit.

use std::sync::Arc;

use super::action::{Action, Circumstances, Resource};
use super::policy::{Policies, Verdict};
use crate::digest::Digest;
use crate::error::{Failure, Reason};
use crate::identity::Caller;

/// Proof that one caller may do one thing to one resource. Only [`Gate::admit`] makes one.
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
pub struct Denied {
    pub failure: Failure,
    pub policy: Digest,
}

#[derive(Debug)]
pub struct Gate {
    policies: super::PolicyStore,
}

impl Gate {
    pub fn new(policies: super::PolicyStore) -> Self {
        Self { policies }
    }

    pub fn policies(&self) -> &super::PolicyStore {
        &self.policies
    }

    /// The answer is the same whether or not the resource exists.
    pub fn admit(
        &self,
        caller: &Caller,
        action: Action,
        resource: Resource,
        circumstances: Circumstances,
    ) -> Result<Permit, Denied> {
        let policies: Arc<Policies> = self.policies.current();
        let policy = policies.hash();
        let Verdict { allowed, errors, .. } = policies.decide(caller, action, &resource, circumstances);
        for error in errors {
            tracing::warn!(error, action = action.as_str(), "policy evaluation failed; the call is denied");
        }
        if allowed {
            return Ok(Permit { caller: caller.shared_id(), action, resource, policy });
        }
        let message = format!(
            "{} may not {} on {}, or it does not exist; an operator can tell why with ExplainAccess",
            caller.id(),
            action.as_str(),
            resource.name(),
        );
        Err(Denied { failure: Failure::new(Reason::AccessDenied, message), policy })
    }
}
