//! Why policy decides as it does: which policies decided, and what kept the others from applying.

mod condition;
mod place;

use std::cmp::Reverse;

use cedar_policy::{AuthorizationError, Decision, Effect, Entities, Policy, Request};

use self::condition::Condition;
pub(super) use self::place::{Place, lines};
use super::action::{Action, Circumstances, Resource};
use super::policy::{Policies, concerns, question};
use super::profile::Profile;

const MAX_CONSIDERED: usize = 20;
/// Taking a policy apart costs far more than evaluating it.
const MAX_TAKEN_APART: usize = 2_000;

/// A decision with its grounds. Asked for by people; nothing is admitted by it.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub allowed: bool,
    /// The policies that decided: those forbidding, or else those permitting.
    pub determining: Vec<Weighed>,
    /// Those for this action that did not apply, the nearest first, after those that could not be evaluated.
    pub considered: Vec<Weighed>,
    /// Whether one could not be evaluated, which by itself is a denial.
    pub failed: bool,
}

/// One policy's part in a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighed {
    pub id: String,
    pub file: String,
    /// From 1; 0 where it is not known.
    pub line: usize,
    pub forbids: bool,
    pub description: String,
    /// Why it did not apply; empty where it did.
    pub unmet: String,
}

impl Policies {
    /// `Err`: the question cannot be put to any policy, because the action is not asked of such a resource.
    pub fn explain(
        &self,
        who: &Profile<'_>,
        action: Action,
        resource: &Resource,
        circumstances: Circumstances,
    ) -> Result<Explanation, String> {
        let (request, entities) = question(who, action, resource, circumstances).map_err(|error| error.to_string())?;
        let response = self.authorizer.is_authorized(&request, &self.set, &entities);
        let diagnostics = response.diagnostics();
        let determining: Vec<_> =
            diagnostics.reason().filter_map(|id| self.set.policy(id)).map(|policy| self.weighed(policy, "")).collect();
        let mut considered = Vec::new();
        for AuthorizationError::PolicyEvaluationError(error) in diagnostics.errors() {
            if let Some(policy) = self.set.policy(error.policy_id()) {
                considered.push(self.weighed(policy, &format!("could not be evaluated: {}", error.inner())));
            }
        }
        let failed = !considered.is_empty();
        let allowed = response.decision() == Decision::Allow && !failed;
        considered.extend(self.near_misses(&request, &entities, action, who, resource));
        considered.truncate(MAX_CONSIDERED);
        Ok(Explanation { allowed, determining, considered, failed })
    }

    /// Those that a single change would bring in come first; among them, those with the most in common.
    fn near_misses(
        &self,
        request: &Request,
        entities: &Entities,
        action: Action,
        who: &Profile<'_>,
        resource: &Resource,
    ) -> Vec<Weighed> {
        let names = Names { who, resource };
        let mut missed = Vec::new();
        for policy in self.set.policies().filter(|policy| concerns(policy, action)).take(MAX_TAKEN_APART) {
            let Ok(json) = policy.to_json() else { continue };
            let conditions = condition::take_apart(&json);
            let unmet: Vec<&Condition> =
                conditions.iter().filter(|condition| !condition.holds(&self.authorizer, request, entities)).collect();
            let Some(first) = unmet.first() else { continue };
            let rank = (unmet.len(), Reverse(conditions.len() - unmet.len()));
            missed.push((rank, self.weighed(policy, &first.unmet(request, entities, &names))));
        }
        missed.sort_by(|a, b| (a.0, &a.1.id).cmp(&(b.0, &b.1.id)));
        missed.into_iter().map(|(_, weighed)| weighed).take(MAX_CONSIDERED).collect()
    }

    fn weighed(&self, policy: &Policy, unmet: &str) -> Weighed {
        let place = self.places.get(policy.id());
        Weighed {
            id: policy.id().to_string(),
            file: place.map(|place| place.file.clone()).unwrap_or_default(),
            line: place.map_or(0, |place| place.line),
            forbids: policy.effect() == Effect::Forbid,
            description: policy.annotation("description").unwrap_or_default().to_owned(),
            unmet: unmet.to_owned(),
        }
    }
}

/// What there is to be named, for saying what a wrong name resembles.
struct Names<'a> {
    who: &'a Profile<'a>,
    resource: &'a Resource,
}

impl Names<'_> {
    fn claims(&self) -> Vec<&str> {
        let claims = self.who.token.as_ref().map(|token| token.claims.iter().map(|(path, _)| path));
        let mut claims: Vec<_> = claims.into_iter().flatten().collect();
        claims.dedup();
        claims
    }

    fn labels(&self) -> Vec<&str> {
        match self.resource {
            Resource::Secret(_, labels) => labels.keys().map(String::as_str).collect(),
            Resource::Store(_) | Resource::DatabaseRole(_) | Resource::Broker => Vec::new(),
        }
    }
}
