//! How long a peer may leave an answer untaken. Flow control lets a peer that opens no window keep every answer it asked
//! for in our memory, and HTTP/2 has no deadline for that. Nothing polls such an answer's body, so the clock runs in the
//! call's task, which the body tells whose turn it is.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;
use tokio::time::{Sleep, sleep};

use super::connection::Connection;

tokio::task_local! {
    static TURN: Turn;
}

/// Below this, an answer may be left to the connection's own buffer, whose size times the streams is bounded enough.
const UNWATCHED: usize = 512;
/// A larger one goes in pieces, so that a peer that takes it slowly is told from one that does not.
const PIECE: usize = 16 * 1024;

/// What all untaken answers may hold together, before those that have stalled make room.
const TOGETHER: usize = 8 * 1024 * 1024;
const STALLED: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(50);

/// Bytes of answers that peers have yet to take, of one listener's calls.
#[derive(Debug, Default)]
pub(super) struct Untaken(AtomicUsize);

/// Of these, what one connection's peer has yet to take.
#[derive(Debug)]
pub(super) struct Answers {
    all: Arc<Untaken>,
    own: AtomicUsize,
}

/// Whose turn it is in a call.
struct Turn {
    /// Which piece the peer has yet to take; `None` while the peer waits for us.
    piece: Cell<Option<u64>>,
    all: Arc<Untaken>,
}

/// Runs `call` to its end, or until the peer has left one piece of its answer untaken for too long: then it is dropped,
/// which resets its stream. A call that never waits for its peer pays for no timer.
pub(super) async fn patiently(
    call: impl Future<Output = ()>,
    patience: Duration,
    all: Arc<Untaken>,
    gave_up: impl FnOnce(),
) {
    let turn = Turn { piece: Cell::new(None), all };
    TURN.scope(turn, taken(call, patience, gave_up)).await;
}

async fn taken(call: impl Future<Output = ()>, patience: Duration, gave_up: impl FnOnce()) {
    let mut call = pin!(call);
    let mut watched: Option<(u64, Watch)> = None;
    let in_time = poll_fn(|cx| {
        if call.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        let Some(untaken) = TURN.with(|turn| turn.piece.get()) else {
            watched = None;
            return Poll::Pending;
        };
        if watched.as_ref().is_some_and(|(piece, _)| *piece != untaken) {
            watched = None;
        }
        let (_, watch) = watched.get_or_insert_with(|| (untaken, Watch::over(patience)));
        ready!(watch.poll_overdue(cx));
        Poll::Ready(false)
    });
    if !in_time.await {
        gave_up();
    }
}

/// Over one piece that the peer has yet to take.
struct Watch {
    left: Duration,
    look: Pin<Box<Sleep>>,
}

impl Watch {
    fn over(patience: Duration) -> Self {
        Self { left: patience, look: Box::pin(sleep(STALLED.min(patience))) }
    }

    /// Ready when patience is at its end: sooner, where untaken answers hold too much.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.look.as_mut().poll(cx));
            self.left = self.left.saturating_sub(STALLED);
            if self.left.is_zero() || TURN.with(|turn| turn.all.is_too_much()) {
                return Poll::Ready(());
            }
            self.look = Box::pin(sleep(STALLED.min(self.left)));
        }
    }
}

impl Untaken {
    fn is_too_much(&self) -> bool {
        self.0.load(Ordering::Relaxed) > TOGETHER
    }
}

impl Answers {
    pub(super) fn new(all: Arc<Untaken>) -> Self {
        Self { all, own: AtomicUsize::new(0) }
    }

    /// Waits until an answer may be made. Where too much is untaken, a peer gets one after the other.
    pub(super) async fn room(&self) {
        while !self.have_room() {
            sleep(PAUSE).await;
        }
    }

    fn have_room(&self) -> bool {
        self.own.load(Ordering::Relaxed) == 0 || !self.all.is_too_much()
    }

    fn hold(&self, before: usize, now: usize) {
        for sum in [&self.own, &self.all.0] {
            if now > before {
                sum.fetch_add(now - before, Ordering::Relaxed);
            } else if now < before {
                sum.fetch_sub(before - now, Ordering::Relaxed);
            }
        }
    }
}

/// A body that tells its call's task when a piece has gone to the peer.
///
/// The HTTP library hands a whole frame to the connection as soon as one byte of it may be sent, and lets go of the body
/// after the last. So the last byte of a large frame goes separately: it is asked for once the others were taken.
#[derive(Debug)]
pub(super) struct Watched<B> {
    body: B,
    rest: Bytes,
    pieces: u64,
    /// Of the answer, in memory.
    held: usize,
    pause: Option<Pin<Box<Sleep>>>,
    connection: Arc<Connection>,
}

impl<B> Watched<B> {
    pub(super) fn new(body: B, connection: Arc<Connection>) -> Self {
        Self { body, rest: Bytes::new(), pieces: 0, held: 0, pause: None, connection }
    }

    /// Before the body is asked for its first bytes, which is when most bodies make them.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.pieces == 0 && !self.connection.answers().have_room() {
            // The peer does not take the others: this one waits for it as well.
            tell(Some(0));
            let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(PAUSE)));
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }

    fn hold(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.held, bytes);
        if before != bytes {
            self.connection.answers().hold(before, bytes);
        }
    }
}

impl<B> Drop for Watched<B> {
    fn drop(&mut self) {
        self.hold(0);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        ready!(self.poll_room(cx));
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                Poll::Ready(ended) => return Poll::Ready(ended),
                Poll::Pending => {
                    self.hold(0);
                    tell(None);
                    return Poll::Pending;
                }
            }
        }
        if self.rest.len() > self.held {
            let held = if self.rest.len() > UNWATCHED { self.rest.len() } else { 0 };
            self.hold(held);
        }
        self.pieces += 1;
        tell(Some(self.pieces));
        let most = if self.rest.len() > UNWATCHED { self.rest.len() - 1 } else { self.rest.len() };
        let piece = self.rest.split_to(most.min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let more = u64::try_from(self.rest.len()).unwrap_or(0);
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
    let _ = TURN.try_with(|turn| turn.piece.set(untaken));
}
