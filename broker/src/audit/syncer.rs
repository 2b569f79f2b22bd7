//! The thread that brings written records to the disk, so that writing never waits for it.
//!
//! While one round syncs, the writer goes on and collects the next one: that is what makes `synced` fast.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::directory::sync_names;
use super::head::Head;
use super::log::{Status, Unavailable};
use super::queue::Answer;
use super::segment::{Loss, LossKind, Segment};

/// What the writer hands to the syncer, and the losses that come back.
#[derive(Debug, Default)]
pub(super) struct Handoff {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Files with records that are not known to be on the disk, oldest first. They stay until a sync succeeds or the
    /// loss is told, so that a file sealed a moment ago is watched like the current one.
    unsynced: Vec<Arc<Segment>>,
    current: Option<Arc<Segment>>,
    written: u64,
    head: Option<Head>,
    waiters: Vec<Waiter>,
    /// Losses that the writer has not taken up yet.
    lost: Vec<Arc<Segment>>,
    closed: bool,
    ended: bool,
}

type Waiter = (u64, oneshot::Sender<Answer>);

/// One round's part of the [`State`].
#[derive(Debug)]
struct Work {
    segments: Vec<Arc<Segment>>,
    written: u64,
    head: Option<Head>,
    waiters: Vec<Waiter>,
    closed: bool,
}

impl Handoff {
    /// Records up to `written` are in `segment`, but not yet on the disk. Fills in the waiters through `add_waiters`.
    pub(super) fn written(
        &self,
        segment: &Arc<Segment>,
        written: u64,
        head: Option<Head>,
        add_waiters: impl FnOnce(&mut Vec<Waiter>),
    ) {
        let mut state = self.lock();
        segment.set_last(written);
        if !state.unsynced.last().is_some_and(|last| Arc::ptr_eq(last, segment)) {
            state.unsynced.push(Arc::clone(segment));
        }
        state.current = Some(Arc::clone(segment));
        state.written = written;
        state.head = head.or(state.head.take());
        if state.ended {
            // Dropped, they tell their calls that nothing will come.
            add_waiters(&mut Vec::new());
            return;
        }
        let idle = state.waiters.is_empty();
        add_waiters(&mut state.waiters);
        let ring = idle && !state.waiters.is_empty();
        drop(state);
        if ring {
            self.bell.notify_one();
        }
    }

    /// Losses since the last time this was asked, oldest first.
    pub(super) fn take_losses(&self) -> Vec<Loss> {
        std::mem::take(&mut self.lock().lost).iter().filter_map(|segment| segment.take_loss()).collect()
    }

    /// Looks after every file whose records are not on the disk, without waiting for the next round.
    pub(super) fn look(&self) {
        let mut state = self.lock();
        let State { unsynced, lost, .. } = &mut *state;
        unsynced.retain(|segment| {
            segment.check_place();
            let good = segment.loss().is_none();
            if !good {
                lost.push(Arc::clone(segment));
            }
            good
        });
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.bell.notify_one();
    }

    /// Waits until somebody waits for the disk, or for the next round.
    fn take(&self, interval: Duration) -> Work {
        let waits = |state: &mut State| state.waiters.is_empty() && !state.closed;
        let (mut state, _) =
            self.bell.wait_timeout_while(self.lock(), interval, waits).unwrap_or_else(PoisonError::into_inner);
        let mut segments = state.unsynced.clone();
        // An idle file can be taken away too.
        if let Some(current) = &state.current
            && !segments.iter().any(|segment| Arc::ptr_eq(segment, current))
        {
            segments.push(Arc::clone(current));
        }
        Work {
            segments,
            // What is known of the disk ends before a loss until the writer has told it.
            written: if state.lost.is_empty() { state.written } else { 0 },
            head: state.head.take(),
            waiters: std::mem::take(&mut state.waiters),
            closed: state.closed,
        }
    }

    /// Files that lost nothing need no further round, unless they have grown meanwhile; the others are the writer's to tell.
    fn settle(&self, segments: &[(Arc<Segment>, u64)]) {
        let mut state = self.lock();
        for (segment, synced) in segments {
            let lost = segment.loss().is_some();
            if lost || segment.last() == *synced {
                state.unsynced.retain(|unsynced| !Arc::ptr_eq(unsynced, segment));
            }
            if lost && state.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, segment)) {
                state.current = None;
            }
            if lost {
                state.lost.push(Arc::clone(segment));
            }
        }
    }

    fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.waiters = Vec::new();
    }

    fn put_back(&self, head: Head) {
        self.lock().head.get_or_insert(head);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) struct Syncer {
    pub(super) directory: PathBuf,
    pub(super) interval: Duration,
    pub(super) handoff: Arc<Handoff>,
    pub(super) status: Arc<Status>,
}

impl Syncer {
    pub(super) fn run(self) {
        loop {
            let closed = self.turn();
            if closed {
                self.tell_late_losses();
                return;
            }
        }
    }

    /// One round. True when it was the last.
    pub(super) fn turn(&self) -> bool {
        let work = self.handoff.take(self.interval);
        let closed = work.closed;
        self.round(work);
        closed
    }

    fn round(&self, work: Work) {
        let reached: Vec<_> = work.segments.iter().map(|segment| (Arc::clone(segment), segment.last())).collect();
        for segment in &work.segments {
            // A loss stays in the segment; the others are brought to the disk all the same.
            let _ = segment.sync();
        }
        self.bring_names_to_disk(&work.segments);
        let doubt = work.segments.iter().filter(|segment| segment.loss().is_some());
        let durable = doubt.map(|segment| segment.first_in_doubt().saturating_sub(1)).fold(work.written, u64::min);
        self.status.change(|status| status.synced_sequence = status.synced_sequence.max(durable));
        for (sequence, waiter) in work.waiters {
            let answer = match loss_at(&work.segments, sequence) {
                None => Ok(sequence),
                Some(kind) => Err(Unavailable::new(kind.to_string())),
            };
            let _ = waiter.send(answer);
        }
        self.handoff.settle(&reached);
        // Only now: a head must never be ahead of the log on the disk. One in a lost file would be; another comes.
        if let Some(head) = work.head
            && loss_at(&work.segments, head.seq).is_none()
        {
            self.store(head);
        }
    }

    fn store(&self, head: Head) {
        match head.store(&self.directory) {
            Ok(()) => self.status.change(|status| {
                status.checkpoint_sequence = Some(head.seq);
                status.head_failing = None;
            }),
            Err(error) => {
                self.status.change(|status| status.head_failing = Some(error.to_string()));
                self.handoff.put_back(head);
            }
        }
    }

    fn bring_names_to_disk(&self, segments: &[Arc<Segment>]) {
        let unnamed: Vec<_> = segments.iter().filter(|segment| !segment.is_named()).collect();
        if unnamed.is_empty() {
            return;
        }
        let synced = sync_names(&self.directory);
        for segment in unnamed {
            match &synced {
                Ok(()) => segment.set_named(),
                Err(error) => drop(segment.not_synced(error)),
            }
        }
    }

    /// The writer has ended: what the last round found can be said here alone.
    fn tell_late_losses(&self) {
        for loss in self.handoff.take_losses() {
            loss.tell(&self.status);
        }
    }
}

/// Why the file that holds this record is lost, if it is.
fn loss_at(segments: &[Arc<Segment>], sequence: u64) -> Option<LossKind> {
    segments.iter().rfind(|segment| segment.first <= sequence)?.loss()
}

impl Drop for Syncer {
    /// Whatever ends the thread, nobody is left waiting for it.
    fn drop(&mut self) {
        self.handoff.end();
    }
}
