//! How HTTP is spoken on a connection, and what one connection may hold.

use std::sync::Arc;
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioTimer;
use tokio_util::task::TaskTracker;

use super::patience::{Untaken, patiently};
use super::settings::Limits;
use super::stats::{TransportStats, count};

/// What one call may have sent and we not read: enough for a secret of full size in one go.
const STREAM_WINDOW: u32 = 68 * 1024;
/// The same of all calls of one connection together: several that are not read shall not hold up the others.
const CONNECTION_WINDOW: u32 = 512 * 1024;
const FRAME_BYTES: u32 = 16 * 1024;
/// What one call's answer may have waiting for a slow reader before its producer is paused.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams reset by the peer before we took them up, and by us for the peer's errors: beyond these the connection ends.
const PENDING_RESETS: usize = 32;
const ERROR_RESETS: usize = 128;
const HTTP1_HEADERS: usize = 64;
/// The HTTP/1 library refuses to work with less.
const HTTP1_MIN_BUFFER: usize = 8192;

/// Calls run as tasks of their own; the tracker lets a drain wait for the last of them.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    tasks: TaskTracker,
    /// How long a peer may leave what it was sent untaken.
    patience: Duration,
    untaken: Arc<Untaken>,
    stats: Arc<TransportStats>,
}

#[derive(Debug)]
pub(super) struct Http {
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<Calls>,
}

impl Http {
    pub(super) fn new(limits: &Limits, tasks: TaskTracker, untaken: Arc<Untaken>, stats: Arc<TransportStats>) -> Self {
        let patience = limits.keepalive_interval + limits.keepalive_timeout;
        let calls = Calls { tasks, patience, untaken, stats };
        Self { http1: http1(limits), http2: http2(limits, calls) }
    }
}

impl<F> Executor<F> for Calls
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        let stats = Arc::clone(&self.stats);
        let untaken = Arc::clone(&self.untaken);
        self.tasks.spawn(patiently(call, self.patience, untaken, move || count(&stats.untaken)));
    }
}

fn http1(limits: &Limits) -> http1::Builder {
    let header_bytes = usize::try_from(limits.header_bytes).unwrap_or(usize::MAX);
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Runs between requests too, so it is also how long an idle connection is kept.
        .header_read_timeout(limits.keepalive_interval + limits.keepalive_timeout)
        .max_headers(HTTP1_HEADERS)
        .max_buf_size(header_bytes.max(HTTP1_MIN_BUFFER));
    builder
}

fn http2(limits: &Limits, calls: Calls) -> http2::Builder<Calls> {
    let mut builder = http2::Builder::new(calls);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(limits.header_bytes)
        .max_frame_size(FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(ERROR_RESETS)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
}
