//! A set of Cedar policies: read from a directory, strictly validated, never changed once made.

#[cfg(test)]
mod fuzz;
mod problem;
mod sources;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::LazyLock;

use cedar_policy::{
    ActionConstraint, Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy,
    PolicyId, PolicySet, Request, RestrictedExpression, Schema, ValidationMode, Validator,
};
use serde_json::Value as Json;
use thiserror::Error;

use self::sources::MAX_FILE;
pub(super) use self::sources::Sources;
use super::action::{Action, Circumstances, Resource};
use super::explain::{Place, lines};
use super::profile::Profile;
use crate::digest::Digest;
use crate::identity::Caller;

const SCHEMA: &str = include_str!("keyferry.cedarschema");

/// What is asked of the policies, in Cedar's terms.
pub struct Policies {
    pub(super) set: PolicySet,
    pub(super) authorizer: Authorizer,
    /// Where each policy stands, for whoever asks why.
    pub(super) places: HashMap<PolicyId, Place>,
    hash: Digest,
    /// Actions on which some policy looks at the call itself: its time, its peer.
    context: HashSet<Action>,
    /// Actions on which some policy looks at the labels of the resource.
    labels: HashSet<Action>,
}

/// The policies' word, and which of them spoke it.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    /// The policies that decided: the permits of an allow, the forbids of a denial.
    pub because: Vec<String>,
    /// Policies that failed to evaluate. Cedar skips them; here one is enough to deny.
    pub errors: Vec<String>,
}

#[derive(Debug, Error)]
pub enum PolicyError {
    #[error("cannot read the policies in {}; the directory must exist and be readable", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("cannot read the policy file {}; it must be readable text in UTF-8", .0.display())]
    ReadFile(PathBuf, #[source] std::io::Error),
    #[error("{} holds no .cedar file; without a policy nobody may do anything", .0.display())]
    None(PathBuf),
    #[error("{} is larger than {MAX_FILE} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

impl Policies {
    pub fn load(directory: &Path) -> Result<Self, PolicyError> {
        Self::parse(&Sources::read(directory)?)
    }

    /// A policy's id is its `@id` annotation, or its file's name and place in it.
    pub(super) fn parse(sources: &Sources) -> Result<Self, PolicyError> {
        let mut problems = Vec::new();
        let mut set = PolicySet::new();
        let (mut origins, mut places) = (HashMap::new(), HashMap::new());
        for (file, text) in sources.iter() {
            match PolicySet::from_str(text) {
                Ok(parsed) => {
                    if parsed.templates().next().is_some() {
                        problems.push(format!("{file}: a template has no meaning here; write the policy out"));
                    }
                    // Most likely cut off while it was rewritten, and then the others are not what was meant.
                    if parsed.policies().next().is_none() && parsed.templates().next().is_none() {
                        problems.push(format!("{file}: holds no policy; write one, or remove the file"));
                    }
                    for (policy, line) in in_order(&parsed).into_iter().zip(lines(text)) {
                        let policy = policy.new_id(id_of(file, policy));
                        places.entry(policy.id().clone()).or_insert(Place { file: file.to_owned(), line });
                        origins.entry(policy.id().clone()).or_insert((file, text));
                        if let Err(error) = set.add(policy) {
                            problems.push(format!("{file}: {error}; give each policy an @id of its own"));
                        }
                    }
                }
                Err(errors) => problems.extend(errors.iter().map(|error| problem::of(file, text, error))),
            }
        }
        if problems.is_empty() {
            let result = Validator::new(SCHEMA_PARSED.clone()).validate(&set, ValidationMode::Strict);
            problems.extend(result.validation_errors().map(|error| {
                let (file, text) = origins.get(error.policy_id()).copied().unwrap_or_default();
                problem::of(file, text, error)
            }));
        }
        if !problems.is_empty() {
            return Err(PolicyError::Invalid(problems));
        }
        let actions = |mentions: fn(&Json) -> bool| {
            Action::ALL.into_iter().filter(|&action| in_doubt(&set, action, mentions)).collect()
        };
        let (context, labels) = (actions(mentions_context), actions(mentions_labels));
        Ok(Self { set, authorizer: Authorizer::new(), places, hash: sources.hash(), context, labels })
    }

    /// Over the schema, and the names and texts of all files in order.
    pub fn hash(&self) -> Digest {
        self.hash
    }

    /// Whether a decision on this action can turn with nothing but the time or the peer.
    pub fn reads_context(&self, action: Action) -> bool {
        self.context.contains(&action)
    }

    /// Whether a decision on this action can turn with the resource's labels; where not, nobody need look them up.
    pub fn reads_labels(&self, action: Action) -> bool {
        self.labels.contains(&action)
    }

    pub fn len(&self) -> usize {
        self.set.num_of_policies()
    }

    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Decides. Whatever cannot be put to Cedar, and whatever fails in it, is a denial.
    pub fn decide(
        &self,
        caller: &Caller,
        action: Action,
        resource: &Resource,
        circumstances: Circumstances,
    ) -> Verdict {
        match question(&Profile::of(caller), action, resource, circumstances) {
            Ok((request, entities)) => {
                let response = self.authorizer.is_authorized(&request, &self.set, &entities);
                let errors: Vec<_> = response.diagnostics().errors().map(ToString::to_string).collect();
                Verdict {
                    allowed: response.decision() == Decision::Allow && errors.is_empty(),
                    because: response.diagnostics().reason().map(ToString::to_string).collect(),
                    errors,
                }
            }
            Err(error) => Verdict { allowed: false, because: Vec::new(), errors: vec![error.to_string()] },
        }
    }
}

impl std::fmt::Debug for Policies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Policies({}, {})", self.len(), self.hash)
    }
}

