//! The handle on the log: what calls, operators and the process's end use.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::oneshot;

use super::directory::{Directory, LockError};
use super::key::{KeyError, PublicKeys, SigningKey};
use super::line::{self, Hash};
use super::queue::{Answer, Duty, Queue};
use super::recovery::{Recovery, recover};
use super::segment::Loss;
use super::syncer::{Handoff, Syncer};
use super::writer::Writer;
use super::{Record, Settings};
use crate::clock::{SharedClock, Timestamp};

/// The audit log; clones share it. The last one dropped lets it finish; only [`Log::close`] waits for that.
#[derive(Clone, Debug)]
pub struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: Arc<Queue>,
    /// None once it has ended.
    writer: Arc<Mutex<Option<Writer>>>,
    status: Arc<Status>,
    clock: SharedClock,
    node: Arc<str>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Proof that a call's record is in the log: what a secret may leave against. Made by the log alone.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    sequence: u64,
}

/// The record could not be written, so nothing may leave. Says why, without paths or values.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the audit log cannot be written: {0}")]
pub struct Unavailable(Arc<str>);

/// How soon a lost file, a due checkpoint or a disk that works again is noticed while no call comes.
const TICK: Duration = Duration::from_millis(100);
const ENDED: &str = "its writer has ended";

#[derive(Debug, Error)]
pub enum OpenError {
    #[error("the audit directory {0} is in use by another process; stop that one or configure another directory")]
    Locked(PathBuf),
    #[error("cannot use the audit directory {0}; make it writable for Keyferry and see that the disk has room")]
    Directory(PathBuf, #[source] io::Error),
    #[error("cannot use the audit file {0}; check its permissions and the disk")]
    File(PathBuf, #[source] io::Error),
    #[error("the audit file {0} ends in nothing that a log holds; move it away, keep it as evidence, and start again")]
    Damaged(PathBuf),
    #[error("the audit log has no usable signing key")]
    Key(#[from] KeyError),
    #[error("cannot start the audit threads")]
    Thread(#[source] io::Error),
}

/// How the log does, for status pages and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Lines written since the start, of every kind.
    pub written_lines: u64,
    pub written_bytes: u64,
    /// The last line written, the last one known to be on the disk, and the last checkpoint there.
    pub last_sequence: u64,
    pub synced_sequence: u64,
    pub checkpoint_sequence: Option<u64>,
    /// The last line's hash: what the next one links to.
    pub head: Hash,
    pub file: String,
    pub queued: u64,
    pub failing: Option<Failing>,
    /// The file `head` lags behind because of this; records are not affected.
    pub head_failing: Option<String>,
    /// The last time that committed records were put in doubt, and how often that happened since the start.
    pub loss: Option<Loss>,
    pub losses: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    pub since: Timestamp,
    pub refused: u64,
    pub reason: String,
}

impl Log {
    /// Takes the directory, finds the chain's end and starts the threads.
    pub fn open(settings: Settings, node: &str, clock: SharedClock) -> Result<(Self, Recovery), OpenError> {
        let path = settings.directory.clone();
        let directory = Directory::open(&path).map_err(|error| match error {
            LockError::Held => OpenError::Locked(path.clone()),
            LockError::Io(error) => OpenError::Directory(path.clone(), error),
        })?;
        let key = SigningKey::load_or_create(&settings.signing_key)?;
        key.publish(&path).map_err(|error| OpenError::Directory(path.clone(), error))?;
        if settings.signing_key.parent().is_some_and(|folder| lies_in(folder, &path)) {
            let key = settings.signing_key.display();
            tracing::warn!(%key, "the audit signing key lies in the directory that it protects; keep it elsewhere");
        }
        let tail = recover(&path, &PublicKeys::beside(&path)?)?;
        tail.recovery.tell();

        let queue = Arc::new(Queue::default());
        let status = Arc::new(Status::default());
        let handoff = Arc::new(Handoff::default());
        let node: Arc<str> = node.into();
        let recovery = tail.recovery.clone();
        let syncer = Syncer {
            directory: path.clone(),
            interval: settings.sync_interval,
            handoff: Arc::clone(&handoff),
            status: Arc::clone(&status),
        };
        let mut writer = Writer::new(directory, settings, Arc::clone(&node), Arc::clone(&clock), key, tail);
        writer.connect(Arc::clone(&queue), Arc::clone(&handoff), Arc::clone(&status));
        writer.begin().map_err(|error| OpenError::Directory(path, error))?;

        let serving = queue.serve();
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(OpenError::Thread)
        };
        let syncer = spawn("audit-sync", Box::new(move || syncer.run()))?;
        let writer = Arc::new(Mutex::new(Some(writer)));
        let (shared, called, closing) = (Arc::clone(&writer), Arc::clone(&queue), Closing(handoff));
        let body = move || {
            let directory = write_all(&called, &shared);
            drop(closing);
            let _ = syncer.join();
            // Now another process may have it.
            drop(directory);
            drop(serving);
        };
        let thread = Mutex::new(Some(spawn("audit", Box::new(body))?));
        Ok((Self(Arc::new(Inner { queue, writer, status, clock, node, thread })), recovery))
    }

    /// Puts the record in the queue at once; the future tells when it is as durable as the mode asks. Dropping the future
    /// does not take the record back.
    pub fn commit(&self, record: &Record) -> Commit {
        let (waiter, answer) = oneshot::channel();
        Commit(match self.push(record, Some(waiter)) {
            Ok(Duty::None) => State::Waiting(answer),
            Ok(Duty::Ring) => State::Leading { answer, bell: Bell(Some(Arc::clone(&self.0))), yielded: false },
            Err(unavailable) => State::Refused(unavailable),
        })
    }

    /// For calls whose answer nobody awaits any more, cancelled or panicked ones. What does not fit is counted as refused.
    pub fn commit_detached(&self, record: &Record) {
        if let Ok(Duty::Ring) = self.push(record, None) {
            self.0.queue.ring();
        }
    }

    pub fn health(&self) -> Health {
        let mut health = self.0.status.lock().clone();
        health.queued = self.0.queue.depth();
        if health.failing.is_none() && !self.0.queue.is_served() {
            let reason = ENDED.to_owned();
            health.failing = Some(Failing { since: self.0.clock.now(), refused: 0, reason });
        }
        health
    }

    /// Writes what is queued, signs the end and waits until it is on the disk. Blocks; later commits are refused.
    pub fn close(&self) {
        self.0.close();
    }

    fn push(&self, record: &Record, waiter: Option<oneshot::Sender<Answer>>) -> Result<Duty, Unavailable> {
        thread_local! {
            static BODY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        BODY.with_borrow_mut(|body| {
            // The clock is read here only for a record that brings no time.
            let now = record.time.unwrap_or_else(|| self.0.clock.now());
            line::call(body, record, now, &self.0.node);
            self.0.queue.push(body, waiter)
        })
    }
}

/// The thread's part: what no call has found easy to write, and what is due while no call comes.
fn write_all(queue: &Queue, writer: &Mutex<Option<Writer>>) -> Option<Directory> {
    loop {
        let closed = queue.wait(TICK);
        // A call that broke off in the middle of a write may have left anything: nothing is written after it.
        let mut held = writer.lock().ok()?;
        if closed {
            return held.take().map(Writer::end);
        }
        if let Some(writer) = held.as_mut() {
            writer.turn();
        }
    }
}

/// Ends the syncer when it is dropped: whatever ends the writer, nobody waits for ever.
struct Closing(Arc<Handoff>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Inner {
    /// Writes what is queued here and now, unless somebody else is at it or more is due than a call should wait for.
    fn write(&self) -> bool {
        let Ok(mut writer) = self.writer.try_lock() else { return false };
        writer.as_mut().is_some_and(Writer::turn_for_a_call)
    }

    fn close(&self) {
        self.queue.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    /// Lets the threads write what is queued and end by themselves: whoever drops the last handle, perhaps a runtime's
    /// thread, does not wait for the disk. What was answered is in the kernel already.
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Whether a folder is the log's directory or lies beneath it, whatever links lead there.
fn lies_in(folder: &Path, directory: &Path) -> bool {
    match (std::fs::canonicalize(folder), std::fs::canonicalize(directory)) {
        (Ok(folder), Ok(directory)) => folder.starts_with(directory),
        _ => false,
    }
}

/// A record on its way; see [`Log::commit`].
#[must_use = "the answer may leave only against the receipt"]
pub struct Commit(State);

enum State {
    /// The first in a batch: it lets the other ready tasks add theirs, then writes all, or calls the writer.
    Leading {
        answer: oneshot::Receiver<Answer>,
        bell: Bell,
        yielded: bool,
    },
    Waiting(oneshot::Receiver<Answer>),
    Refused(Unavailable),
}

/// Rings when it is dropped, so that a cancelled leader leaves nobody waiting.
struct Bell(Option<Arc<Inner>>);

impl Bell {
    fn spare_the_thread(&mut self) {
        if self.0.as_ref().is_some_and(|log| log.write()) {
            self.0 = None;
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        if let Some(log) = &self.0 {
            log.queue.ring();
        }
    }
}

impl Future for Commit {
    type Output = Result<Receipt, Unavailable>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.0 {
                State::Leading { yielded, .. } if !*yielded => {
                    *yielded = true;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                State::Leading { bell, .. } => {
                    bell.spare_the_thread();
                    // What is taken out and not moved on is the bell, which rings here if it still has to.
                    let leading = std::mem::replace(&mut self.0, State::Refused(Unavailable::new(ENDED)));
                    if let State::Leading { answer, .. } = leading {
                        self.0 = State::Waiting(answer);
                    }
                }
                State::Waiting(answer) => {
                    let answer =
                        ready!(Pin::new(answer).poll(context)).unwrap_or_else(|_| Err(Unavailable::new(ENDED)));
                    return Poll::Ready(answer.map(|sequence| Receipt { sequence }));
                }
                State::Refused(unavailable) => return Poll::Ready(Err(unavailable.clone())),
            }
        }
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Commit")
    }
}

impl Receipt {
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl Unavailable {
    pub(super) fn new(reason: impl Into<Arc<str>>) -> Self {
        Self(reason.into())
    }

    pub fn reason(&self) -> &str {
        &self.0
    }
}

/// What the threads report; [`Health`] is its snapshot.
#[derive(Debug, Default)]
pub(super) struct Status(Mutex<Health>);

impl Status {
    pub(super) fn change(&self, change: impl FnOnce(&mut Health)) {
        change(&mut self.lock());
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Health> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
