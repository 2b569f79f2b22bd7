//! An Envoy as a subscriber: on record, so that an old version is not retired while it still runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::super::call::Call;
use crate::digest::Digest;
use crate::gateway::sds::{Resource, ResourceName};
use crate::identity::Caller;
use crate::names::SecretName;
use crate::rotation::subscribers::{Membership, SubscriberName, Way};
use crate::rotation::watch::{Filter, Viewer, Watches};
use crate::state::Position;

/// As much as is kept of a name that is no subscriber's.
const READABLE: usize = 40;

/// One stream's standing as a subscriber. What cannot be put on record is tried again: an Envoy is served whatever the
/// state does.
pub(super) struct Follower {
    watches: Watches,
    caller: Caller,
    peer: IpAddr,
    name: Option<SubscriberName>,
    secrets: BTreeSet<SecretName>,
    standing: Option<(Membership, Arc<Viewer>)>,
    /// What it made of versions, until that is on record: why it refused one, or that it runs it.
    answers: BTreeMap<SecretName, (Arc<str>, Option<String>)>,
    is_due: bool,
}

impl Follower {
    pub(super) fn new(watches: &Watches, call: &Call) -> Self {
        Self {
            watches: watches.clone(),
            caller: call.caller.clone(),
            peer: call.peer.ip(),
            name: None,
            secrets: BTreeSet::new(),
            standing: None,
            answers: BTreeMap::new(),
            is_due: false,
        }
    }

    /// These are the resources that it is served. An Envoy without a name is nobody to wait for.
    pub(super) fn follow<'a>(&mut self, node: &str, served: impl Iterator<Item = (&'a ResourceName, &'a Resource)>) {
        let served: Vec<_> = served.collect();
        let secrets: BTreeSet<_> = served.iter().flat_map(|(_, resource)| resource.secrets().cloned()).collect();
        if secrets == self.secrets {
            return;
        }
        if self.name.is_none() {
            self.name = served.first().and_then(|(resource, _)| subscriber_name(node, resource));
        }
        (self.secrets, self.standing, self.is_due) = (secrets, None, true);
    }

    pub(super) fn took(&mut self, versions: Vec<(SecretName, Arc<str>)>) {
        self.answers.extend(versions.into_iter().map(|(secret, version)| (secret, (version, None))));
        self.is_due = true;
    }

    pub(super) fn refused(&mut self, versions: Vec<(SecretName, Arc<str>)>, why: &str) {
        let refused = |(secret, version)| (secret, (version, Some(why.to_owned())));
        self.answers.extend(versions.into_iter().map(refused));
        self.is_due = true;
    }

    /// Its rights may be others, or what is on record another history.
    pub(super) fn begin_anew(&mut self) {
        (self.standing, self.is_due) = (None, true);
    }

    /// What could not be recorded may be by now.
    pub(super) fn retry(&mut self) {
        self.is_due = true;
    }

    /// `sent`: how far in the log it is up to date.
    pub(super) async fn record(&mut self, sent: Option<Position>) {
        if std::mem::take(&mut self.is_due)
            && let Some(name) = self.name.clone()
            && let Err(failure) = self.try_record(&name).await
        {
            tracing::debug!(%failure, "an Envoy's standing is not on record yet");
        }
        if let Some(((membership, _), at)) = self.standing.as_ref().zip(sent) {
            membership.sent(at.revision);
        }
    }

    async fn try_record(&mut self, name: &SubscriberName) -> Result<(), crate::error::Failure> {
        if self.secrets.is_empty() {
            return Ok(());
        }
        let subscribers = self.watches.subscribers();
        let viewer = match &self.standing {
            Some((_, viewer)) => Arc::clone(viewer),
            None => {
                let filter = Filter::of(self.secrets.iter().cloned());
                let sight = self.watches.sight().clone();
                let viewer = Arc::new(Viewer::new(sight, self.caller.clone(), self.peer, filter));
                let membership = subscribers.join(Arc::clone(&viewer), name.clone(), Way::Envoy).await?;
                self.standing = Some((membership, Arc::clone(&viewer)));
                viewer
            }
        };
        // Each reason by itself, and all acceptances together.
        while let Some((_, (_, why))) = self.answers.first_key_value() {
            let why = why.clone();
            let alike = self.answers.iter().filter(|(_, (_, other))| *other == why);
            let versions: Vec<_> = alike.map(|(secret, (version, _))| (secret.clone(), Arc::clone(version))).collect();
            subscribers.acknowledge(&viewer, name, &versions, why.as_deref().unwrap_or_default()).await?;
            self.answers.retain(|_, (_, other)| *other != why);
        }
        Ok(())
    }
}

/// Envoy opens a stream for each resource, so each is a subscriber. A node's id may be any text.
fn subscriber_name(node: &str, resource: &ResourceName) -> Option<SubscriberName> {
    if node.is_empty() {
        return None;
    }
    let name = format!("{node}.{resource}");
    SubscriberName::parse(&name).ok().or_else(|| {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let readable: String =
            name.to_lowercase().chars().map(|c| if fits(c) { c } else { '-' }).take(READABLE).collect();
        let digest = Digest::of(name.as_bytes()).to_string();
        SubscriberName::parse(&format!("{}-{}", readable.trim_matches('-'), digest.get(..12)?)).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_envoy_has_a_subscribers_name_of_its_own_for_each_resource() {
        let resource = ResourceName::parse("web").unwrap();
        let name = |node: &str| subscriber_name(node, &resource).map(|name| name.as_str().to_owned());
        assert_eq!(name(""), None);
        assert_eq!(name("edge-1").as_deref(), Some("edge-1.web"));
        let sidecar = name("sidecar~10.0.0.1~Pod.ns~cluster.local").unwrap();
        assert!(sidecar.starts_with("sidecar-10-0-0-1-pod-ns-cluster-local-we-"), "{sidecar}");
        assert_ne!(name("Edge"), name("eDge"));
        assert_ne!(name(&"x".repeat(200)), name(&"x".repeat(201)));
        assert!(name("~~~").is_some());
    }
}
