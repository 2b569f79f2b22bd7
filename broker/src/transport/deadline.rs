use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::frames::{Flooded, FrameMeter};
use super::stats::{TransportStats, count};

/// How long one that floods is neither read nor let go: cut off at once, it would be back at once, and each time cost a
/// handshake, which is dearer than its flood.
const HELD_OFF: Duration = Duration::from_secs(1);

/// A stream whose peer must begin to speak in time, must not stop reading and must not flood: HTTP has a bound for none
/// of these, and such a peer would keep its place, or the processor, for ever.
#[derive(Debug)]
pub(super) struct Punctual<T> {
    stream: T,
    /// Bytes still to come before the peer has begun to speak, and by when.
    missing: usize,
    beginning: Option<Pin<Box<Sleep>>>,
    /// How long a write may be stuck, and when the one that is stuck has been so for too long.
    patience: Duration,
    stuck: Option<Pin<Box<Sleep>>>,
    /// For HTTP/2 only.
    frames: Option<FrameMeter>,
    held_off: Option<Pin<Box<Sleep>>>,
    stats: Arc<TransportStats>,
}

impl<T> Punctual<T> {
    pub(super) fn new(
        stream: T,
        first_bytes: usize,
        within: Duration,
        patience: Duration,
        frames: Option<FrameMeter>,
        stats: Arc<TransportStats>,
    ) -> Self {
        let beginning = Some(Box::pin(sleep(within)));
        Self { stream, missing: first_bytes, beginning, patience, stuck: None, frames, held_off: None, stats }
    }

    fn timed_out(&self) -> io::Error {
        count(&self.stats.timed_out);
        io::ErrorKind::TimedOut.into()
    }

    fn written<R>(&mut self, written: Poll<io::Result<R>>, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let patience = self.patience;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stuck.as_mut().poll(cx));
        Poll::Ready(Err(self.timed_out()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Punctual<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(beginning) = &mut self.beginning
            && beginning.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(self.timed_out()));
        }
        if let Some(held_off) = &mut self.held_off {
            ready!(held_off.as_mut().poll(cx));
            return Poll::Ready(Err(io::Error::other(Flooded)));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if let Some(frames) = &mut self.frames
            && frames.take(buffer.filled().get(before..).unwrap_or_default()).is_err()
        {
            count(&self.stats.flooded);
            buffer.set_filled(before);
            self.held_off = Some(Box::pin(sleep(HELD_OFF)));
            return self.poll_read(cx, buffer);
        }
        if self.beginning.is_some() {
            self.missing = self.missing.saturating_sub(buffer.filled().len() - before);
            if self.missing == 0 {
                self.beginning = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Punctual<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.written(closed, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
