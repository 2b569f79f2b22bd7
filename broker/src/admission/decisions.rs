//! Decisions that were made before. Cedar's cost grows with the policy set; a caller's next call should not pay it.

use std::time::Duration;

use super::action::{Action, Circumstances, Resource};
use super::kept::Kept;
use super::policy::{Policies, Verdict};
use crate::digest::Digest;
use crate::identity::{Caller, Credentials};

const MAX_DECISIONS: usize = 100_000;

/// Whatever a decision can depend on is in its key, or keeps it from being kept at all.
#[derive(Debug)]
pub(super) struct Decisions(Kept<Question, bool>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    policies: Digest,
    caller: Credentials,
    action: Action,
    /// With its labels, so that a changed label is another question.
    resource: Resource,
}

impl Decisions {
    pub(super) fn new() -> Self {
        Self(Kept::new(MAX_DECISIONS, Duration::MAX))
    }

    pub(super) fn decide(
        &self,
        policies: &Policies,
        caller: &Caller,
        action: Action,
        resource: &Resource,
        circumstances: Circumstances,
    ) -> bool {
        let decide = || report(policies.decide(caller, action, resource, circumstances), action);
        // The time and the peer's address are other ones for the next call.
        if policies.reads_context(action) {
            return decide();
        }
        let question =
            Question { policies: policies.hash(), caller: caller.credentials(), action, resource: resource.clone() };
        if let Some(known) = self.0.get(&question, Duration::ZERO) {
            return known;
        }
        let allowed = decide();
        self.0.insert(question, allowed, Duration::ZERO);
        allowed
    }
}

fn report(verdict: Verdict, action: Action) -> bool {
    for error in verdict.errors {
        tracing::warn!(error, action = action.as_str(), "a policy could not be evaluated, so the call is denied");
    }
    verdict.allowed
}
