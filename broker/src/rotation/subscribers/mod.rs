//! Who watches, and what each of them runs: on record, so that every replica can tell, and a restart forgets nobody.

mod book;
mod record;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future;
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::book::Place;
use self::book::{Book, digest};
pub use self::record::{
    Refused, Runs, SUBSCRIBERS, Session, Stream, Subscriber, SubscriberName, SubscriberNameError, Way,
};
use super::holders::{Holders, Tally};
use super::watch::Viewer;
use crate::clock::{SharedClock, Timestamp};
use crate::error::{Failure, Reason};
use crate::names::SecretName;
use crate::state::{
    Change, Condition, Key, KeyError, ListPage, Outcome, Prefix, Revision, State, StateError, Txn, WatchEnd, Watched,
};

/// For how long somebody whose stream ended counts as live: about what a reconnect takes.
const GRACE: Duration = Duration::from_secs(60);
/// For how long somebody who is gone is remembered.
const RETENTION: Duration = Duration::from_secs(24 * 3600);
const FORGET_INTERVAL: Duration = Duration::from_secs(600);
/// Names of one caller. One more, and the one gone for longest is forgotten.
const MAX_NAMES: usize = 20_000;
/// Secrets that one subscriber can say something of.
const MAX_RUNS: usize = 1000;
/// A caller and its subscriber meet each other at worst.
const ATTEMPTS: usize = 8;
/// Each waits for a sync of its own, which many can share.
const ENDS_AT_ONCE: usize = 64;
const PAUSE: Duration = Duration::from_millis(250);

/// All subscribers. Clones share them.
#[derive(Clone, Debug)]
pub struct Subscribers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: State,
    prefix: Prefix,
    node: String,
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

#[derive(Debug)]
struct Live {
    session: Session,
    /// When it went on record: what was written before does not replace it.
    written: Option<Revision>,
    viewer: Arc<Viewer>,
    sent: Arc<AtomicU64>,
    end: CancellationToken,
}

#[derive(Debug)]
struct Left {
    place: Place,
    session: Session,
    sent: u64,
}

/// A subscriber's open stream. Dropped, it is off the record soon.
#[derive(Debug)]
pub struct Membership {
    subscribers: Subscribers,
    place: Place,
    session: Session,
    sent: Arc<AtomicU64>,
    end: CancellationToken,
}

/// A subscriber as it is now.
#[derive(Clone, Debug)]
pub struct Seen {
    pub subscriber: Arc<Subscriber>,
    /// Its stream, if it is open.
    pub stream: Option<Stream>,
    /// The last revision that it was sent, as far as this replica knows.
    pub sent: u64,
    pub last_seen: Timestamp,
}

