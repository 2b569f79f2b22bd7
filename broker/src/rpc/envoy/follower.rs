//! An Envoy as a subscriber: on record, so that an old version is not retired while it still runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::super::call::Call;
use crate::digest::Digest;
use crate::error::Failure;
use crate::gateway::sds::{Resource, ResourceName};
use crate::identity::Caller;
use crate::names::SecretName;
use crate::rotation::subscribers::{Membership, SubscriberName, Way};
use crate::rotation::watch::{Filter, Viewer, Watches};
use crate::state::Position;

/// As much as is kept of a name that is no subscriber's.
const READABLE: usize = 40;

/// One stream's standing as a subscriber. What cannot be put on record is tried again: an Envoy is served whatever the
/// state does, and does not wait for it.
pub(super) struct Follower {
    name: Option<SubscriberName>,
    secrets: BTreeSet<SecretName>,
    answers: Answers,
    /// Its standing is to be made anew.
    begins_anew: bool,
    is_due: bool,
    /// `None` while it writes.
    recorder: Option<Recorder>,
    writing: Option<BoxFuture<'static, (Recorder, Answers)>>,
}

/// What it made of versions: why it refused one, or that it runs it.
type Answers = BTreeMap<SecretName, (Arc<str>, Option<String>)>;

struct Recorder {
    watches: Watches,
    caller: Caller,
    peer: IpAddr,
    standing: Option<(Membership, Arc<Viewer>)>,
}

impl Follower {
    pub(super) fn new(watches: &Watches, call: &Call) -> Self {
        let (watches, caller, peer) = (watches.clone(), call.caller.clone(), call.peer.ip());
        Self {
            name: None,
            secrets: BTreeSet::new(),
            answers: Answers::new(),
            begins_anew: false,
            is_due: false,
            recorder: Some(Recorder { watches, caller, peer, standing: None }),
            writing: None,
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
        self.secrets = secrets;
        self.begin_anew();
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
        (self.begins_anew, self.is_due) = (true, true);
    }

    /// What could not be recorded may be by now.
    pub(super) fn retry(&mut self) {
        self.is_due = true;
    }

    /// How far in the log it is up to date.
    pub(super) fn sent(&self, at: Position) {
        if let Some((membership, _)) = self.recorder.as_ref().and_then(|recorder| recorder.standing.as_ref()) {
            membership.sent(at.revision);
        }
    }

    /// Returns when something was put on record, or could not be. Dropped while it waits, it has lost nothing.
    pub(super) async fn record(&mut self) {
        self.begin();
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let (recorder, left) = writing.await;
        (self.recorder, self.writing) = (Some(recorder), None);
        for (secret, answer) in left {
            // What was said since counts.
            self.answers.entry(secret).or_insert(answer);
        }
    }

    /// Puts on record what has been said so far.
    pub(super) async fn finish(&mut self) {
        while self.is_due || self.writing.is_some() {
            if self.name.is_none() || self.secrets.is_empty() {
                return;
            }
            self.record().await;
        }
    }

    fn begin(&mut self) {
        let Some(recorder) = &mut self.recorder else { return };
        if take(&mut self.begins_anew) {
            recorder.standing = None;
        }
        let Some(name) = self.name.clone().filter(|_| self.is_due && !self.secrets.is_empty()) else { return };
        let Some(recorder) = self.recorder.take() else { return };
        self.is_due = false;
        self.writing = Some(recorder.write(name, self.secrets.clone(), take(&mut self.answers)).boxed());
    }
}

impl Recorder {
    /// With what is left to be written.
    async fn write(
        mut self,
        name: SubscriberName,
        secrets: BTreeSet<SecretName>,
        mut answers: Answers,
    ) -> (Self, Answers) {
        if let Err(failure) = self.try_write(&name, secrets, &mut answers).await {
            tracing::debug!(%failure, "an Envoy's standing is not on record yet");
        }
        (self, answers)
    }

    async fn try_write(
        &mut self,
        name: &SubscriberName,
        secrets: BTreeSet<SecretName>,
        answers: &mut Answers,
    ) -> Result<(), Failure> {
        let subscribers = self.watches.subscribers();
        let viewer = match &self.standing {
            Some((_, viewer)) => Arc::clone(viewer),
            None => {
                let sight = self.watches.sight().clone();
                let filter = Filter::of(secrets.into_iter());
                let viewer = Arc::new(Viewer::new(sight, self.caller.clone(), self.peer, filter));
                let membership = subscribers.join(Arc::clone(&viewer), name.clone(), Way::Envoy).await?;
                self.standing = Some((membership, Arc::clone(&viewer)));
                viewer
            }
        };
        // Each reason by itself, and all acceptances together.
        while let Some((_, (_, why))) = answers.first_key_value() {
            let why = why.clone();
            let alike = answers.iter().filter(|(_, (_, other))| *other == why);
            let versions: Vec<_> = alike.map(|(secret, (version, _))| (secret.clone(), Arc::clone(version))).collect();
            subscribers.acknowledge(&viewer, name, &versions, why.as_deref().unwrap_or_default()).await?;
            answers.retain(|_, (_, other)| *other != why);
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
