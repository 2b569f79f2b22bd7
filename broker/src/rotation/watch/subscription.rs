//! One open stream: from the snapshot, or from where it left off, to what happens now.
//!
//! Nothing is queued for it. It holds a place in the log and reads on from there whenever its peer takes more; a peer
//! that takes nothing falls behind what the log keeps, and starts over once it reads again.

use std::collections::HashSet;
use std::future::pending;
use std::hash::BuildHasher as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::FixedState;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

use super::cursor::{Cursor, Mark};
use super::message::{Bookmark, Message, Part, Told, Why};
use super::snapshot::{Records, Snapshot};
use super::streams::{Counts, Place};
use super::viewer::Viewer;
use crate::admission::Policies;
use crate::error::{Failure, Reason};
use crate::names::SecretName;
use crate::rotation::subscribers::Membership;
use crate::rotation::{Behind, Change, EventKind, Position};

/// How often a stream looks at what nobody tells it of: policies, its credential, a store that was out.
const TICK: Duration = Duration::from_secs(5);
/// A stream that was silent for as many ticks gives a sign of life: well within the 20 seconds that are promised.
const SILENT_TICKS: u32 = 3;
/// How long before its credential ends a caller is warned: time for one ordinary bookmark to be lost.
const WARNING: Duration = Duration::from_secs(60);
/// Over which reconnects are spread when the broker shuts down.
const SPREAD_MILLIS: u64 = 5000;
/// Changes looked at in one go.
const READ: usize = 16;
/// Events after which a batch is closed early. A change is never split.
const BATCH: usize = 500;

/// What a stream is opened with.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) viewer: Arc<Viewer>,
    /// By which it was opened.
    pub(super) policies: Arc<Policies>,
    pub(super) records: Records,
    pub(super) drain: CancellationToken,
    pub(super) membership: Option<Membership>,
    pub(super) window: Duration,
    pub(super) phase: Phase,
    pub(super) place: Place,
    pub(super) counts: Arc<Counts>,
}

#[derive(Debug)]
pub struct Subscription {
    opened: Opened,
    head: watch::Receiver<Option<Position>>,
    /// By which the caller sees what it sees.
    policies: Arc<Policies>,
    tick: Option<Pin<Box<Sleep>>>,
    silent_ticks: u32,
    /// An event has happened and what follows is gathered.
    window_end: Option<Pin<Box<Sleep>>>,
    warned: bool,
    told_of_drain: bool,
    /// It could not be found out whether the caller may see this one, so places after it are not told.
    undecided: Option<SecretName>,
    /// What its record has yet to say.
    unrecorded: Unrecorded,
    /// Where labels decide: hashes of the names of those that the caller knows of. Absent: not known.
    shown: Option<HashSet<u64, FixedState>>,
}

#[derive(Debug)]
pub(super) enum Phase {
    Resync(Why),
    Snapshot(Snapshot),
    Live(Position),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unrecorded {
    Nothing,
    /// What the caller may read may have changed.
    Rights,
    /// It may be on the record of another history only.
    Stream,
}

impl Subscription {
    pub(super) fn new(opened: Opened) -> Self {
        let begins = matches!(opened.phase, Phase::Snapshot(_)) && opened.viewer.needs_labels();
        Self {
            shown: begins.then(HashSet::default),
            head: opened.records.log.watcher(),
            policies: Arc::clone(&opened.policies),
            opened,
            tick: None,
            silent_ticks: 0,
            window_end: None,
            warned: false,
            told_of_drain: false,
            undecided: None,
            unrecorded: Unrecorded::Nothing,
        }
    }

    /// What the peer is to be told next, as soon as there is something. An error is the stream's end.
    pub async fn next(&mut self) -> Result<Message, Failure> {
        loop {
            if self.opened.membership.as_ref().is_some_and(|membership| membership.replaced().is_cancelled()) {
                return Err(replaced());
            }
            let message = match self.opened.phase {
                Phase::Resync(why) => {
                    if why == Why::EpochChanged {
                        self.unrecorded = Unrecorded::Stream;
                        self.record().await;
                    }
                    self.opened.phase = Phase::Snapshot(self.begin_snapshot());
                    Some(Message { cursor: None, told: Told::Resync(why) })
                }
                Phase::Snapshot(_) => self.snapshot().await?,
                Phase::Live(position) => match self.due(position) {
                    Some(message) => Some(message),
                    None => self.live(position).await?,
                },
            };
            if let Some(message) = message {
                self.silent_ticks = 0;
                self.opened.counts.sent(&message.told);
                return Ok(message);
            }
        }
    }

