//! Several secrets that stay current: one watch over all of them, for as long as a program or a file needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keyferry_client::{Client, Read, Reason, Secret, Told, Watch, WatchOptions};
use keyferry_proto::v1::AcknowledgeRotationRequest;
use tokio::time::sleep;

use super::failure::Failure;
use super::names::without_version;
use super::say_error;

/// After a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// How often all are read though no event told of a change: values that end by themselves, a watch that is not allowed.
const LOOK: Duration = Duration::from_secs(300);

/// A revision, and its epoch.
type Since = (i64, String);

pub(super) struct Following {
    client: Client,
    /// By the name that was asked for.
    current: BTreeMap<String, Secret>,
    watch: Watch,
    subscriber: Option<String>,
    /// Whether the broker is to hear of the versions in use.
    unacknowledged: bool,
    /// What is to be read again, and not before which revision. It outlives a call that was dropped.
    due: BTreeMap<String, Since>,
    /// Some were read that nobody was told of yet; that outlives such a call, too.
    is_new: bool,
}

impl Following {
    /// All must be there, or nothing is started.
    pub(super) async fn start(
        client: &Client,
        names: BTreeSet<String>,
        subscriber: Option<String>,
    ) -> Result<Self, Failure> {
        let mut current = BTreeMap::new();
        for name in names {
            let read = client.get_secret(name.as_str()).await;
            let secret = read.map_err(|error| Failure::from(error).at(&name))?;
            current.insert(name, secret);
        }
        let mut options = WatchOptions::default();
        for name in current.keys() {
            options = options.secret(without_version(name));
        }
        if let Some(subscriber) = &subscriber {
            options = options.subscriber(subscriber);
        }
        let watch = client.watch(options);
        Ok(Self {
            client: client.clone(),
            current,
            watch,
            subscriber,
            unacknowledged: false,
            due: BTreeMap::new(),
            is_new: false,
        })
    }

    pub(super) fn current(&self) -> &BTreeMap<String, Secret> {
        &self.current
    }

    /// Returns once some have other versions than before. May be dropped while it waits without missing any. Whatever
    /// fails meanwhile is said, tried again, and leaves the values as they are.
    pub(super) async fn changed(&mut self) {
        loop {
            if self.read_due().await {
                return;
            }
            // What cannot be read now is tried again soon, and keeps nobody from hearing of the others.
            let pause = if self.due.is_empty() { LOOK } else { AGAIN };
            if self.due.is_empty() {
                self.send_acknowledgement().await;
            }
            tokio::select! {
                told = self.watch.next() => match told {
                    Ok(told) => self.note(&told),
                    Err(error) => {
                        say_error(&format!("changes are looked for, not heard of: {}", Failure::from(error)));
                        sleep(LOOK).await;
                        self.look_at_all();
                    }
                },
                () = sleep(pause) => if self.due.is_empty() { self.look_at_all() },
            }
        }
    }

    /// The versions that are current now are in use. The broker hears of it within [`Self::changed`], and lets the ones
    /// before retire.
    pub(super) fn acknowledge(&mut self) {
        self.unacknowledged = self.subscriber.is_some();
    }

    /// Until it is heard, or refused for good.
    async fn send_acknowledgement(&mut self) {
        let Some(subscriber) = self.subscriber.as_ref().filter(|_| self.unacknowledged) else { return };
        let versions = self.current.values().map(|secret| format!("{}/versions/{}", secret.name, secret.version));
        let request = AcknowledgeRotationRequest {
            subscriber: subscriber.clone(),
            versions: versions.collect(),
            ..AcknowledgeRotationRequest::default()
        };
        loop {
            match self.client.call(request.clone()).await {
                Ok(_) => break,
                Err(error) if error.is_passing() => sleep(AGAIN).await,
                Err(error) => {
                    say_error(&format!("the versions in use are not acknowledged: {}", Failure::from(error)));
                    break;
                }
            }
        }
        self.unacknowledged = false;
    }

    fn look_at_all(&mut self) {
        for name in self.current.keys() {
            self.due.entry(name.clone()).or_default();
        }
    }

    fn note(&mut self, told: &Told) {
        for (name, secret) in &self.current {
            let known = format!("{}/versions/{}", secret.name, secret.version);
            if let Some(since) = told.news(&secret.name, &known) {
                self.due.insert(name.clone(), since);
            } else if matches!(told, Told::Snapshot(_)) {
                self.due.remove(name);
            }
        }
    }

    /// Whether one that was read is another version than before.
    async fn read_due(&mut self) -> bool {
        let due: Vec<_> = self.due.iter().map(|(name, since)| (name.clone(), since.clone())).collect();
        for (name, (revision, epoch)) in due {
            match self.client.get_secret(Read::of(&name).min_revision(revision, epoch)).await {
                Ok(secret) => {
                    let before = self.current.insert(name.clone(), secret);
                    let after = self.current.get(&name).map(|secret| &secret.version);
                    self.is_new |= before.as_ref().map(|secret| &secret.version) != after;
                    self.due.remove(&name);
                }
                Err(error) if error.is_passing() => {}
                Err(error) if error.reason() == Some(Reason::EpochChanged) => {
                    self.due.insert(name, Since::default());
                }
                Err(error) => {
                    say_error(&format!("{name} stays as it is: {}", Failure::from(error)));
                    self.due.remove(&name);
                }
            }
        }
        std::mem::take(&mut self.is_new)
    }
}
