use std::sync::Arc;
use std::time::Duration;

use keyferry_proto::v1::AcknowledgeRotationRequest;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, interval_at, sleep};

use crate::{Client, Error, Read, Reason, Secret, SecretName, SubscriberName, Told, Watch, WatchOptions};

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
    pub(crate) async fn start(
        client: Client,
        name: SecretName,
        subscriber: Option<SubscriberName>,
    ) -> Result<Self, Error> {
        let secret = client.get_secret(&name).await?;
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

type Since = (i64, String);
const UNDEMANDING: Since = (0, String::new());

struct Follower {
    client: Client,
    name: SecretName,
    subscriber: Option<SubscriberName>,
    sender: watch::Sender<Arc<Secret>>,
    taken: watch::Receiver<String>,
    acknowledged: Option<String>,
}

impl Follower {
    async fn follow(mut self, mut watch: Watch) {
        let mut look = interval_at(Instant::now() + LOOK, LOOK);
        let mut refused = false;
        // The revision that a read must reflect, with its epoch.
        let mut due = None;
        loop {
            if let Some(since) = due.take() {
                due = self.read(since).await;
            }
            self.acknowledge().await;
            tokio::select! {
                told = watch.next(), if !refused => match told {
                    Ok(told) => {
                        let before = if matches!(told, Told::Snapshot(_)) { None } else { due };
                        due = told.news(self.name.as_str(), &self.known()).or(before);
                    }
                    // Reading goes on without the watch, which is tried again after each look.
                    Err(_) => refused = true,
                },
                Ok(()) = self.taken.changed() => {}
                () = sleep(AGAIN), if due.is_some() => {}
                // What no event tells of: a value that ends by itself, or a watch that is not permitted.
                _ = look.tick() => {
                    refused = false;
                    due = due.or(Some(UNDEMANDING));
                }
            }
        }
    }

    fn known(&self) -> String {
        format!("{}/versions/{}", self.name, self.sender.borrow().version)
    }

    /// What is due still, since nothing could be read now. What is refused for good leaves the last value as it is.
    async fn read(&self, (revision, epoch): Since) -> Option<Since> {
        let read = Read::from(&self.name).min_revision(revision, epoch.as_str());
        match self.client.get_secret(read).await {
            Ok(secret) => {
                self.sender.send_if_modified(|current| {
                    let is_new = secret.version != current.version;
                    *current = Arc::new(secret);
                    is_new
                });
                None
            }
            Err(error) if error.reason() == Some(Reason::EpochChanged) => Some(UNDEMANDING),
            Err(error) => error.is_passing().then_some((revision, epoch)),
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
        let subscriber = subscriber.to_string();
        let message = AcknowledgeRotationRequest { subscriber, versions, ..AcknowledgeRotationRequest::default() };
        // Tried again with the next event or look.
        if self.client.call(message).await.is_ok() {
            self.acknowledged = Some(version);
        }
    }
}