impl Subscribers {
    /// Follows what is on record, from when the state can be reached.
    pub fn start(state: State, node: String, clock: SharedClock, stop: CancellationToken) -> Result<Self, KeyError> {
        let subscribers = Self(Arc::new(Inner {
            state,
            prefix: Prefix::new(&SUBSCRIBERS, &[])?,
            node,
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
        }));
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

    /// Puts an open stream on record, and ends an older one of the same subscriber.
    pub async fn join(&self, viewer: Arc<Viewer>, name: SubscriberName) -> Result<Membership, Failure> {
        let place = (viewer.caller(), name);
        let membership = Membership {
            subscribers: self.clone(),
            place: place.clone(),
            session: Session::new()?,
            sent: Arc::default(),
            end: CancellationToken::new(),
        };
        let live = Live {
            session: membership.session,
            written: None,
            viewer: Arc::clone(&viewer),
            sent: Arc::clone(&membership.sent),
            end: membership.end.clone(),
        };
        if let Some(older) = self.0.live().insert(place.clone(), live) {
            older.end.cancel();
        }
        let stream = Stream { node: self.0.node.clone(), session: membership.session, since: self.0.clock.now() };
        let written = self.0.amend(&place, |known| {
            let now = stream.since;
            let known = known.unwrap_or_else(|| {
                Subscriber::new(Arc::clone(&place.0), place.1.clone(), viewer.filter().clone(), now)
            });
            let filter = viewer.filter().clone();
            Ok(Some(Subscriber { filter, stream: Some(stream.clone()), last_seen: now, ..known }))
        });
        if let Some((_, revision)) = written.await?
            && let Some(live) = self.0.live().get_mut(&place)
            && live.session == membership.session
        {
            live.written = Some(revision);
        }
        Ok(membership)
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
            }
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

impl Holders for Subscribers {
    fn tally(&self, secret: &SecretName, versions: &[&str]) -> Tally {
        if !self.0.is_read.load(Ordering::Acquire) {
            // Somebody may hold it still.
            return Tally { acknowledged: 0, pending: 1 };
        }
        let subscribers: Vec<_> = self.0.book().after(None).map(|held| Arc::clone(&held.subscriber)).collect();
        let now = self.0.clock.now();
        let mut tally = Tally::default();
        for subscriber in subscribers.into_iter().filter(|subscriber| self.0.holds(subscriber, secret, now)) {
            let runs = subscriber.runs.get(secret).and_then(|runs| runs.version.as_deref());
            if runs.is_some_and(|version| versions.contains(&version)) {
                tally.acknowledged += 1;
            } else {
                tally.pending += 1;
            }
        }
        tally
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
}

impl Membership {
    /// Resolves when a newer stream has taken its place.
    pub fn replaced(&self) -> &CancellationToken {
        &self.end
    }

    /// It was sent everything up to this revision.
    pub fn sent(&self, revision: Revision) {
        self.sent.store(revision.get(), Ordering::Relaxed);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let inner = &self.subscribers.0;
        let mut live = inner.live();
        if live.get(&self.place).is_some_and(|live| live.session == self.session) {
            live.remove(&self.place);
        }
        drop(live);
        let sent = self.sent.load(Ordering::Relaxed);
        inner.leave(Left { place: self.place.clone(), session: self.session, sent });
    }
}

impl Session {
    fn new() -> Result<Self, Failure> {
        let mut bytes = [0; 8];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|error| {
            Failure::new(Reason::Internal, "the system's random numbers cannot be read").caused_by(error)
        })?;
        Ok(Self(u64::from_be_bytes(bytes)))
    }
}

impl Inner {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<Place, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Left>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, left: Left) {
        self.leaving().push(left);
        self.left.notify_one();
    }

    /// Whether retirement waits for it: it is live, and watches the secret as far as can be told from here.
    fn holds(&self, subscriber: &Arc<Subscriber>, secret: &SecretName, now: Timestamp) -> bool {
        let place = (Arc::clone(&subscriber.caller), subscriber.name.clone());
        if let Some(live) = self.live().get(&place) {
            return live.viewer.may_see(secret);
        }
        let seen = self.seen(Arc::clone(subscriber));
        let live = seen.stream.is_some() || now.since(seen.last_seen) < GRACE;
        live && (subscriber.filter.takes_in(secret) || subscriber.runs.contains_key(secret))
    }

    fn seen(&self, subscriber: Arc<Subscriber>) -> Seen {
        let place = (Arc::clone(&subscriber.caller), subscriber.name.clone());
        let sent = self.live().get(&place).map(|live| live.sent.load(Ordering::Relaxed));
        let now = self.clock.now();
        let (stream, last_seen) = match (&subscriber.stream, sent) {
            (Some(stream), Some(_)) => (Some(stream.clone()), now),
            // Its end is about to be recorded: of now, or of when this replica ended the last time.
            (Some(stream), None) if stream.node == self.node => (None, subscriber.last_seen.max(self.started)),
            (Some(stream), None) => match self.missed(&stream.node, now) {
                None => (Some(stream.clone()), now),
                Some(since) => (None, since),
            },
            (None, _) => (None, subscriber.last_seen),
        };
        Seen { sent: sent.unwrap_or(subscriber.revision), stream, last_seen, subscriber }
    }

    /// Since when another replica is not there, as far as anybody asked.
    fn missed(&self, node: &str, now: Timestamp) -> Option<Timestamp> {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if self.state.status().nodes.iter().any(|alive| alive == node) {
            missed.remove(node);
            return None;
        }
        Some(*missed.entry(node.to_owned()).or_insert(now))
    }

    /// Writes what `edit` makes of the record, which nobody else has written meanwhile.
    async fn amend(
        &self,
        place: &Place,
        mut edit: impl FnMut(Option<Subscriber>) -> Result<Option<Subscriber>, Failure>,
    ) -> Result<Option<(Subscriber, Revision)>, Failure> {
        let key = key(place)?;
        let held = self.book().get(place).cloned();
        let mut known = held.map(|held| (Subscriber::clone(&held.subscriber), held.revision));
        for _ in 0..ATTEMPTS {
            let (before, revision) = known.unzip();
            let fresh = before.is_none();
            let Some(after) = edit(before)? else { return Ok(None) };
            let unchanged = match revision {
                None => Condition::Absent(key.clone()),
                Some(revision) => Condition::Unchanged(key.clone(), revision),
            };
            let mut txn = Txn::new().when(unchanged).put(&key, &after);
            let surplus = if fresh { self.book().surplus(&place.0, MAX_NAMES) } else { None };
            if let Some(surplus) = &surplus {
                txn = txn.delete(&key_of(&surplus.subscriber)?);
            }
            match self.state.commit(txn).await? {
                Outcome::Committed(revision) => {
                    let mut book = self.book();
                    book.put(after.clone(), revision);
                    if let Some(surplus) = surplus {
                        book.remove(&place_of(&surplus.subscriber), revision);
                    }
                    drop(book);
                    self.changes.send_modify(|count| *count += 1);
                    return Ok(Some((after, revision)));
                }
                Outcome::Conflict(_) => {}
                // Written anew it says the same, so another try does no harm.
                Outcome::Unknown => sleep(PAUSE).await,
            }
            known = self.state.get::<Subscriber>(&key).await?.map(|stored| (stored.record, stored.revision));
        }
        let message = "the subscriber's record is being written by somebody else all the time; try again";
        Err(Failure::new(Reason::Conflict, message))
    }

    /// Takes streams off the record that ended, until it is stopped and none is left.
    async fn take_off(self: Arc<Self>) {
        loop {
            let left = std::mem::take(&mut *self.leaving());
            if left.is_empty() {
                if self.stop.is_cancelled() {
                    return;
                }
                tokio::select! {
                    () = self.left.notified() => {}
                    () = self.stop.cancelled() => {}
                }
                continue;
            }
            let failed: Vec<_> = stream::iter(left)
                .map(|left| async { self.record_end(&left).await.err().map(|failure| (left, failure)) })
                .buffer_unordered(ENDS_AT_ONCE)
                .filter_map(future::ready)
                .collect()
                .await;
            let Some((_, failure)) = failed.first() else { continue };
            tracing::warn!(%failure, streams = failed.len(), "ends of streams could not be recorded yet");
            if self.stop.is_cancelled() {
                // The next start finds them on record, and no stream.
                return;
            }
            self.leaving().extend(failed.into_iter().map(|(left, _)| left));
            sleep(PAUSE).await;
        }
    }

    async fn record_end(&self, left: &Left) -> Result<(), Failure> {
        let now = self.clock.now();
        let written = self.amend(&left.place, |known| {
            let streamed = known.filter(|subscriber| subscriber.is_streamed_as(left.session));
            Ok(streamed.map(|subscriber| Subscriber {
                stream: None,
                last_seen: now,
                revision: subscriber.revision.max(left.sent),
                ..subscriber
            }))
        });
        written.await.map(drop)
    }

    /// Keeps up with what is on record, and begins with all of it.
    async fn follow(self: Arc<Self>) {
        let mut revision = None;
        loop {
            let end = match revision {
                None => self.read_all().await.map(|read| revision = Some(read)).err().map(WatchEnd::Unavailable),
                Some(at) => {
                    let (at, end) = self.follow_from(at).await;
                    revision = Some(at).filter(|_| !matches!(end, WatchEnd::Compacted { .. }));
                    Some(end)
                }
            };
            if let Some(end) = end {
                tracing::debug!(error = %end, "subscribers' changes are not heard of for a moment");
                sleep(PAUSE).await;
            }
        }
    }

    async fn read_all(&self) -> Result<Revision, StateError> {
        let (mut after, mut first) = (None, None);
        loop {
            let page =
                self.state.list::<Subscriber>(&self.prefix, ListPage { after, size: ListPage::MAX_SIZE }).await?;
            for stored in page.records {
                self.end_if_ours_of_before(&stored.record);
                self.book().put(stored.record, stored.revision);
            }
            first = first.or(Some(page.revision));
            after = page.next;
            if after.is_none() {
                self.is_read.store(true, Ordering::Release);
                self.changes.send_modify(|count| *count += 1);
                return Ok(first.unwrap_or_default());
            }
        }
    }

    /// What this node put on record before it was restarted has no stream any more.
    fn end_if_ours_of_before(&self, subscriber: &Subscriber) {
        let Some(stream) = subscriber.stream.as_ref().filter(|stream| stream.node == self.node) else { return };
        let place = place_of(subscriber);
        if self.live().get(&place).is_none_or(|live| live.session != stream.session) {
            self.leave(Left { place, session: stream.session, sent: subscriber.revision });
        }
    }

    async fn follow_from(&self, mut revision: Revision) -> (Revision, WatchEnd) {
        let mut watch = self.state.watch(self.prefix.clone(), revision.next());
        loop {
            match watch.next().await {
                Ok(Watched::Progress(seen)) => revision = seen,
                Ok(Watched::Batch(batch)) => {
                    revision = batch.revision;
                    batch.changes.iter().for_each(|change| self.changed_elsewhere(change, batch.revision));
                    self.changes.send_modify(|count| *count += 1);
                }
                Err(end) => return (revision, end),
            }
        }
    }

    fn changed_elsewhere(&self, change: &Change, revision: Revision) {
        match self.state.changed::<Subscriber>(change) {
            Some(subscriber) => {
                self.end_if_replaced(&subscriber, revision);
                self.book().put(subscriber, revision);
            }
            None if change.value.is_none() => {
                let mut segments = change.key.segments();
                let mut book = self.book();
                let place = segments.next().zip(segments.next()).and_then(|(caller, name)| book.place(&caller, &name));
                if let Some(place) = place {
                    book.remove(&place, revision);
                }
            }
            None => {}
        }
    }

    /// The subscriber has a newer stream, at another replica.
    fn end_if_replaced(&self, subscriber: &Subscriber, revision: Revision) {
        let elsewhere = subscriber.stream.as_ref().is_some_and(|stream| stream.node != self.node);
        let live = self.live();
        let replaced = |live: &&Live| elsewhere && live.written.is_some_and(|written| written < revision);
        if let Some(ours) = live.get(&place_of(subscriber)).filter(replaced) {
            ours.end.cancel();
        }
    }

    async fn forget(self: Arc<Self>) {
        loop {
            sleep(FORGET_INTERVAL).await;
            let gone = self.book().gone_for(RETENTION, self.clock.now());
            for held in gone {
                let Ok(key) = key_of(&held.subscriber) else { continue };
                let txn = Txn::new().when(Condition::Unchanged(key.clone(), held.revision)).delete(&key);
                if let Ok(Outcome::Committed(revision)) = self.state.commit(txn).await {
                    self.book().remove(&place_of(&held.subscriber), revision);
                }
            }
        }
    }
}

fn place_of(subscriber: &Subscriber) -> Place {
    (Arc::clone(&subscriber.caller), subscriber.name.clone())
}

fn key_of(subscriber: &Subscriber) -> Result<Key, Failure> {
    key(&place_of(subscriber))
}

fn key((caller, name): &Place) -> Result<Key, Failure> {
    Key::new(&SUBSCRIBERS, &[&digest(caller), name.as_str()]).map_err(|error| {
        Failure::new(Reason::Internal, "a subscriber has no key in the state; report this").caused_by(error)
    })
}
