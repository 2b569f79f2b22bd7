//! Who watches, and what of it they may see: asked again for each event.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};

use super::cursor::Mark;
use super::filter::Filter;
use crate::admission::{Action, Circumstances, Gate, Resource, denied};
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
    pub(super) fn policies(&self) -> Mark {
        self.sight.gate.policies().current().hash().into()
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
            return Ok(self.allows(secret, Labels::default()));
        }
        match self.sight.secrets.labels(secret).await {
            Ok(labels) => Ok(labels.is_some_and(|labels| self.allows(secret, labels))),
            Err(failure) if self.allows(secret, Labels::default()) => Err(failure),
            Err(_) => Ok(false),
        }
    }

    /// Whether the secret matches and the caller may see it now.
    pub(super) async fn sees(&self, secret: &SecretName) -> Result<bool, Failure> {
        if !self.filter.takes_in(secret) {
            return Ok(false);
        }
        if !self.needs_labels() {
            return Ok(self.allows(secret, Labels::default()));
        }
        // A secret without labels is one that is gone, and what it was is not known any more.
        let Some(labels) = self.sight.secrets.labels(secret).await? else { return Ok(false) };
        Ok(self.filter.accepts(&labels) && self.allows(secret, labels))
    }

    /// As far as can be told without asking a store: where labels decide, they may well be the right ones.
    pub fn may_see(&self, secret: &SecretName) -> bool {
        self.filter.takes_in(secret) && (self.needs_labels() || self.allows(secret, Labels::default()))
    }

    /// Whether what the caller sees turns with a secret's labels.
    pub(super) fn needs_labels(&self) -> bool {
        self.filter.reads_labels() || self.sight.gate.reads_labels(Action::WatchRotations)
    }

    fn allows(&self, secret: &SecretName, labels: Labels) -> bool {
        let circumstances = Circumstances { now: self.sight.clock.now(), peer: self.peer };
        let resource = Resource::Secret(secret.clone(), labels);
        self.sight.gate.allows(&self.caller, Action::WatchRotations, &resource, circumstances)
    }
}
