use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::PollSemaphore;
use tonic::Status;

use crate::audit::Draft;
use crate::error::{Failure, Reason};
use crate::status::ReasonExt as _;

/// What large requests may hold together before they have arrived; most requests are small, and find room always.
const LARGE_TOGETHER: usize = 8 * 1024 * 1024;
const LARGE_AT_LEAST: usize = 8;
const SMALL: usize = 4096;

/// Places of large requests that are arriving. Who finds none is read no further for now, so that HTTP/2's own flow
/// control holds up the peer and nobody else.
#[derive(Clone, Debug)]
pub struct LargeRequests(Arc<Semaphore>);

impl LargeRequests {
    pub fn new(message_bytes: usize) -> Self {
        let places = (LARGE_TOGETHER / message_bytes.max(1)).max(LARGE_AT_LEAST);
        Self(Arc::new(Semaphore::new(places)))
    }
}

/// A request's body that must arrive in time: one that never ends would hold its call's place until the deadline.
#[derive(Debug)]
pub(super) struct Arriving {
    body: Incoming,
    within: Duration,
    /// Made when the body keeps its reader waiting for the first time; most never do.
    overdue: Option<Pin<Box<Sleep>>>,
    /// After its first bytes, the rest of a stream may take as long as it likes.
    first_only: bool,
    begun: bool,
    most: usize,
    received: usize,
    large: PollSemaphore,
    place: Option<OwnedSemaphorePermit>,
    draft: Option<Arc<Draft>>,
}

impl Arriving {
    /// All of `body` within that time and of at most so many bytes, or of a stream its beginning.
    pub(super) fn new(
        body: Incoming,
        within: Duration,
        most: Option<usize>,
        large: &LargeRequests,
        draft: Option<Arc<Draft>>,
    ) -> Self {
        Self {
            body,
            within,
            overdue: None,
            first_only: most.is_none(),
            begun: false,
            most: most.unwrap_or(usize::MAX),
            received: 0,
            large: PollSemaphore::new(Arc::clone(&large.0)),
            place: None,
            draft,
        }
    }

    /// Whether more may be read.
    fn poll_place(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.received > SMALL && self.place.is_none() && !self.first_only {
            self.place = ready!(self.large.poll_acquire(cx));
        }
        Poll::Ready(())
    }

    fn late(&self) -> Status {
        let message = format!("the request's message did not arrive within {:?}; nothing was done", self.within);
        self.failed(Reason::DeadlineExceeded, message)
    }

    fn too_large(&self) -> Status {
        let message = format!("the request has over {} bytes; send less at a time", self.most);
        self.failed(Reason::MessageTooLarge, message)
    }

    fn failed(&self, reason: Reason, message: String) -> Status {
        if let Some(draft) = &self.draft {
            draft.note(|record| record.outcome = reason.name());
        }
        Failure::new(reason, message).into()
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.poll_place(cx).is_ready()
            && let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx)
        {
            self.begun = true;
            if let Some(Ok(data)) = frame.as_ref().map(|frame| frame.as_ref().map(Frame::data_ref)) {
                self.received += data.map_or(0, Bytes::len);
            }
            if self.received > self.most {
                return Poll::Ready(Some(Err(self.too_large().into())));
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if self.begun && self.first_only {
            return Poll::Pending;
        }
        let within = self.within;
        let overdue = self.overdue.get_or_insert_with(|| Box::pin(sleep(within)));
        ready!(overdue.as_mut().poll(cx));
        Poll::Ready(Some(Err(self.late().into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
