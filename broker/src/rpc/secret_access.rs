//! Permits for secrets, and reads that hold one.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use keyferry_proto::v1::GetSecretRequest;

use super::call::{Call, decided};
use super::secret_messages::{bad_name, demand, printable};
use super::secrets::SecretRpc;
use crate::admission::{Action, Permit, Refused, Resource};
use crate::audit::{Decision, Item};
use crate::error::{Failure, Reason};
use crate::names::{SecretName, VersionName};
use crate::secrets::{Labels, Read, Secrets, no_such_secret};
use crate::status::ReasonExt as _;

const MAX_BATCH: usize = 100;
const BATCH_PARALLELISM: usize = 16;
/// Far below what clients take, which is 4 MiB by default: what an answer holds, a peer may leave untaken.
const MAX_BATCH_BYTES: usize = 1 << 20;

/// One entry of a batch, and what became of it.
pub(super) struct Attempt {
    pub(super) name: String,
    pub(super) decision: Decision,
    pub(super) result: Result<Read, Failure>,
}

/// What a call wants of one secret.
pub(super) struct Wanted<'a> {
    pub(super) secret: &'a SecretName,
    /// What is wrong with the request whether or not the secret is there.
    pub(super) wrong: Result<(), Failure>,
    /// The labels that the secret is to have if it is to be created where it does not exist.
    pub(super) creation: Option<&'a Labels>,
}

impl SecretRpc {
    /// One read, with the permit it needs.
    pub(super) async fn read(&self, call: &Call, request: &GetSecretRequest) -> Result<Read, Failure> {
        let (name, _) = VersionName::parse_or_latest(&request.name).map_err(bad_name("name"))?;
        let demand = demand(request)?;
        let wrong = self.secrets.check_read(&name.secret, &name.version, demand);
        let permit = admit(&self.secrets, call, Wanted { secret: &name.secret, wrong, creation: None }).await?;
        self.secrets.get(&permit, &name.version, demand).await
    }

    pub(super) async fn read_all(&self, call: &Call, requests: Vec<GetSecretRequest>) -> Result<Vec<Attempt>, Failure> {
        if !(1..=MAX_BATCH).contains(&requests.len()) {
            let description = format!("has {} entries; send 1 to {MAX_BATCH}", requests.len());
            return Err(Failure::bad_field(Reason::InvalidArgument, "requests", description));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = requests.iter().find(|request| !seen.insert(&request.name)) {
            let description = format!("names {:?} twice; name each secret once", printable(&twice.name));
            return Err(Failure::bad_field(Reason::InvalidArgument, "requests", description));
        }
        let reads: Vec<_> = requests.into_iter().map(|request| self.attempt(call, request)).collect();
        let mut attempts: Vec<_> = stream::iter(reads).buffered(BATCH_PARALLELISM).collect().await;
        bound(&mut attempts);
        Ok(attempts)
    }

    async fn attempt(&self, call: &Call, request: GetSecretRequest) -> Attempt {
        let mut decision = Decision::None;
        let result = async {
            let (name, _) = VersionName::parse_or_latest(&request.name).map_err(bad_name("name"))?;
            let demand = demand(&request)?;
            let wrong = self.secrets.check_read(&name.secret, &name.version, demand);
            let wanted = Wanted { secret: &name.secret, wrong, creation: None };
            let asked = ask(&self.secrets, call, Action::GetSecret, wanted).await;
            decision = decided(&asked).0;
            let permit = asked.map_err(|refused| refused.failure)?;
            self.secrets.get(&permit, &name.version, demand).await
        };
        let result = result.await;
        Attempt { name: request.name, decision, result }
    }
}

/// The permit for the call's own action on one secret; the decision goes on record.
pub(super) async fn admit(secrets: &Secrets, call: &Call, wanted: Wanted<'_>) -> Result<Permit, Failure> {
    let secret = wanted.secret.shared();
    call.draft.note(|record| record.resource = Some(secret));
    let asked = ask(secrets, call, call.action()?, wanted).await;
    call.draft.note(|record| (record.decision, record.policy) = decided(&asked));
    asked.map_err(|refused| refused.failure)
}

/// A secret that its labels hide from the caller is answered as if it were not there.
pub(super) async fn ask(secrets: &Secrets, call: &Call, action: Action, wanted: Wanted<'_>) -> Result<Permit, Refused> {
    let Wanted { secret, wrong, creation } = wanted;
    let resource = |labels: Labels| Resource::Secret(secret.clone(), labels);
    let uncreatable = creation.and_then(|_| secrets.check_creation(secret).err());
    let if_absent = resource(creation.filter(|_| uncreatable.is_none()).cloned().unwrap_or_default());
    let mut inquiry = call.inquire(action);
    // Where no policy reads a label, the store need not be asked before the caller is known to be permitted.
    let found = if inquiry.reads_labels() {
        inquiry.meter(secret)?;
        secrets.labels(secret).await
    } else {
        Ok(None)
    };
    match found {
        Ok(None) => sound(inquiry.admit(if_absent), wrong),
        Ok(Some(labels)) => match inquiry.admit(resource(labels)) {
            Err(refused) if inquiry.admit(if_absent).is_ok() => {
                let failure = wrong.err().or(uncreatable).unwrap_or_else(|| no_such_secret(secret));
                Err(Refused { failure, ..refused })
            }
            decided => sound(decided, wrong),
        },
        // Undecided. Who would be refused without labels hears that, and not how the store is.
        Err(failure) => {
            let policy = inquiry.admit(if_absent)?.policy();
            Err(Refused { failure: wrong.err().unwrap_or(failure), policy, allowed: Some(false) })
        }
    }
}

fn sound(decided: Result<Permit, Refused>, wrong: Result<(), Failure>) -> Result<Permit, Refused> {
    let permit = decided?;
    match wrong {
        Ok(()) => Ok(permit),
        Err(failure) => Err(Refused { failure, policy: permit.policy(), allowed: Some(true) }),
    }
}

impl Attempt {
    /// As the audit record has it.
    pub(super) fn item(&self) -> Item {
        let (resource, version, outcome, source) = match &self.result {
            Ok(read) => (read.secret.shared(), Some(Arc::clone(&read.fetched.version.id)), "OK", read.source.as_str()),
            Err(failure) => (printable(&self.name).into(), None, failure.reason().name(), ""),
        };
        Item { resource, version, decision: self.decision, outcome, source }
    }
}

/// Leaves out what would make the answer too large to be received.
fn bound(attempts: &mut [Attempt]) {
    let mut bytes = 0;
    for attempt in attempts {
        let Ok(read) = &attempt.result else { continue };
        let grown = bytes + read.fetched.payload.len();
        if grown > MAX_BATCH_BYTES {
            let message = format!(
                "left out, as the answer would hold over {MAX_BATCH_BYTES} bytes; ask for it in a batch of its own"
            );
            attempt.result = Err(Failure::new(Reason::MessageTooLarge, message));
        } else {
            bytes = grown;
        }
    }
}