    /// What must be said whether or not anything happened.
    fn due(&mut self, position: Position) -> Option<Message> {
        if self.opened.drain.is_cancelled() && !self.told_of_drain {
            self.told_of_drain = true;
            return Some(self.bookmark(position));
        }
        if !self.warned && self.credential_ends_soon() {
            self.warned = true;
            return Some(self.bookmark(position));
        }
        (self.silent_ticks >= SILENT_TICKS).then(|| self.bookmark(position))
    }

    async fn live(&mut self, from: Position) -> Result<Option<Message>, Failure> {
        if self.opened.viewer.policies().hash() != self.policies.hash() && self.sees_otherwise().await? {
            return Ok(self.start_over(Why::PolicyChanged));
        }
        let gathering = self.window_end.as_ref().is_some_and(|end| !end.is_elapsed());
        if !gathering {
            let most = if self.opened.window.is_zero() { 1 } else { BATCH };
            let (parts, at) = match self.gather(from, most).await {
                Ok(gathered) => gathered,
                Err(why) => return Ok(self.start_over(why)),
            };
            if parts.is_empty() {
                self.window_end = None;
                self.stand(at);
            } else if self.opened.window.is_zero() || self.window_end.is_some() {
                // The rest of a batch that was closed early follows at once.
                if parts.iter().map(|part| part.events().len()).sum::<usize>() < most {
                    self.window_end = None;
                }
                self.stand(at);
                return Ok(Some(Message { cursor: self.cursor(at), told: Told::Changes(parts) }));
            } else {
                // Read again when the window has passed: what is gathered waits in the log alone.
                self.window_end = Some(Box::pin(sleep(self.opened.window)));
            }
        }
        self.wait().await
    }

    /// Whether other policies show the caller anything else. Denied what it names, its stream ends.
    async fn sees_otherwise(&mut self) -> Result<bool, Failure> {
        let Opened { viewer, records, .. } = &self.opened;
        let before = std::mem::replace(&mut self.policies, viewer.policies());
        viewer.check_names().await?;
        let otherwise = viewer.turns_with_labels(&before)
            || (viewer.filter().is_open() && records.are_seen_otherwise(viewer, &before).await?);
        self.unrecorded = self.unrecorded.max(Unrecorded::Rights);
        self.record().await;
        Ok(otherwise)
    }

    /// What fails is tried again with the next tick.
    async fn record(&mut self) {
        let Some(membership) = &self.opened.membership else { return };
        let recorded = match self.unrecorded {
            Unrecorded::Nothing => return,
            Unrecorded::Rights => membership.judge().await,
            Unrecorded::Stream => membership.record().await,
        };
        match recorded {
            Ok(()) => self.unrecorded = Unrecorded::Nothing,
            Err(failure) => tracing::debug!(%failure, "a subscriber's record is amended later"),
        }
    }

    /// Until there may be something to tell.
    async fn wait(&mut self) -> Result<Option<Message>, Failure> {
        let tick = self.tick.get_or_insert_with(|| Box::pin(sleep(TICK)));
        let gathering = self.window_end.is_some();
        let window = async {
            match &mut self.window_end {
                Some(end) => end.await,
                None => pending().await,
            }
        };
        let replaced = async {
            match &self.opened.membership {
                Some(membership) => membership.replaced().cancelled().await,
                None => pending().await,
            }
        };
        let ticked = tokio::select! {
            changed = self.head.changed(), if !gathering => match changed {
                Ok(()) => false,
                // The log has ended before its streams: whoever stops the broker ends them too.
                Err(_) => pending().await,
            },
            () = window => false,
            () = tick => true,
            () = replaced => false,
            () = self.opened.drain.cancelled(), if !self.told_of_drain => false,
        };
        if ticked {
            self.tick = None;
            self.silent_ticks += 1;
            self.record().await;
            if let Some(secret) = &self.undecided
                && self.opened.viewer.sees(secret).await.is_ok()
            {
                return Ok(self.start_over(Why::PolicyChanged));
            }
        }
        Ok(None)
    }

    /// What is for this subscriber after `from`, up to about `most` events, and how far that reaches.
    async fn gather(&mut self, mut from: Position, most: usize) -> Result<(Vec<Part>, Position), Why> {
        let (mut parts, mut events) = (Vec::new(), 0);
        loop {
            let head = self.head_seen();
            let changes = self.opened.records.log.after(from, READ).map_err(|behind| match behind {
                Behind::Compacted => Why::Lagged,
                Behind::EpochChanged => Why::EpochChanged,
            })?;
            if changes.is_empty() {
                // Whatever there was up to the head has been looked at.
                if let Some(head) = head.filter(|head| head.epoch == from.epoch && head.revision > from.revision) {
                    from = head;
                }
                return Ok((parts, from));
            }
            for change in changes {
                from.revision = change.revision;
                if let Some(part) = self.part(from, change).await? {
                    events += part.events().len();
                    parts.push(part);
                    if events >= most {
                        return Ok((parts, from));
                    }
                }
            }
        }
    }

