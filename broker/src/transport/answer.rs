use std::pin::Pin;
use std::task::{Context, Poll};

use http::HeaderMap;
use http_body::{Frame, SizeHint};
use hyper::body::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::error::{Failure, Reason};
use crate::telemetry::CallTimer;

/// An answer's body, which keeps its call's place until it was taken: the place bounds the memory that answers occupy.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    /// As the head tells it; the trailers know better.
    code: Code,
    timer: Option<CallTimer>,
    /// For a stream, which would otherwise go on for as long as the drain lets it.
    drained: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

impl Answer {
    pub(super) fn new(body: Body, code: Code, timer: CallTimer, place: OwnedSemaphorePermit) -> Self {
        Self { body, code, timer: Some(timer), drained: None, ended: false, _place: place }
    }

    /// Ends, with its status, once `drained` resolves and nothing is ready to be sent before that.
    pub(super) fn until(mut self, drained: WaitForCancellationFutureOwned) -> Self {
        self.drained = Some(Box::pin(drained));
        self
    }

    /// Before the peer sees the end: whoever has the answer finds the call counted.
    fn finish(&mut self, code: Code) {
        self.ended = true;
        if let Some(timer) = self.timer.take() {
            timer.finish(code);
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let code = trailers.get("grpc-status").map_or(self.code, |code| Code::from_bytes(code.as_bytes()));
                    self.finish(code);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                let code = self.code;
                self.finish(code);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(status))) => {
                self.finish(status.code());
                Poll::Ready(Some(Err(status)))
            }
            Poll::Pending => match self.drained.as_mut().map(|drained| drained.as_mut().poll(cx)) {
                Some(Poll::Ready(())) => {
                    let status = draining();
                    self.finish(status.code());
                    let mut trailers = HeaderMap::new();
                    let added = status.add_header(&mut trailers);
                    Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))))
                }
                None | Some(Poll::Pending) => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // All of a refusal is in its head. An accepted call whose answer is dropped was cancelled, as the timer knows.
        if self.code != Code::Ok {
            let code = self.code;
            self.finish(code);
        }
    }
}

fn draining() -> Status {
    Failure::new(Reason::Draining, "this replica is shutting down; open the stream again, at another replica").into()
}
