//! The way of log lines out of the process. One thread writes them, so that a reader that stops reading stops nobody
//! else; what it leaves unread for too long is given up and counted.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tracing_subscriber::fmt::MakeWriter;

use super::{LogFormat, Metrics};

const MOST_LINES: usize = 8_192;
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// For what is logged when little else is left to do.
pub(super) const LAST_LINES: Duration = Duration::from_millis(100);
const LAST_LINES_POLL: Duration = Duration::from_millis(1);

/// Takes whole lines and never waits.
#[derive(Clone)]
pub(super) struct Lines(Arc<Owner>);

/// Waits for the lines when dropped, since a start that fails shuts nothing down and may end the process at once.
pub(super) struct LastLines(pub(super) Lines);

/// Ends the thread once nobody can log any more.
struct Owner {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    /// How many lines have been dealt with, written or failed.
    done: watch::Receiver<u64>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// Ever taken in.
    accepted: u64,
    /// Given up since the last line was taken in.
    lost: u64,
    closed: bool,
}

impl Lines {
    pub(super) fn start(
        log: impl Write + Send + 'static,
        format: LogFormat,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let (tell_done, done) = watch::channel(0);
        let taken_from = Arc::clone(&queue);
        thread::Builder::new().name("log".to_owned()).spawn(move || write_all(log, format, &taken_from, &tell_done))?;
        Ok(Self(Arc::new(Owner { queue, metrics, done })))
    }

    /// Waits until what has been logged so far is written, for at most that long; whether it was.
    pub(super) async fn written(&self, grace: Duration) -> bool {
        let accepted = self.0.queue.lock().accepted;
        let mut done = self.0.done.clone();
        timeout(grace, done.wait_for(|done| *done >= accepted)).await.is_ok_and(|waited| waited.is_ok())
    }
}

fn write_all(mut log: impl Write, format: LogFormat, queue: &Queue, done: &watch::Sender<u64>) {
    while let Some(Batch { lines, lost }) = queue.take() {
        let count = lines.len() as u64;
        for line in lines {
            // A log that cannot be written has nobody left to hear of it.
            let _ = log.write_all(&line);
        }
        if lost > 0 {
            let _ = log.write_all(notice(format, lost).as_bytes());
        }
        let _ = log.flush();
        done.send_modify(|done| *done += count);
    }
}

/// Made here and not logged: the subscriber would only put it into the queue.
fn notice(format: LogFormat, lost: u64) -> String {
    const MESSAGE: &str = "log lines were lost here, since nobody read the log";
    match format {
        LogFormat::Json => {
            format!("{{\"level\":\"WARN\",\"message\":\"{MESSAGE}\",\"lost\":{lost},\"target\":\"keyferry_broker\"}}\n")
        }
        LogFormat::Text => format!("WARN keyferry_broker: {MESSAGE} lost={lost}\n"),
    }
}

struct Batch {
    lines: VecDeque<Box<[u8]>>,
    /// How many followed them and were given up.
    lost: u64,
}

impl Queue {
    /// Everything there is, once there is any; `None` at the end.
    fn take(&self) -> Option<Batch> {
        let empty = |waiting: &mut Waiting| waiting.lines.is_empty() && waiting.lost == 0 && !waiting.closed;
        let mut waiting = self.more.wait_while(self.lock(), empty).unwrap_or_else(PoisonError::into_inner);
        waiting.bytes = 0;
        let batch = Batch { lines: std::mem::take(&mut waiting.lines), lost: std::mem::take(&mut waiting.lost) };
        (!batch.lines.is_empty() || batch.lost > 0).then_some(batch)
    }

    /// Whether there was room.
    fn put(&self, line: &[u8]) -> bool {
        let mut waiting = self.lock();
        // Once one was given up, all are until the batch is taken, so that the gap is where the log says it is.
        let full = waiting.lines.len() >= MOST_LINES || waiting.bytes + line.len() > MOST_BYTES;
        if full || waiting.lost > 0 {
            waiting.lost += 1;
            return false;
        }
        waiting.lines.push_back(line.into());
        waiting.bytes += line.len();
        waiting.accepted += 1;
        drop(waiting);
        self.more.notify_one();
        true
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for LastLines {
    type Target = Lines;

    fn deref(&self) -> &Lines {
        &self.0
    }
}

impl Drop for LastLines {
    fn drop(&mut self) {
        let Owner { queue, done, .. } = &*self.0.0;
        let accepted = queue.lock().accepted;
        for _ in 0..LAST_LINES.as_millis() / LAST_LINES_POLL.as_millis() {
            if *done.borrow() >= accepted {
                return;
            }
            thread::sleep(LAST_LINES_POLL);
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.more.notify_one();
    }
}

impl<'w> MakeWriter<'w> for Lines {
    type Writer = Self;

    fn make_writer(&'w self) -> Self::Writer {
        self.clone()
    }
}

impl Write for Lines {
    /// The formatting layer hands over each event whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.0.queue.put(line) {
            self.0.metrics.log_lines_lost.add(1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "tests/lines.rs"]
mod tests;