/// Whether some policy that can apply to the action mentions it. One whose text cannot be taken apart might.
fn in_doubt(set: &PolicySet, action: Action, mentions: fn(&Json) -> bool) -> bool {
    set.policies()
        .filter(|policy| concerns(policy, action))
        .any(|policy| policy.to_json().map_or(true, |json| mentions(&json)))
}

/// Whether the policy's scope lets it speak about the action.
pub(super) fn concerns(policy: &Policy, action: Action) -> bool {
    let names = |uid: &EntityUid| -> bool {
        let id: &str = uid.id().as_ref();
        id == action.as_str() || action.groups().contains(&id)
    };
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => names(&uid),
        ActionConstraint::In(uids) => uids.iter().any(names),
    }
}

fn mentions_context(json: &Json) -> bool {
    some_member(json, &|name, value| name == "Var" && value == "context")
}

/// The caller's tags are its claims; every other entity's might be the resource's labels.
fn mentions_labels(json: &Json) -> bool {
    some_member(json, &|name, value| {
        (name == "hasTag" || name == "getTag") && value.pointer("/left/Var").is_none_or(|var| var != "principal")
    })
}

fn some_member(json: &Json, wanted: &dyn Fn(&str, &Json) -> bool) -> bool {
    match json {
        Json::Object(members) => members.iter().any(|(name, value)| wanted(name, value) || some_member(value, wanted)),
        Json::Array(items) => items.iter().any(|item| some_member(item, wanted)),
        Json::String(_) | Json::Number(_) | Json::Bool(_) | Json::Null => false,
    }
}

/// The parser numbers policies `policy0`, `policy1`, …: the order in which the file has them.
fn in_order(set: &PolicySet) -> Vec<&Policy> {
    let mut policies: Vec<_> = set.policies().collect();
    policies.sort_by_key(|policy| number_of(policy));
    policies
}

fn number_of(policy: &Policy) -> usize {
    policy.id().to_string().trim_start_matches("policy").parse().unwrap_or(usize::MAX)
}

fn id_of(file: &str, policy: &Policy) -> PolicyId {
    match policy.annotation("id") {
        Some(id) => PolicyId::new(id),
        None => PolicyId::new(format!("{file}#{}", number_of(policy) + 1)),
    }
}

#[expect(clippy::expect_used, reason = "shipped inside the binary and parsed by the suite")]
static SCHEMA_PARSED: LazyLock<Schema> = LazyLock::new(|| Schema::from_str(SCHEMA).expect("the shipped schema parses"));

static TYPES: LazyLock<Types> = LazyLock::new(Types::new);

struct Types {
    workload: EntityTypeName,
    action: EntityTypeName,
    store: EntityTypeName,
    secret: EntityTypeName,
    database: EntityTypeName,
    role: EntityTypeName,
    broker: EntityTypeName,
}

impl Types {
    #[expect(clippy::expect_used, reason = "literals")]
    fn new() -> Self {
        let named = |name: &str| EntityTypeName::from_str(name).expect("a type of the schema");
        Self {
            workload: named("Keyferry::Workload"),
            action: named("Keyferry::Action"),
            store: named("Keyferry::Store"),
            secret: named("Keyferry::Secret"),
            database: named("Keyferry::Database"),
            role: named("Keyferry::DatabaseRole"),
            broker: named("Keyferry::Broker"),
        }
    }
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

pub(super) type QuestionError = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn question(
    caller: &Profile<'_>,
    action: Action,
    resource: &Resource,
    circumstances: Circumstances,
) -> Result<(Request, Entities), QuestionError> {
    let types = &*TYPES;
    let workload = caller.entity(&types.workload)?;
    let principal = workload.uid();
    let (resource_uid, mut entities) = match resource {
        Resource::Store(name) => {
            let store = uid(&types.store, name.id());
            (store.clone(), vec![Entity::with_uid(store)])
        }
        Resource::Secret(name, labels) => {
            let store = uid(&types.store, name.store_id());
            let secret = uid(&types.secret, name.as_str());
            let tags = labels.iter().map(|(key, value)| (key.clone(), RestrictedExpression::new_string(value.clone())));
            let entity = Entity::new_with_tags(secret.clone(), [], [store.clone()], tags)?;
            (secret, vec![entity, Entity::with_uid(store)])
        }
        Resource::DatabaseRole(name) => {
            let database = uid(&types.database, name.database_id());
            let role = uid(&types.role, name.as_str());
            let entity = Entity::new_no_attrs(role.clone(), [database.clone()].into());
            (role, vec![entity, Entity::with_uid(database)])
        }
        Resource::Broker => {
            let broker = uid(&types.broker, "keyferry");
            (broker.clone(), vec![Entity::with_uid(broker)])
        }
    };
    entities.push(workload);
    // Strict: a request or an entity that does not fit the schema must not reach a policy.
    let entities = Entities::from_entities(entities, Some(&SCHEMA_PARSED))?;
    let now = i64::try_from(circumstances.now.as_micros() / 1_000).unwrap_or(i64::MAX);
    let context = Context::from_pairs([
        ("now".to_owned(), datetime(now)?),
        ("peer".to_owned(), RestrictedExpression::new_ip(circumstances.peer.to_string())),
    ])?;
    let request =
        Request::new(principal, uid(&types.action, action.as_str()), resource_uid, context, Some(&SCHEMA_PARSED))?;
    Ok((request, entities))
}

fn datetime(millis: i64) -> Result<RestrictedExpression, QuestionError> {
    let time = jiff::Timestamp::from_millisecond(millis)?;
    Ok(RestrictedExpression::new_datetime(time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()))
}
