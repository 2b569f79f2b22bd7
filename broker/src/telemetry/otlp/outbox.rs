//! A bounded queue between the calls and the task that sends.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::EXPORT_TIMEOUT;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Exported;

const CAPACITY: usize = 4096;
const BATCH: usize = 512;
/// How long a batch waits for company.
const LINGER: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Sends one kind of item.
pub(super) trait Signal: Send + 'static {
    const NAME: &'static str;
    type Item: Send + 'static;
    type Request: Clone + Send + Sync;

    fn request(&self, batch: Vec<Self::Item>) -> Self::Request;
    /// How many of them the collector refused.
    fn send(&mut self, request: Self::Request) -> impl Future<Output = Result<u64, Status>> + Send;
}

pub(super) struct Outbox<T> {
    sender: mpsc::Sender<T>,
    half_full: Arc<Notify>,
    counts: Counts,
}

pub(super) struct Inbox<T> {
    receiver: mpsc::Receiver<T>,
    half_full: Arc<Notify>,
    counts: Counts,
}

#[derive(Clone)]
struct Counts {
    metrics: Arc<Metrics>,
    of: fn(&Metrics) -> &Exported,
}

pub(super) fn new<T>(metrics: Arc<Metrics>, of: fn(&Metrics) -> &Exported) -> (Outbox<T>, Inbox<T>) {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    let half_full = Arc::new(Notify::new());
    let counts = Counts { metrics, of };
    (
        Outbox { sender, half_full: Arc::clone(&half_full), counts: counts.clone() },
        Inbox { receiver, half_full, counts },
    )
}

impl<T> Outbox<T> {
    /// Never waits.
    pub(super) fn put(&self, item: T) {
        if self.sender.try_send(item).is_err() {
            self.counts.get().dropped.add(1);
        } else if self.sender.capacity() < CAPACITY / 2 {
            self.half_full.notify_one();
        }
    }
}

impl<T: Send + 'static> Inbox<T> {
    pub(super) async fn ship<S: Signal<Item = T>>(mut self, mut signal: S, stop: CancellationToken) {
        let mut health = Health::default();
        while let Some(first) = self.next(&stop).await {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.half_full.notified() => {}
                () = sleep(LINGER) => {}
            }
            let mut first = Some(first);
            loop {
                let mut batch: Vec<T> = first.take().into_iter().collect();
                while batch.len() < BATCH
                    && let Ok(item) = self.receiver.try_recv()
                {
                    batch.push(item);
                }
                if batch.is_empty() {
                    break;
                }
                self.deliver(batch, &mut signal, &mut health, &stop).await;
            }
        }
    }

    /// After the stop, only what is queued already.
    async fn next(&mut self, stop: &CancellationToken) -> Option<T> {
        tokio::select! {
            biased;
            item = self.receiver.recv() => item,
            () = stop.cancelled() => None,
        }
    }

    /// Tries until the collector has the batch or refuses it for good; meanwhile the queue fills. While stopping, once.
    async fn deliver<S: Signal<Item = T>>(
        &self,
        batch: Vec<T>,
        signal: &mut S,
        health: &mut Health,
        stop: &CancellationToken,
    ) {
        let counts = self.counts.get();
        let total = batch.len() as u64;
        let request = signal.request(batch);
        let mut pause = FIRST_PAUSE;
        loop {
            let answer = timeout(EXPORT_TIMEOUT, signal.send(request.clone()))
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer from the collector")));
            health.note(S::NAME, answer.as_ref().err());
            match answer {
                Ok(refused) => {
                    let refused = refused.min(total);
                    counts.sent.add(total - refused);
                    counts.dropped.add(refused);
                    return;
                }
                Err(status) => {
                    counts.failures.add(1);
                    if !may_pass(status.code()) || stop.is_cancelled() {
                        counts.dropped.add(total);
                        return;
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Counts {
    fn get(&self) -> &Exported {
        (self.of)(&self.metrics)
    }
}

/// OTLP's own list of what to try again.
fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// Logs when exporting begins to fail and when it works again, not each time.
#[derive(Debug, Default)]
pub(super) struct Health {
    failing: bool,
}

impl Health {
    pub(super) fn note(&mut self, signal: &'static str, failure: Option<&Status>) {
        match failure {
            Some(status) if !self.failing => {
                let code = super::super::metrics::code_name(status.code());
                let cause = status.source_text();
                tracing::warn!(
                    signal,
                    code,
                    cause,
                    "the OTLP collector does not take our data; check telemetry.otlp_endpoint"
                );
            }
            None if self.failing => {
                tracing::info!(signal, "the OTLP collector takes our data again");
            }
            Some(_) | None => {}
        }
        self.failing = failure.is_some();
    }
}

trait SourceText {
    /// What failed on our side of the wire. The collector's own words are left out.
    fn source_text(&self) -> Option<String>;
}

impl SourceText for Status {
    fn source_text(&self) -> Option<String> {
        let mut cause = std::error::Error::source(self)?;
        let mut text = cause.to_string();
        while let Some(next) = cause.source() {
            text.push_str(": ");
            text.push_str(&next.to_string());
            cause = next;
        }
        Some(text)
    }
}

impl<T> fmt::Debug for Outbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("free", &self.sender.capacity()).finish_non_exhaustive()
    }
}
