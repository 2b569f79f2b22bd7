//! How long a peer may leave an answer untaken. Flow control lets a peer that opens no window keep every answer it asked
//! for in our memory, and HTTP/2 has no deadline for that. Nothing polls such an answer's body, so the clock runs in the
//! call's task, which the body tells whose turn it is.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;
use tokio::time::{Sleep, sleep};

tokio::task_local! {
    /// Which frame the peer has yet to take; `None` while the peer waits for us.
    static UNTAKEN: Cell<Option<u64>>;
}

/// Below this, an answer may be left to the connection's own buffer, whose size times the streams is bounded enough.
const UNWATCHED: usize = 4096;

/// Runs `call` to its end, or until the peer has left one frame of its answer untaken for too long: then it is dropped,
/// which resets its stream. A call that never waits for its peer pays for no timer.
pub(super) async fn patiently(call: impl Future<Output = ()>, patience: Duration, gave_up: impl FnOnce()) {
    UNTAKEN.scope(Cell::new(None), taken(call, patience, gave_up)).await;
}

async fn taken(call: impl Future<Output = ()>, patience: Duration, gave_up: impl FnOnce()) {
    let mut call = pin!(call);
    let mut watched: Option<(u64, Pin<Box<Sleep>>)> = None;
    let in_time = poll_fn(|cx| {
        if call.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        let Some(untaken) = UNTAKEN.with(Cell::get) else {
            watched = None;
            return Poll::Pending;
        };
        if watched.as_ref().is_some_and(|(frame, _)| *frame != untaken) {
            watched = None;
        }
        let (_, overdue) = watched.get_or_insert_with(|| (untaken, Box::pin(sleep(patience))));
        ready!(overdue.as_mut().poll(cx));
        Poll::Ready(false)
    });
    if !in_time.await {
        gave_up();
    }
}

/// A body that tells its call's task when a frame has gone to the peer.
///
/// The HTTP library hands a whole frame to the connection as soon as one byte of it may be sent, and lets go of the body
/// after the last. So the last byte of a large frame goes separately: it is asked for once the others were taken.
#[derive(Debug)]
pub(super) struct Watched<B> {
    body: B,
    last_byte: Bytes,
    frames: u64,
}

impl<B> Watched<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, last_byte: Bytes::new(), frames: 0 }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = if self.last_byte.is_empty() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    tell(None);
                    return Poll::Pending;
                }
            }
        } else {
            Some(Ok(Frame::data(std::mem::take(&mut self.last_byte))))
        };
        self.frames += 1;
        tell(Some(self.frames));
        let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
        match frame.into_data() {
            Ok(mut data) => {
                if data.len() > UNWATCHED {
                    self.last_byte = data.split_off(data.len() - 1);
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(other) => Poll::Ready(Some(Ok(other))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.last_byte.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let more = u64::try_from(self.last_byte.len()).unwrap_or(0);
        let inner = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + more);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + more);
        }
        hint
    }
}

/// Over HTTP/1 there is no such task; there the connection's own clock sees a write that is stuck.
fn tell(untaken: Option<u64>) {
    let _ = UNTAKEN.try_with(|turn| turn.set(untaken));
}