    /// Revisions without a change move the head silently, so it is asked for each time.
    fn head_seen(&mut self) -> Option<Position> {
        *self.head.borrow_and_update()
    }

    /// Each event is authorised again.
    async fn part(&mut self, position: Position, change: Arc<Change>) -> Result<Option<Part>, Why> {
        let mut seen = Vec::new();
        for (place, event) in change.events.iter().enumerate() {
            if event.kind == EventKind::SecretUpdated && self.opened.viewer.reads_by_labels() {
                self.unrecorded = self.unrecorded.max(Unrecorded::Rights);
            }
            match self.opened.viewer.sees(&event.secret).await {
                Ok(true) => {
                    self.show(&event.secret);
                    seen.push(place);
                }
                Ok(false) if self.has_lost(&event.secret, event.kind) => return Err(Why::PolicyChanged),
                Ok(false) => {}
                // It must neither be told nor be lost: once the store answers again, a snapshot follows.
                Err(_) => self.undecided = Some(event.secret.clone()),
            }
        }
        if seen.is_empty() {
            return Ok(None);
        }
        let all = seen.len() == change.events.len();
        let only = (!all).then(|| seen.iter().filter_map(|&place| change.events.get(place).cloned()).collect());
        Ok(Some(Part { position, change, only }))
    }

    /// Where labels decide: whether the caller knows of a secret that it no longer sees, and cannot be told by an event.
    fn has_lost(&self, secret: &SecretName, kind: EventKind) -> bool {
        matches!(kind, EventKind::SecretDeleted | EventKind::SecretUpdated)
            && self.opened.viewer.needs_labels()
            && self.opened.viewer.filter().takes_in(secret)
            && self.shown.as_ref().is_none_or(|shown| shown.contains(&hash(secret)))
    }

    fn show(&mut self, secret: &SecretName) {
        if let Some(shown) = &mut self.shown {
            shown.insert(hash(secret));
        }
    }

    async fn snapshot(&mut self) -> Result<Option<Message>, Failure> {
        let Phase::Snapshot(snapshot) = &mut self.opened.phase else { return Ok(None) };
        let page = snapshot.next(&self.opened.viewer, &self.opened.records).await?;
        self.undecided = page.undecided.or(self.undecided.take());
        for entry in &page.entries {
            if let Some(shown) = &mut self.shown {
                shown.insert(hash(&entry.secret));
            }
        }
        let Some(at) = page.complete else {
            if page.entries.is_empty() {
                return Ok(None);
            }
            let told = Told::Snapshot { entries: page.entries, complete: false };
            return Ok(Some(Message { cursor: None, told }));
        };
        self.stand(at);
        let told = Told::Snapshot { entries: page.entries, complete: true };
        Ok(Some(Message { cursor: self.cursor(at), told }))
    }

    fn begin_snapshot(&mut self) -> Snapshot {
        self.undecided = None;
        self.window_end = None;
        self.policies = self.opened.viewer.policies();
        self.shown = self.opened.viewer.needs_labels().then(HashSet::default);
        Snapshot::begin()
    }

    fn start_over(&mut self, why: Why) -> Option<Message> {
        self.opened.phase = Phase::Resync(why);
        None
    }

    fn stand(&mut self, at: Position) {
        self.opened.phase = Phase::Live(at);
        if let Some(membership) = &self.opened.membership {
            membership.sent(at.revision);
        }
    }

    fn cursor(&self, at: Position) -> Option<Cursor> {
        let epoch = Mark::of(&at.epoch.to_string());
        self.undecided.is_none().then_some(Cursor {
            epoch,
            policies: self.policies.hash().into(),
            revision: at.revision,
        })
    }

    fn bookmark(&self, position: Position) -> Message {
        let viewer = &self.opened.viewer;
        let credential_ends = Some(viewer.ends()).filter(|_| self.credential_ends_soon());
        let delay =
            Duration::from_millis(self.opened.place.number().wrapping_mul(0x9E37_79B9_7F4A_7C15) % SPREAD_MILLIS);
        let reconnect_delay = Some(delay).filter(|_| self.opened.drain.is_cancelled());
        let now = viewer.now();
        let bookmark = Bookmark { position, now, credential_ends, reconnect_delay };
        Message { cursor: self.cursor(position), told: Told::Bookmark(bookmark) }
    }

    fn credential_ends_soon(&self) -> bool {
        self.opened.viewer.ends().since(self.opened.viewer.now()) <= WARNING
    }
}

fn hash(secret: &SecretName) -> u64 {
    FixedState::default().hash_one(secret.as_str())
}

fn replaced() -> Failure {
    let message = "a newer stream of the same caller and subscriber name has taken this one's place; give each \
                   subscriber a name of its own";
    Failure::new(Reason::Conflict, message)
}
