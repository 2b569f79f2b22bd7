//! Streams of changes, one for each subscriber, all read from one log.

mod cursor;
mod filter;
#[cfg(test)]
mod fuzz;
mod message;
mod snapshot;
mod streams;
mod subscription;
mod viewer;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use self::cursor::{Cursor, Mark};
pub use self::filter::{Filter, FilterError};
pub use self::message::{Bookmark, Entry, Message, Part, Told, Why};
use self::snapshot::{Records, Snapshot, state_out};
use self::streams::Streams;
pub use self::streams::{Counts, Place};
pub use self::subscription::Subscription;
use self::subscription::{Opened, Phase};
pub use self::viewer::{Sight, Viewer};
use super::subscribers::{SubscriberName, Subscribers, Way};
use super::{Behind, Log, Position};
use crate::error::{Failure, Reason};

/// All streams. Clones share them.
#[derive(Clone, Debug)]
pub struct Watches(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    records: Records,
    sight: Sight,
    subscribers: Subscribers,
    drain: CancellationToken,
    streams: Arc<Streams>,
    counts: Arc<Counts>,
}

/// What somebody wants to be told.
#[derive(Debug)]
pub struct Wish {
    pub viewer: Viewer,
    /// Absent: an observer, whom nobody waits for.
    pub subscriber: Option<SubscriberName>,
    /// Empty: from a snapshot on.
    pub cursor: String,
    /// How long to gather what follows an event. Zero: not at all.
    pub window: Duration,
}

impl Watches {
    pub fn new(log: Log, sight: Sight, subscribers: Subscribers, drain: CancellationToken, most: usize) -> Self {
        let (streams, counts, records) = (Streams::new(most), Arc::default(), Records::new(log));
        Self(Arc::new(Inner { records, sight, subscribers, drain, streams, counts }))
    }

    pub fn sight(&self) -> &Sight {
        &self.0.sight
    }

    pub fn log(&self) -> &Log {
        &self.0.records.log
    }

    pub fn subscribers(&self) -> &Subscribers {
        &self.0.subscribers
    }

    /// How many streams are open, and what they were told since the start.
    pub fn counts(&self) -> (usize, &Counts) {
        (self.0.streams.open(), &self.0.counts)
    }

    /// A place for a stream of another kind, which counts against the same limit.
    pub fn enter(&self, caller: Arc<str>) -> Result<Place, Failure> {
        self.0.streams.enter(caller)
    }

    pub async fn open(&self, wish: Wish) -> Result<Subscription, Failure> {
        let Wish { viewer, subscriber, cursor, window } = wish;
        let viewer = Arc::new(viewer);
        viewer.check_names().await?;
        // Once: a change while the stream is put on record is one that it has to tell.
        let policies = viewer.policies();
        let phase = self.begin(&cursor, policies.hash().into()).await?;
        let place = self.0.streams.enter(viewer.caller())?;
        let membership = match subscriber {
            Some(name) => Some(self.0.subscribers.join(Arc::clone(&viewer), name, Way::Watch).await?),
            None => None,
        };
        Ok(Subscription::new(Opened {
            viewer,
            policies,
            records: self.0.records.clone(),
            drain: self.0.drain.clone(),
            membership,
            window,
            phase,
            place,
            counts: Arc::clone(&self.0.counts),
        }))
    }

    async fn begin(&self, cursor: &str, policies: Mark) -> Result<Phase, Failure> {
        if cursor.is_empty() {
            return Ok(Phase::Snapshot(Snapshot::begin()));
        }
        let cursor = Cursor::decode(cursor).ok_or_else(|| {
            bad_cursor("is not one that a broker gave; watch without it, which begins with a snapshot")
        })?;
        let head = self.0.records.log.head().ok_or_else(state_out)?;
        if cursor.epoch != Mark::of(&head.epoch.to_string()) {
            return Ok(Phase::Resync(Why::EpochChanged));
        }
        // This replica may be behind the one that gave it.
        if cursor.revision > head.revision && cursor.revision > self.0.subscribers.revision().await? {
            let description = "lies in the future; it is another deployment's, so watch without it";
            return Err(bad_cursor(description));
        }
        if cursor.policies != policies {
            return Ok(Phase::Resync(Why::PolicyChanged));
        }
        let position = Position { epoch: head.epoch, revision: cursor.revision };
        Ok(match self.0.records.log.after(position, 1) {
            Ok(_) => Phase::Live(position),
            Err(Behind::Compacted) => Phase::Resync(Why::Compacted),
            Err(Behind::EpochChanged) => Phase::Resync(Why::EpochChanged),
        })
    }
}

fn bad_cursor(description: &str) -> Failure {
    Failure::bad_field(Reason::InvalidCursor, "cursor", description)
}
