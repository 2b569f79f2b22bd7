//! Who watches, and what each of them runs: on record, so that every replica can tell, and a restart forgets nobody.

mod amend;
mod book;
mod follow;
mod gateway;
mod live;
mod membership;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::book::Book;
pub use self::book::Place;
pub use self::gateway::Gateway;
pub use self::live::Seen;
pub use self::membership::Membership;
use self::membership::{Left, Live};
pub use self::record::{
    Refused, Runs, SUBSCRIBERS, Session, Stream, Subscriber, SubscriberName, SubscriberNameError, Way,
};
use super::watch::Viewer;
use crate::clock::{SharedClock, Timestamp};
use crate::error::{Failure, Reason};
use crate::names::SecretName;
use crate::state::{KeyError, ListPage, Prefix, Revision, State};

/// Secrets that one subscriber can say something of, and that it can be kept from holding.
const MAX_RUNS: usize = 1000;

/// All subscribers. Clones share them.
#[derive(Clone, Debug)]
pub struct Subscribers(Arc<Inner>);

/// What they are started with.
#[derive(Debug)]
pub struct Opening {
    pub state: State,
    pub node: String,
    /// The secrets whose old versions somebody may hold.
    pub rotated: BTreeSet<SecretName>,
    /// Those that the broker brings up to date itself.
    pub gateways: BTreeSet<Place>,
    pub clock: SharedClock,
    pub stop: CancellationToken,
}

#[derive(Debug)]
struct Inner {
    state: State,
    prefix: Prefix,
    node: String,
    rotated: BTreeSet<SecretName>,
    gateways: BTreeSet<Place>,
    clock: SharedClock,
    book: Mutex<Book>,
    /// Streams of this replica.
    live: Mutex<HashMap<Place, Live>>,
    /// Streams that ended and are not off the record yet.
    leaving: Mutex<Vec<Left>>,
    left: Notify,
    changes: watch::Sender<u64>,
    /// Since when this replica can know of a stream of its own.
    started: Timestamp,
    /// Whether the book has all that was on record.
    is_read: AtomicBool,
    /// When another replica was first missed.
    missed: Mutex<HashMap<String, Timestamp>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Subscribers {
    /// Follows what is on record, from when the state can be reached.
    pub fn start(opening: Opening) -> Result<Self, KeyError> {
        let subscribers = Self(Arc::new(Inner::new(opening)?));
        subscribers.spawn(Arc::clone(&subscribers.0).follow());
        subscribers.spawn(Arc::clone(&subscribers.0).forget());
        subscribers.0.tasks.spawn(Arc::clone(&subscribers.0).take_off());
        Ok(subscribers)
    }

    /// Returns once the streams that ended are off the record.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.left.notify_one();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// All are recorded, or none.
    pub async fn acknowledge(
        &self,
        viewer: &Viewer,
        name: &SubscriberName,
        versions: &[(SecretName, Arc<str>)],
        rejection: &str,
    ) -> Result<Subscriber, Failure> {
        let place = (viewer.caller(), name.clone());
        let now = self.0.clock.now();
        let secrets = versions.iter().map(|(secret, _)| secret);
        let rotated = secrets.filter(|secret| self.0.rotated.contains(*secret));
        let excused = self.0.excused(viewer, rotated.map(|secret| (secret.clone(), true))).await;
        let written = self.0.amend(&place, |known| {
            // Whoever acknowledges without watching is taken to watch what it acknowledges.
            let mut subscriber = known.unwrap_or_else(|| {
                Subscriber::new(Arc::clone(&place.0), place.1.clone(), viewer.filter().clone(), now)
            });
            subscriber.last_seen = now;
            for (secret, version) in versions {
                if rejection.is_empty() {
                    subscriber.takes(secret.clone(), Arc::clone(version), now);
                } else {
                    subscriber.refuses(secret.clone(), Arc::clone(version), rejection, now);
                }
                subscriber.excused.remove(secret);
            }
            subscriber.excused.extend(excused.iter().cloned());
            if subscriber.runs.len() > MAX_RUNS {
                let description = format!("would make it over {MAX_RUNS} secrets; use a subscriber name for each part");
                return Err(Failure::bad_field(Reason::InvalidArgument, "versions", description));
            }
            Ok(Some(subscriber))
        });
        let written = written.await?.map(|(subscriber, _)| subscriber);
        written.ok_or_else(|| Failure::new(Reason::Internal, "a subscriber vanished; report this"))
    }

    /// Those after `place`, ordered by caller and name.
    pub fn after(&self, place: Option<&Place>, most: usize) -> Vec<Seen> {
        let held: Vec<_> = self.0.book().after(place).take(most).map(|held| Arc::clone(&held.subscriber)).collect();
        held.into_iter().map(|subscriber| self.0.seen(subscriber)).collect()
    }

    /// Where the state is now, whatever this replica has heard.
    pub async fn revision(&self) -> Result<Revision, Failure> {
        let page = self.0.state.list::<Subscriber>(&self.0.prefix, ListPage { after: None, size: 1 }).await?;
        Ok(page.revision)
    }

    /// How many are known.
    pub fn count(&self) -> usize {
        self.0.book().len()
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.0.stop.clone();
        self.0.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }
}

impl Inner {
    fn new(opening: Opening) -> Result<Self, KeyError> {
        let Opening { state, node, rotated, gateways, clock, stop } = opening;
        Ok(Self {
            state,
            prefix: Prefix::new(&SUBSCRIBERS, &[])?,
            node,
            rotated,
            gateways,
            started: clock.now(),
            clock,
            book: Mutex::default(),
            live: Mutex::default(),
            leaving: Mutex::default(),
            left: Notify::new(),
            changes: watch::Sender::new(0),
            is_read: AtomicBool::new(false),
            missed: Mutex::default(),
            tasks: TaskTracker::new(),
            stop,
        })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<Place, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those whose versions the viewer cannot hold, of secrets that it says it runs or that its filter takes in.
    async fn excused(
        &self,
        viewer: &Viewer,
        secrets: impl Iterator<Item = (SecretName, bool)>,
    ) -> BTreeSet<SecretName> {
        let mut excused = BTreeSet::new();
        for (secret, runs) in secrets {
            if !viewer.may_read(&secret).await || !(runs || viewer.accepts(&secret).await) {
                excused.insert(secret);
            }
            if excused.len() == MAX_RUNS {
                break;
            }
        }
        excused
    }
}

fn place_of(subscriber: &Subscriber) -> Place {
    (Arc::clone(&subscriber.caller), subscriber.name.clone())
}
