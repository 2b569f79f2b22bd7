//! The bounded queue between the calls and the writer: one buffer is filled while the other is written.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::log::Unavailable;

const MAX_RECORDS: usize = 32 * 1024;
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Whoever brings the queue to this many records wakes the thread, if nobody has.
const ENOUGH: usize = 256;

pub(super) type Answer = Result<u64, Unavailable>;

/// Records in the order in which they will be written.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    length: usize,
    waiter: Option<oneshot::Sender<Answer>>,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    filling: Mutex<Filling>,
    bell: Condvar,
    refused: AtomicU64,
    depth: AtomicU64,
    alive: AtomicBool,
}

#[derive(Debug, Default)]
struct Filling {
    batch: Batch,
    thread: Attention,
    closed: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Attention {
    #[default]
    Awake,
    Asleep,
    /// Asleep, and one caller has taken it upon itself to ring.
    ToBeCalled,
}

/// Whether the one who pushed owes the thread a call of [`Queue::ring`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    None,
    Ring,
}

impl Queue {
    /// Ringing is left to the caller, since it may do better than at once: every record that comes before it shares the write.
    pub(super) fn push(&self, body: &[u8], waiter: Option<oneshot::Sender<Answer>>) -> Result<Duty, Unavailable> {
        let mut filling = self.lock();
        let full = filling.batch.entries.len() >= MAX_RECORDS || filling.batch.bytes.len() + body.len() > MAX_BYTES;
        if filling.closed || full {
            let closed = filling.closed;
            drop(filling);
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Unavailable::new(if closed { "it is closed" } else { "its queue is full" }));
        }
        filling.batch.bytes.extend_from_slice(body);
        filling.batch.entries.push(Entry { length: body.len(), waiter });
        match filling.thread {
            Attention::Awake => {}
            Attention::Asleep => {
                filling.thread = Attention::ToBeCalled;
                return Ok(Duty::Ring);
            }
            Attention::ToBeCalled if filling.batch.len() < ENOUGH => {}
            Attention::ToBeCalled => self.wake(filling),
        }
        Ok(Duty::None)
    }

    pub(super) fn ring(&self) {
        let filling = self.lock();
        if filling.thread == Attention::ToBeCalled {
            self.wake(filling);
        }
    }

    fn wake(&self, mut filling: MutexGuard<'_, Filling>) {
        filling.thread = Attention::Awake;
        drop(filling);
        self.bell.notify_one();
    }

    /// Waits for records, at most for `patience`. True when no more will come.
    pub(super) fn wait(&self, patience: Duration) -> bool {
        let mut filling = self.lock();
        if filling.batch.is_empty() && !filling.closed {
            filling.thread = Attention::Asleep;
            filling = self.bell.wait_timeout(filling, patience).unwrap_or_else(PoisonError::into_inner).0;
            filling.thread = Attention::Awake;
        }
        filling.closed
    }

    /// Exchanges what is queued for the empty `batch`. Whoever was to ring need not any more.
    pub(super) fn take(&self, batch: &mut Batch) {
        debug_assert!(batch.is_empty());
        let mut filling = self.lock();
        std::mem::swap(&mut filling.batch, batch);
        if filling.thread == Attention::ToBeCalled {
            filling.thread = Attention::Asleep;
        }
        self.depth.store(batch.len() as u64, Ordering::Relaxed);
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.bell.notify_one();
    }

    /// How many records were refused here since the last time this was asked.
    pub(super) fn take_refused(&self) -> u64 {
        self.refused.swap(0, Ordering::Relaxed)
    }

    pub(super) fn depth(&self) -> u64 {
        self.lock().batch.len() as u64 + self.depth.load(Ordering::Relaxed)
    }

    pub(super) fn settled(&self) {
        self.depth.store(0, Ordering::Relaxed);
    }

    /// Held by the thread: whatever ends it, nobody is left waiting.
    pub(super) fn serve(self: &Arc<Self>) -> Serving {
        self.alive.store(true, Ordering::Release);
        Serving(Arc::clone(self))
    }

    pub(super) fn is_served(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Filling> {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) struct Serving(Arc<Queue>);

impl Drop for Serving {
    fn drop(&mut self) {
        let mut filling = self.0.lock();
        filling.closed = true;
        filling.batch.clear();
        drop(filling);
        self.0.alive.store(false, Ordering::Release);
    }
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bodies(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        self.entries.iter().map(move |entry| {
            let (body, after) = rest.split_at(entry.length);
            rest = after;
            body
        })
    }

    /// Answers everybody: records have consecutive numbers from `first`.
    pub(super) fn accept(&mut self, first: u64) {
        for (sequence, waiter) in self.waiters(first) {
            // Nobody listens any more where the call was cancelled; the record stands.
            let _ = waiter.send(Ok(sequence));
        }
        self.clear();
    }

    pub(super) fn refuse(&mut self, reason: &Unavailable) {
        for (_, waiter) in self.waiters(0) {
            let _ = waiter.send(Err(reason.clone()));
        }
        self.clear();
    }

    /// Leaves the batch empty, its waiters to be answered later.
    pub(super) fn hand_over(&mut self, first: u64, to: &mut Vec<(u64, oneshot::Sender<Answer>)>) {
        to.extend(self.waiters(first));
        self.clear();
    }

    fn waiters(&mut self, first: u64) -> impl Iterator<Item = (u64, oneshot::Sender<Answer>)> {
        (first..).zip(&mut self.entries).filter_map(|(sequence, entry)| Some((sequence, entry.waiter.take()?)))
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes.clear();
        // A burst's memory is given back.
        self.bytes.shrink_to(1024 * 1024);
        self.entries.shrink_to(4096);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_refuses_at_once_and_counts() {
        let queue = Queue::default();
        let body = vec![b'x'; 60_000];
        let accepted = (0..1000).take_while(|_| queue.push(&body, None).is_ok()).count();
        assert_eq!(accepted, MAX_BYTES / body.len());
        assert_eq!(queue.take_refused(), 1);
        let mut batch = Batch::default();
        queue.take(&mut batch);
        assert_eq!(batch.bodies().map(<[u8]>::len).sum::<usize>(), accepted * body.len());
        assert!(queue.push(&body, None).is_ok());
    }

    #[test]
    fn nobody_waits_for_a_writer_that_died() {
        let queue = Arc::new(Queue::default());
        let serving = queue.serve();
        let (waiter, mut answer) = oneshot::channel();
        queue.push(b"x", Some(waiter)).unwrap();
        drop(serving);
        assert!(matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert!(queue.push(b"x", None).is_err());
        assert!(!queue.is_served());
    }
}
