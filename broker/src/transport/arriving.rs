use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use crate::audit::Draft;
use crate::error::{Failure, Reason};
use crate::status::ReasonExt as _;

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
    draft: Option<Arc<Draft>>,
}

impl Arriving {
    /// All of `body` within that time, or of a stream its beginning.
    pub(super) fn new(body: Incoming, within: Duration, streams: bool, draft: Option<Arc<Draft>>) -> Self {
        Self { body, within, overdue: None, first_only: streams, begun: false, draft }
    }

    fn late(&self) -> Status {
        if let Some(draft) = &self.draft {
            draft.note(|record| record.outcome = Reason::DeadlineExceeded.name());
        }
        let message = format!("the request's message did not arrive within {:?}; nothing was done", self.within);
        Failure::new(Reason::DeadlineExceeded, message).into()
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.begun = true;
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
