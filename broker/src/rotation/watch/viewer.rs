//! Who watches, and what of it they may see: asked again for each event.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};

use super::filter::Filter;
use crate::admission::{Action, Circumstances, Gate, Policies, Resource, denied};
use crate::clock::{SharedClock, Timestamp};
use crate::error::Failure;
use crate::identity::Caller;
use crate::names::SecretName;
use crate::secrets::{Labels, Secrets};

/// Secrets whose labels are looked up at once.
const AT_ONCE: usize = 16;

#[derive(Debug)]
pub struct Viewer {
    pub(super) caller: Caller,
    pub(super) peer: IpAddr,
    pub(super) filter: Filter,
    pub(super) sight: Sight,
}

/// What it is asked with.
#[derive(Clone, Debug)]
pub struct Sight {
    pub gate: Arc<Gate>,
    pub secrets: Secrets,
    pub clock: SharedClock,
}

impl Viewer {
    pub fn new(sight: Sight, caller: Caller, peer: IpAddr, filter: Filter) -> Self {
        Self { caller, peer, filter, sight }
    }

    pub fn caller(&self) -> Arc<str> {
        self.caller.shared_id()
    }

    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// When its rights end.
    pub(super) fn ends(&self) -> Timestamp {
        self.caller.ends()
    }

    /// The policies in force.
    pub(super) fn policies(&self) -> Arc<Policies> {
        self.sight.gate.policies().current()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.sight.clock.now()
    }

    /// Each name that is asked for must be one that the caller may see, whether or not the secret exists.
    pub(super) async fn check_names(&self) -> Result<(), Failure> {
        let asked = stream::iter(self.filter.names().to_vec()).map(|secret| async move {
            let may = self.may_watch(&secret).await;
            (secret, may)
        });
        let mut asked = asked.buffered(AT_ONCE);
        while let Some((secret, may)) = asked.next().await {
            if !may? {
                let resource = Resource::Secret(secret, Labels::default());
                return Err(denied(&self.caller, Action::WatchRotations, &resource));
            }
        }
        Ok(())
    }

    /// Whatever its labels are to the filter. Where they are to be looked up and cannot be, who may not even see an
    /// unlabelled secret hears that and not how the store is.
    async fn may_watch(&self, secret: &SecretName) -> Result<bool, Failure> {
        if !self.sight.gate.reads_labels(Action::WatchRotations) {
            return Ok(self.watches(secret, Labels::default()));
        }
        match self.sight.secrets.labels(secret).await {
            Ok(labels) => Ok(labels.is_some_and(|labels| self.watches(secret, labels))),
            Err(failure) if self.watches(secret, Labels::default()) => Err(failure),
            Err(_) => Ok(false),
        }
    }

    /// Whether the secret matches and the caller may see it now.
    pub(super) async fn sees(&self, secret: &SecretName) -> Result<bool, Failure> {
        if !self.filter.takes_in(secret) {
            return Ok(false);
        }
        if !self.needs_labels() {
            return Ok(self.watches(secret, Labels::default()));
        }
        // A secret without labels is one that is gone, and what it was is not known any more.
        let Some(labels) = self.sight.secrets.labels(secret).await? else { return Ok(false) };
        Ok(self.filter.accepts(&labels) && self.watches(secret, labels))
    }

    /// Whether it may have the secret's value. Where that cannot be found out, it may.
    pub async fn may_read(&self, secret: &SecretName) -> bool {
        if !self.sight.gate.reads_labels(Action::GetSecret) {
            return self.allows(Action::GetSecret, secret, Labels::default());
        }
        let Ok(Some(labels)) = self.sight.secrets.labels(secret).await else { return true };
        self.allows(Action::GetSecret, secret, labels)
    }

    /// Whether the secret's labels are those that are asked for. Where that cannot be found out, they are.
    pub async fn accepts(&self, secret: &SecretName) -> bool {
        if !self.filter.reads_labels() {
            return true;
        }
        let Ok(Some(labels)) = self.sight.secrets.labels(secret).await else { return true };
        self.filter.accepts(&labels)
    }

    /// Whether it may watch and read the secret, as far as can be told without asking a store: where labels decide, they
    /// may well be the right ones.
    pub fn may_hold(&self, secret: &SecretName) -> bool {
        let may = |action| self.sight.gate.reads_labels(action) || self.allows(action, secret, Labels::default());
        may(Action::WatchRotations) && may(Action::GetSecret)
    }

    /// Where labels do not matter: whether policies that were in force before showed it the secret and those now do not,
    /// or the other way round.
    pub(super) fn sees_otherwise_than_by(&self, before: &Policies, secret: &SecretName) -> bool {
        let Self { caller, sight: Sight { gate, .. }, .. } = self;
        let action = Action::WatchRotations;
        let resource = Resource::Secret(secret.clone(), Labels::default());
        let allowed = gate.allows_by(before, caller, action, &resource, self.circumstances());
        allowed != gate.allows(caller, action, &resource, self.circumstances())
    }

    /// Whether what policies show turns with labels, by those in force or those before.
    pub(super) fn turns_with_labels(&self, before: &Policies) -> bool {
        let action = Action::WatchRotations;
        before.reads_labels(action) || self.sight.gate.reads_labels(action)
    }

    /// Whether what the caller sees turns with a secret's labels.
    pub(super) fn needs_labels(&self) -> bool {
        self.filter.reads_labels() || self.sight.gate.reads_labels(Action::WatchRotations)
    }

    /// Whether what the caller may read turns with a secret's labels.
    pub(super) fn reads_by_labels(&self) -> bool {
        self.filter.reads_labels() || self.sight.gate.reads_labels(Action::GetSecret)
    }

    fn watches(&self, secret: &SecretName, labels: Labels) -> bool {
        self.allows(Action::WatchRotations, secret, labels)
    }

    fn allows(&self, action: Action, secret: &SecretName, labels: Labels) -> bool {
        let resource = Resource::Secret(secret.clone(), labels);
        self.sight.gate.allows(&self.caller, action, &resource, self.circumstances())
    }

    fn circumstances(&self) -> Circumstances {
        Circumstances { now: self.sight.clock.now(), peer: self.peer }
    }
}
