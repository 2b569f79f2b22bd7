use std::sync::Arc;
use std::time::Duration;

use keyferry_proto::v1::{AcknowledgeRotationRequest, RotationEventKind};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, interval_at, sleep};

use crate::{Client, Error, Read, Reason, Secret, Told, Watch, WatchOptions};

/// A secret that is always the current one: a task follows its rotations and reads each new version. Under a subscriber's
/// name, a version is acknowledged once [`Self::current`] or [`Self::changed`] has handed it out.
///
/// While neither the broker nor a new version can be had, the last one stays.
#[derive(Debug)]
pub struct SecretHandle {
    current: watch::Receiver<Arc<Secret>>,
    /// The version that was handed out last; empty before the first.
    taken: watch::Sender<String>,
    task: AbortHandle,
}

/// After a failure to read what a rotation told of.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a value is read though nothing told of a change.
const LOOK: Duration = Duration::from_secs(300);

impl SecretHandle {
    /// The current version. Cheap: no call is made.
    pub fn current(&self) -> Arc<Secret> {
        let secret = Arc::clone(&self.current.borrow());
        self.take(secret)
    }

    /// Returns once there is another version than the one this returned for last.
    pub async fn changed(&mut self) -> Arc<Secret> {
        if self.current.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let secret = Arc::clone(&self.current.borrow_and_update());
        self.take(secret)
    }

    fn take(&self, secret: Arc<Secret>) -> Arc<Secret> {
        self.taken.send_if_modified(|taken| {
            let is_new = *taken != secret.version;
            if is_new {
                taken.clone_from(&secret.version);
            }
            is_new
        });
        secret
    }

    /// Reads the secret, which must be there, and follows it from then on.
    pub(crate) async fn start(client: Client, name: String, subscriber: Option<String>) -> Result<Self, Error> {
        let secret = client.get_secret(name.as_str()).await?;
        let options = WatchOptions::default().secret(name.as_str());
        let options = match &subscriber {
            Some(subscriber) => options.subscriber(subscriber.as_str()),
            None => options,
        };
        let watch = client.watch(options);
        let (sender, current) = watch::channel(Arc::new(secret));
        let (taken, following) = watch::channel(String::new());
        let follower = Follower { client, name, subscriber, sender, taken: following, acknowledged: None };
        let task = tokio::spawn(follower.follow(watch)).abort_handle();
        Ok(Self { current, taken, task })
    }
}

impl Drop for SecretHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Follower {
    client: Client,
    name: String,
    subscriber: Option<String>,
    sender: watch::Sender<Arc<Secret>>,
    taken: watch::Receiver<String>,
    acknowledged: Option<String>,
}

impl Follower {
    async fn follow(mut self, mut watch: Watch) {
        let mut look = interval_at(Instant::now() + LOOK, LOOK);
        let mut refused = false;
        loop {
            self.acknowledge().await;
            tokio::select! {
                told = watch.next(), if !refused => match told {
                    Ok(told) => {
                        if let Some((revision, epoch)) = self.news(&told) {
                            self.read(Read::of(self.name.as_str()).min_revision(revision, epoch)).await;
                        }
                    }
                    // Reading goes on without the watch, which is tried again after each look.
                    Err(_) => refused = true,
                },
                Ok(()) = self.taken.changed() => {}
                // What no event tells of: a value that ends by itself, or a watch that is not permitted.
                _ = look.tick() => {
                    refused = false;
                    self.read(Read::of(self.name.as_str())).await;
                }
            }
        }
    }

    /// The last revision at which something happened that may have changed the value.
    fn news(&self, told: &Told) -> Option<(i64, String)> {
        match told {
            Told::Snapshot(entries) => {
                let entry = entries.iter().find(|entry| entry.secret == self.name)?;
                let known = format!("{}/versions/{}", self.name, self.sender.borrow().version);
                (entry.version != known).then(|| (0, String::new()))
            }
            Told::Events(events) => {
                let mut changes = events.iter().filter(|event| {
                    event.secret == self.name
                        && !matches!(
                            event.kind(),
                            RotationEventKind::RotationStarted
                                | RotationEventKind::RotationAdvanced
                                | RotationEventKind::RotationEnded
                        )
                });
                changes.next_back().map(|event| (event.revision, event.epoch.clone()))
            }
        }
    }

    /// Until it is read, or is refused for good: then the last value stays.
    async fn read(&self, read: Read) {
        let mut read = read;
        loop {
            match self.client.get_secret(read.clone()).await {
                Ok(secret) => {
                    self.sender.send_if_modified(|current| {
                        let is_new = secret.version != current.version;
                        *current = Arc::new(secret);
                        is_new
                    });
                    return;
                }
                Err(Error::Refused(refusal)) if refusal.reason == Reason::EpochChanged => {
                    read = Read::of(self.name.as_str());
                }
                Err(error) => {
                    sleep(AGAIN).await;
                    if !error.is_passing() {
                        return;
                    }
                }
            }
        }
    }

    /// Tells the broker which version is in use, where it knows this subscriber.
    async fn acknowledge(&mut self) {
        let taken = self.taken.borrow_and_update().clone();
        let Some(subscriber) = self.subscriber.clone().filter(|_| !taken.is_empty()) else { return };
        let version = format!("{}/versions/{taken}", self.name);
        if self.acknowledged.as_ref() == Some(&version) {
            return;
        }
        let versions = vec![version.clone()];
        let message = AcknowledgeRotationRequest { subscriber, versions, ..AcknowledgeRotationRequest::default() };
        // Tried again with the next event or look.
        if self.client.call(message).await.is_ok() {
            self.acknowledged = Some(version);
        }
    }
}
