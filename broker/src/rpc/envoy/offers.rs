//! What one caller gets of one resource now: permitted by policy, read, and found fit to be published.

use std::sync::Arc;

use super::super::call::{Call, decided};
use super::super::secret_access::{Wanted, ask};
use super::{EnvoyRpc, hidden};
use crate::admission::{Action, Permit, Resource as Asked};
use crate::audit::{Decision, Item, Record};
use crate::digest::Digest;
use crate::error::{Failure, Reason};
use crate::gateway::sds::{Material, Resource, ResourceName, Versions};
use crate::names::{SecretName, VersionId};
use crate::secrets::{Demand, Labels, Read, Secrets};
use crate::state::Position;
use crate::status::ReasonExt as _;

/// A resource as it could be published to one caller.
#[allow(missing_debug_implementations, reason = "holds a secret")]
pub(super) struct Offer {
    pub(super) name: ResourceName,
    pub(super) version: String,
    pub(super) versions: Vec<(SecretName, Arc<str>)>,
    pub(super) material: Material,
}

/// What became of one resource, and what goes on record about it.
pub(super) struct Judged {
    pub(super) result: Result<Offer, Failure>,
    /// The last good value is offered, since the newest cannot be.
    pub(super) is_held_back: bool,
    items: Vec<Item>,
    decision: Decision,
    policy: Option<Digest>,
}

/// Values that go together.
struct Usable {
    versions: Versions,
    material: Material,
    as_of: Option<Position>,
    items: Vec<Item>,
}

impl EnvoyRpc {
    pub(super) async fn judge(&self, call: &Call, name: &str) -> Judged {
        let mut judged = Judged {
            result: Err(hidden(call, name)),
            is_held_back: false,
            items: Vec::new(),
            decision: Decision::Deny,
            policy: Some(call.gate.policies().current().hash()),
        };
        judged.result = match self.board.resource(name) {
            Some((name, resource)) => self.offer(call, name, resource, &mut judged).await,
            None => Err(hidden(call, name)),
        };
        judged
    }

    async fn offer(
        &self,
        call: &Call,
        name: &ResourceName,
        resource: &Resource,
        judged: &mut Judged,
    ) -> Result<Offer, Failure> {
        let mut permits = Vec::new();
        for secret in resource.secrets() {
            permits.push(self.permit(call, name, secret, judged).await?);
        }
        let newest = vec![VersionId::Latest; permits.len()];
        let failure = match self.read(call, resource, &permits, &newest).await {
            Ok(Usable { versions, material, as_of, items }) => {
                self.board.is_good(name, &versions, as_of, call.clock.now());
                judged.items = items;
                return Ok(offer(name, resource, &versions, material));
            }
            Err(failure) => failure,
        };
        self.board.is_troubled(name, &failure);
        let good = self.board.good(name).filter(|_| failure.reason() == Reason::ValueUnusable);
        let kept = match &good {
            Some(good) => {
                let exact: Vec<_> = good.0.iter().map(|id| VersionId::Exact(Arc::clone(id))).collect();
                self.read(call, resource, &permits, &exact).await.ok()
            }
            None => None,
        };
        let Some(Usable { versions, material, items, .. }) = kept else {
            judged.fail(resource.secret.shared(), &failure);
            return Err(failure);
        };
        (judged.items, judged.is_held_back) = (items, true);
        Ok(offer(name, resource, &versions, material))
    }

    async fn permit(
        &self,
        call: &Call,
        name: &ResourceName,
        secret: &SecretName,
        judged: &mut Judged,
    ) -> Result<Permit, Failure> {
        let secrets = self.secrets();
        let wrong = secrets.check_version(secret, &VersionId::Latest);
        let asked = ask(secrets, call, Action::GetSecret, Wanted { secret, wrong, creation: None }).await;
        (judged.decision, judged.policy) = decided(&asked);
        let permitted = match asked {
            Ok(permit) if !call.method.streams => Ok(permit),
            Ok(permit) => match self.may_follow(call, secret).await {
                Ok(true) => Ok(permit),
                Ok(false) => {
                    judged.decision = Decision::Deny;
                    Err(hidden(call, name.as_str()))
                }
                Err(failure) => Err(failure),
            },
            Err(refused) if refused.failure.reason() == Reason::AccessDenied => Err(hidden(call, name.as_str())),
            Err(refused) => Err(refused.failure),
        };
        permitted.inspect_err(|failure| judged.fail(secret.shared(), failure))
    }

    /// Retirement waits for those who may watch. Others would have a value taken back under them.
    async fn may_follow(&self, call: &Call, secret: &SecretName) -> Result<bool, Failure> {
        let labels = if call.gate.reads_labels(Action::WatchRotations) {
            self.secrets().labels(secret).await?
        } else {
            Some(Labels::default())
        };
        Ok(labels.is_some_and(|labels| call.may(Action::WatchRotations, &Asked::Secret(secret.clone(), labels))))
    }

    async fn read(
        &self,
        call: &Call,
        resource: &Resource,
        permits: &[Permit],
        versions: &[VersionId],
    ) -> Result<Usable, Failure> {
        let mut reads = Vec::with_capacity(permits.len());
        for (permit, version) in permits.iter().zip(versions) {
            reads.push(self.secrets().get(permit, version, Demand::default()).await?);
        }
        let values: Vec<_> = reads.iter().map(|read| read.fetched.payload.clone()).collect();
        let material = Material::check(resource, &values, call.clock.now())?;
        let found = reads.iter().map(|read| Arc::clone(&read.fetched.version.id)).collect();
        let as_of = reads.iter().filter_map(|read| read.position).min_by_key(|position| position.revision);
        Ok(Usable { versions: Versions(found), material, as_of, items: reads.iter().map(item).collect() })
    }

    fn secrets(&self) -> &Secrets {
        &self.watches.sight().secrets
    }
}

impl Judged {
    /// Each secret goes on record when it is handed out, and when it is refused anew.
    pub(super) fn note(&self, record: &mut Record, is_new: bool) {
        (record.decision, record.policy) = (self.decision, self.policy);
        if is_new {
            record.items.extend(self.items.iter().cloned());
        }
    }

    fn fail(&mut self, resource: Arc<str>, failure: &Failure) {
        let outcome = failure.reason().name();
        self.items.push(Item { resource, version: None, decision: self.decision, outcome, source: "" });
    }
}

fn offer(name: &ResourceName, resource: &Resource, versions: &Versions, material: Material) -> Offer {
    let named = resource.secrets().cloned().zip(versions.0.iter().cloned()).collect();
    Offer { name: name.clone(), version: resource.version(versions), versions: named, material }
}

fn item(read: &Read) -> Item {
    Item {
        resource: read.secret.shared(),
        version: Some(Arc::clone(&read.fetched.version.id)),
        decision: Decision::Allow,
        outcome: "OK",
        source: read.source.as_str(),
    }
}
