//! Who is there, and who still runs an old version.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::membership::Live;
use super::record::{Stream, Subscriber};
use super::{Inner, Subscribers, place_of};
use crate::clock::Timestamp;
use crate::names::SecretName;
use crate::rotation::holders::{Holders, Release, Tally};
use crate::state::Revision;

/// For how long somebody whose stream ended counts as live: about what a reconnect takes.
const GRACE: Duration = Duration::from_secs(60);

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

impl Holders for Subscribers {
    fn tally(&self, releases: &[Release]) -> Tally {
        if !self.0.is_read.load(Ordering::Acquire) {
            // Somebody may hold it still.
            return Tally { acknowledged: 0, pending: 1 };
        }
        let subscribers: Vec<_> = self.0.book().after(None).map(|held| Arc::clone(&held.subscriber)).collect();
        let now = self.0.clock.now();
        let mut tally = Tally::default();
        for subscriber in subscribers {
            let concerned = releases.iter().filter(|release| self.0.holds(&subscriber, &release.secret, now));
            let has_let_go = concerned.map(|release| {
                let runs = subscriber.runs.get(&release.secret).and_then(|runs| runs.version.as_deref());
                runs.is_some_and(|runs| release.versions.iter().any(|version| version == runs))
            });
            match has_let_go.reduce(|all, one| all && one) {
                Some(true) => tally.acknowledged += 1,
                Some(false) => tally.pending += 1,
                None => {}
            }
        }
        tally
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
}

impl Subscribers {
    /// Of those with a stream at this replica: how many, and how many have not come as far as `revision`.
    pub fn streamed(&self, revision: Revision) -> (usize, usize) {
        let live = self.0.live();
        let is_behind = |live: &&Live| live.sent.load(Ordering::Relaxed) < revision.get();
        (live.len(), live.values().filter(is_behind).count())
    }
}

impl Inner {
    /// Whether retirement waits for it: it may read the secret, watches or runs it as far as can be told from here, and
    /// is live.
    fn holds(&self, subscriber: &Arc<Subscriber>, secret: &SecretName, now: Timestamp) -> bool {
        let concerned = subscriber.filter.takes_in(secret) || subscriber.runs.contains_key(secret);
        if !concerned || subscriber.excused.contains(secret) {
            return false;
        }
        let viewer = self.live().get(&place_of(subscriber)).map(|live| Arc::clone(&live.viewer));
        if let Some(viewer) = viewer {
            return viewer.may_hold(secret);
        }
        let seen = self.seen(Arc::clone(subscriber));
        seen.stream.is_some() || now.since(seen.last_seen) < GRACE
    }

    pub(super) fn seen(&self, subscriber: Arc<Subscriber>) -> Seen {
        let sent = self.live().get(&place_of(&subscriber)).map(|live| live.sent.load(Ordering::Relaxed));
        let now = self.clock.now();
        let (stream, last_seen) = match (&subscriber.stream, sent) {
            (Some(stream), Some(_)) => (Some(stream.clone()), now),
            // Its end is about to be recorded: of now, or of when this replica ended the last time.
            (Some(stream), None) if stream.node == self.node => (None, subscriber.last_seen.max(self.started)),
            (Some(stream), None) => match self.missed(&stream.node, now) {
                None => (Some(stream.clone()), now),
                Some(since) => (None, since),
            },
            (None, _) if self.gateways.contains(&place_of(&subscriber)) => (None, now),
            (None, _) => (None, subscriber.last_seen),
        };
        Seen { sent: sent.unwrap_or(subscriber.revision), stream, last_seen, subscriber }
    }

    /// Since when it has no stream; none where it has.
    pub(super) fn gone_since(&self, subscriber: &Arc<Subscriber>) -> Option<Timestamp> {
        let seen = self.seen(Arc::clone(subscriber));
        seen.stream.is_none().then_some(seen.last_seen)
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
}
