//! The streams of this replica: each on record from when it opens until it ends.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future;
use futures_util::stream::{self, StreamExt as _};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::record::{Session, Stream, Subscriber, SubscriberName, Way};
use super::{Inner, Place, Subscribers, place_of};
use crate::error::{Failure, Reason};
use crate::names::SecretName;
use crate::rotation::watch::Viewer;
use crate::state::Revision;

/// Each waits for a sync of its own, which many can share.
const ENDS_AT_ONCE: usize = 64;
const PAUSE: Duration = Duration::from_millis(250);

/// A subscriber's open stream. Dropped, it is off the record soon.
#[derive(Debug)]
pub struct Membership {
    subscribers: Subscribers,
    place: Place,
    way: Way,
    stream: Stream,
    viewer: Arc<Viewer>,
    sent: Arc<AtomicU64>,
    end: CancellationToken,
}

#[derive(Debug)]
pub(super) struct Live {
    pub(super) session: Session,
    /// When it went on record: what was written before does not replace it.
    pub(super) written: Option<Revision>,
    pub(super) viewer: Arc<Viewer>,
    pub(super) sent: Arc<AtomicU64>,
    pub(super) end: CancellationToken,
}

#[derive(Debug)]
pub(super) struct Left {
    place: Place,
    session: Session,
    sent: u64,
}

impl Subscribers {
    /// Puts an open stream on record, and ends an older one of the same subscriber.
    pub async fn join(&self, viewer: Arc<Viewer>, name: SubscriberName, way: Way) -> Result<Membership, Failure> {
        let place = (viewer.caller(), name);
        let stream = Stream { node: self.0.node.clone(), session: Session::new()?, since: self.0.clock.now() };
        let (sent, end) = (Arc::default(), CancellationToken::new());
        let membership = Membership { subscribers: self.clone(), place, way, stream, viewer, sent, end };
        let live = Live {
            session: membership.stream.session,
            written: None,
            viewer: Arc::clone(&membership.viewer),
            sent: Arc::clone(&membership.sent),
            end: membership.end.clone(),
        };
        if let Some(older) = self.0.live().insert(membership.place.clone(), live) {
            older.end.cancel();
        }
        membership.record().await?;
        Ok(membership)
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

    /// Puts it on record, whatever is there: at its start, and where another history has taken the place of the one
    /// that knew it.
    pub async fn record(&self) -> Result<(), Failure> {
        let Self { subscribers, place, way, stream, viewer, .. } = self;
        let excused = subscribers.0.excused_from(place, viewer).await;
        let written = subscribers.0.amend(place, |known| {
            let (now, filter) = (stream.since, viewer.filter().clone());
            let known = known.unwrap_or_else(|| {
                Subscriber::new(Arc::clone(&place.0), place.1.clone(), viewer.filter().clone(), now)
            });
            let (way, stream, excused) = (*way, Some(stream.clone()), excused.clone());
            Ok(Some(Subscriber { way, filter, stream, last_seen: now, excused, ..known }))
        });
        if let Some((_, revision)) = written.await?
            && let Some(live) = subscribers.0.live().get_mut(place)
            && live.session == stream.session
        {
            live.written = Some(revision);
        }
        Ok(())
    }

    /// Once the caller's rights may be others: what it may read of the secrets that are rotated.
    pub async fn judge(&self) -> Result<(), Failure> {
        let Self { subscribers, place, stream, viewer, .. } = self;
        let excused = subscribers.0.excused_from(place, viewer).await;
        let written = subscribers.0.amend(place, |known| {
            let changed = |known: &Subscriber| known.is_streamed_as(stream.session) && known.excused != excused;
            Ok(known.filter(changed).map(|known| Subscriber { excused: excused.clone(), ..known }))
        });
        written.await.map(drop)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let (inner, session) = (&self.subscribers.0, self.stream.session);
        let mut live = inner.live();
        if live.get(&self.place).is_some_and(|live| live.session == session) {
            live.remove(&self.place);
        }
        drop(live);
        let sent = self.sent.load(Ordering::Relaxed);
        inner.leave(Left { place: self.place.clone(), session, sent });
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
    /// Of the secrets that are rotated and concern it.
    async fn excused_from(&self, place: &Place, viewer: &Viewer) -> BTreeSet<SecretName> {
        let known = self.book().get(place).map(|held| Arc::clone(&held.subscriber));
        let runs = |secret: &SecretName| known.as_ref().is_some_and(|known| known.runs.contains_key(secret));
        let concerned = self.rotated.iter().filter(|secret| viewer.filter().takes_in(secret) || runs(secret));
        self.excused(viewer, concerned.map(|secret| (secret.clone(), runs(secret)))).await
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Left>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, left: Left) {
        self.leaving().push(left);
        self.left.notify_one();
    }

    /// What this node put on record before it was restarted has no stream any more.
    pub(super) fn end_if_ours_of_before(&self, subscriber: &Subscriber) {
        let Some(stream) = subscriber.stream.as_ref().filter(|stream| stream.node == self.node) else { return };
        let place = place_of(subscriber);
        if self.live().get(&place).is_none_or(|live| live.session != stream.session) {
            self.leave(Left { place, session: stream.session, sent: subscriber.revision });
        }
    }

    /// The subscriber has a newer stream, at another replica.
    pub(super) fn end_if_replaced(&self, subscriber: &Subscriber, revision: Revision) {
        let elsewhere = subscriber.stream.as_ref().is_some_and(|stream| stream.node != self.node);
        let live = self.live();
        let replaced = |live: &&Live| elsewhere && live.written.is_some_and(|written| written < revision);
        if let Some(ours) = live.get(&place_of(subscriber)).filter(replaced) {
            ours.end.cancel();
        }
    }

    /// Takes streams off the record that ended, until it is stopped and none is left.
    pub(super) async fn take_off(self: Arc<Self>) {
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
}
