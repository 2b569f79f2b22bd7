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
use super::segment::{LossKind, Segment};

/// What the writer hands to the syncer.
#[derive(Debug, Default)]
pub(super) struct Handoff {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    work: Work,
    current: Option<Arc<Segment>>,
    closed: bool,
    ended: bool,
}

#[derive(Debug, Default)]
pub(super) struct Work {
    /// Files with unsynced records, oldest first.
    dirty: Vec<Arc<Segment>>,
    /// A file was made whose name is not durable yet.
    names: bool,
    written: u64,
    head: Option<Head>,
    pub(super) waiters: Vec<(u64, oneshot::Sender<Answer>)>,
}

impl Handoff {
    /// Records up to `written` are in `segment`, but not yet on the disk. Fills in `waiters` through `add_waiters`.
    pub(super) fn written(
        &self,
        segment: &Arc<Segment>,
        written: u64,
        head: Option<Head>,
        add_waiters: impl FnOnce(&mut Vec<(u64, oneshot::Sender<Answer>)>),
    ) {
        let mut state = self.lock();
        if !state.work.dirty.last().is_some_and(|last| Arc::ptr_eq(last, segment)) {
            state.work.dirty.push(Arc::clone(segment));
        }
        if !state.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, segment)) {
            state.current = Some(Arc::clone(segment));
            state.work.names = true;
        }
        state.work.written = written;
        state.work.head = head.or(state.work.head.take());
        if state.ended {
            // Dropped, they tell their calls that nothing will come.
            add_waiters(&mut Vec::new());
            return;
        }
        let idle = state.work.waiters.is_empty();
        add_waiters(&mut state.work.waiters);
        let ring = idle && !state.work.waiters.is_empty();
        drop(state);
        if ring {
            self.bell.notify_one();
        }
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.bell.notify_one();
    }

    /// Waits until somebody waits for the disk, or for the next round.
    fn take(&self, interval: Duration) -> (Work, Option<Arc<Segment>>, bool) {
        let waits = |state: &mut State| state.work.waiters.is_empty() && !state.closed;
        let (mut state, _) =
            self.bell.wait_timeout_while(self.lock(), interval, waits).unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut state.work), state.current.clone(), state.closed)
    }

    fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.work = Work::default();
    }

    fn put_back(&self, head: Head) {
        self.lock().work.head.get_or_insert(head);
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
            let (work, current, closed) = self.handoff.take(self.interval);
            if work.dirty.is_empty()
                && let Some(current) = current
            {
                current.check_place();
            }
            self.round(work);
            if closed {
                return;
            }
        }
    }

    fn round(&self, mut work: Work) {
        match self.bring_to_disk(&work) {
            Ok(()) => {
                if work.written > 0 {
                    self.status.change(|status| {
                        status.synced_sequence = status.synced_sequence.max(work.written);
                    });
                }
                for (sequence, waiter) in work.waiters.drain(..) {
                    let _ = waiter.send(Ok(sequence));
                }
            }
            Err(kind) => {
                // The writer finds the loss in the file itself and begins another.
                let reason = Unavailable::new(kind.to_string());
                for (_, waiter) in work.waiters.drain(..) {
                    let _ = waiter.send(Err(reason.clone()));
                }
                return;
            }
        }
        // Only now: a head must never be ahead of the log on the disk.
        if let Some(head) = work.head {
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
    }

    fn bring_to_disk(&self, work: &Work) -> Result<(), LossKind> {
        for segment in &work.dirty {
            segment.sync()?;
        }
        if work.names
            && let Err(error) = sync_names(&self.directory)
        {
            return Err(match work.dirty.last() {
                Some(segment) => segment.not_synced(&error),
                None => LossKind::NotSynced(error.to_string()),
            });
        }
        Ok(())
    }
}

impl Drop for Syncer {
    /// Whatever ends the thread, nobody is left waiting for it.
    fn drop(&mut self) {
        self.handoff.end();
    }
}
