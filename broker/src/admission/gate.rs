//! The one way to a permit.

use std::sync::Arc;

use super::action::{Action, Circumstances, Resource};
use super::decisions::Decisions;
use super::policy::Policies;
use super::quota::{Quota, QuotaClass};
use super::store::PolicyStore;
use crate::digest::Digest;
use crate::error::{Failure, Reason};
use crate::identity::Caller;
use crate::names::SecretName;

/// Proof that one caller may do one thing to one resource. Only [`Inquiry::admit`] makes one.
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
    /// What policy said: where it allowed, quota did not. `None`: quota came first.
    pub allowed: Option<bool>,
}

/// One call at the gate, to be decided by one set of policies, however often it asks.
#[derive(Debug)]
pub struct Inquiry<'a> {
    gate: &'a Gate,
    policies: Arc<Policies>,
    caller: &'a Caller,
    action: Action,
    class: QuotaClass,
    circumstances: Circumstances,
    metered: bool,
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

    pub fn inquiry<'a>(
        &'a self,
        caller: &'a Caller,
        action: Action,
        class: QuotaClass,
        circumstances: Circumstances,
    ) -> Inquiry<'a> {
        Inquiry { gate: self, policies: self.policies.current(), caller, action, class, circumstances, metered: false }
    }

    /// For one resource whose labels are known, or do not matter.
    pub fn admit(
        &self,
        caller: &Caller,
        action: Action,
        class: QuotaClass,
        resource: Resource,
        circumstances: Circumstances,
    ) -> Result<Permit, Refused> {
        self.inquiry(caller, action, class, circumstances).admit(resource)
    }

    /// Whether the policies in force look at the labels of what the action is asked of.
    pub fn reads_labels(&self, action: Action) -> bool {
        self.policies.current().reads_labels(action)
    }

    /// Whether policy would allow it, for leaving things out of a list. Not a permit, and nothing is counted.
    pub fn allows(&self, caller: &Caller, action: Action, resource: &Resource, circumstances: Circumstances) -> bool {
        self.allows_by(&self.policies.current(), caller, action, resource, circumstances)
    }

    /// The same by policies that may be in force no more.
    pub fn allows_by(
        &self,
        policies: &Policies,
        caller: &Caller,
        action: Action,
        resource: &Resource,
        circumstances: Circumstances,
    ) -> bool {
        self.decisions.decide(policies, caller, action, resource, circumstances)
    }
}

impl Inquiry<'_> {
    pub fn reads_labels(&self) -> bool {
        self.policies.reads_labels(self.action)
    }

    /// Takes quota ahead of policy, for a secret whose store must be asked before policy can decide: who may nothing
    /// asks no store without end, and what is there, hidden or absent costs alike.
    pub fn meter(&mut self, secret: &SecretName) -> Result<(), Refused> {
        let refused = |failure| Refused { failure, policy: self.policies.hash(), allowed: None };
        self.take(Some(secret)).map_err(refused)?;
        self.metered = true;
        Ok(())
    }

    /// Policy first, then quota, unless it was taken before. The answer is the same whether or not the resource exists.
    pub fn admit(&self, resource: Resource) -> Result<Permit, Refused> {
        let Self { gate, caller, action, circumstances, .. } = *self;
        let policy = self.policies.hash();
        if !gate.decisions.decide(&self.policies, caller, action, &resource, circumstances) {
            return Err(Refused { failure: denied(caller, action, &resource), policy, allowed: Some(false) });
        }
        let secret = match &resource {
            Resource::Secret(secret, _) => Some(secret),
            Resource::Store(_) | Resource::DatabaseRole(_) | Resource::Broker => None,
        };
        match if self.metered { Ok(()) } else { self.take(secret) } {
            Ok(()) => Ok(Permit { caller: caller.shared_id(), action, resource, policy }),
            Err(failure) => Err(Refused { failure, policy, allowed: Some(true) }),
        }
    }

    fn take(&self, secret: Option<&SecretName>) -> Result<(), Failure> {
        let secret = secret.filter(|_| self.action == Action::GetSecret);
        self.gate.quota.take(&self.caller.shared_id(), self.class, secret)
    }
}

/// What those hear whom policy refuses, whether or not there is such a thing.
pub(crate) fn denied(caller: &Caller, action: Action, resource: &Resource) -> Failure {
    let message = format!(
        "{} may not {} on {}, or it does not exist; ExplainAccess tells why",
        caller.id(),
        action.as_str(),
        resource.name(),
    );
    Failure::new(Reason::AccessDenied, message)
}
