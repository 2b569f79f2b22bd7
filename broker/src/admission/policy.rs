//! A set of Cedar policies: read from a directory, strictly validated, never changed once made.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::LazyLock;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet,
    Request, RestrictedExpression, Schema, ValidationMode, Validator,
};
use thiserror::Error;

use super::action::{Action, Circumstances, Resource};
use crate::digest::Digest;
use crate::identity::Caller;

const SCHEMA: &str = include_str!("keyferry.cedarschema");
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What is asked of the policies, in Cedar's terms.
pub struct Policies {
    set: PolicySet,
    authorizer: Authorizer,
    hash: Digest,
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
    #[error("{} holds no .cedar file; without a policy nobody may do anything", .0.display())]
    None(PathBuf),
    #[error("{} is larger than {MAX_FILE} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

impl Policies {
    pub fn load(directory: &Path) -> Result<Self, PolicyError> {
        let unreadable = |error| PolicyError::Read(directory.to_owned(), error);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|extension| extension == "cedar") {
                files.push(path);
            }
        }
        if files.is_empty() {
            return Err(PolicyError::None(directory.to_owned()));
        }
        files.sort();
        let mut sources = Vec::with_capacity(files.len());
        for path in files {
            let unreadable = |error| PolicyError::Read(path.clone(), error);
            if std::fs::metadata(&path).map_err(unreadable)?.len() > MAX_FILE {
                return Err(PolicyError::TooLarge(path));
            }
            let text = std::fs::read_to_string(&path).map_err(unreadable)?;
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            sources.push((name, text));
        }
        Self::parse(&sources)
    }

    /// From named sources. A policy's id is its `@id` annotation, or its file's name and place in it.
    pub fn parse(sources: &[(String, String)]) -> Result<Self, PolicyError> {
        let mut problems = Vec::new();
        let mut set = PolicySet::new();
        for (file, text) in sources {
            match PolicySet::from_str(text) {
                Ok(parsed) => {
                    if parsed.templates().next().is_some() {
                        problems.push(format!("{file}: a template has no meaning here; write the policy out"));
                    }
                    for policy in in_order(&parsed) {
                        if let Err(error) = set.add(policy.new_id(id_of(file, policy))) {
                            problems.push(format!("{file}: {error}; give each policy an @id of its own"));
                        }
                    }
                }
                Err(errors) => problems.extend(errors.iter().map(|error| format!("{file}: {error}"))),
            }
        }
        if problems.is_empty() {
            let result = Validator::new(SCHEMA_PARSED.clone()).validate(&set, ValidationMode::Strict);
            problems.extend(result.validation_errors().map(|error| format!("policy {error}")));
        }
        if !problems.is_empty() {
            return Err(PolicyError::Invalid(problems));
        }
        // Each file goes in as the digest of its name and the digest of its text, so that no two sets run together.
        let parts: Vec<Digest> = sources
            .iter()
            .flat_map(|(file, text)| [Digest::of(file.as_bytes()), Digest::of(text.as_bytes())])
            .collect();
        let hash = Digest::of_parts(&parts.iter().map(|part| part.0.as_slice()).collect::<Vec<_>>());
        Ok(Self { set, authorizer: Authorizer::new(), hash })
    }

    /// Names and bytes of all files, in order.
    pub fn hash(&self) -> Digest {
        self.hash
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
        match question(caller, action, resource, circumstances) {
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
            broker: named("Keyferry::Broker"),
        }
    }
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

type QuestionError = Box<dyn std::error::Error + Send + Sync>;

fn question(
    caller: &Caller,
    action: Action,
    resource: &Resource,
    circumstances: Circumstances,
) -> Result<(Request, Entities), QuestionError> {
    let types = &*TYPES;
    let workload = workload(caller)?;
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

fn workload(caller: &Caller) -> Result<Entity, QuestionError> {
    let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
    let mut attributes: HashMap<String, RestrictedExpression> = HashMap::new();
    if let Some(certificate) = caller.certificate() {
        let mut fields = vec![
            ("thumbprint".to_owned(), text(&certificate.thumbprint().to_string())),
            (
                "dnsNames".to_owned(),
                RestrictedExpression::new_set(certificate.dns_names().iter().map(|name| text(name))),
            ),
        ];
        fields.extend(certificate.common_name().map(|name| ("commonName".to_owned(), text(name))));
        if let Some(id) = certificate.spiffe_id()? {
            let spiffe = [("trustDomain".to_owned(), text(id.trust_domain())), ("path".to_owned(), text(id.path()))];
            fields.push(("spiffe".to_owned(), RestrictedExpression::new_record(spiffe)?));
        }
        attributes.insert("certificate".to_owned(), RestrictedExpression::new_record(fields)?);
    }
    let tags = Vec::<(String, RestrictedExpression)>::new();
    Ok(Entity::new_with_tags(uid(&TYPES.workload, caller.id()), attributes, [], tags)?)
}
