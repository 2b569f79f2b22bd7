use std::pin::Pin;
use std::task::{Context, Poll};

use http::HeaderMap;
use http_body::{Frame, SizeHint};
use hyper::body::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::telemetry::CallTimer;

/// An answer's body, which keeps its call's place until it was taken: the place bounds the memory that answers occupy.
pub(super) struct Answer {
    body: Body,
    /// As the head tells it; the trailers know better.
    code: Code,
    timer: Option<CallTimer>,
    /// For a stream: why it must end now, though its peer and its handler would go on.
    end: Option<End>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

/// Resolves when a stream must end.
type End = Pin<Box<dyn Future<Output = Status> + Send>>;

impl Answer {
    pub(super) fn new(body: Body, code: Code, timer: CallTimer, place: OwnedSemaphorePermit) -> Self {
        Self { body, code, timer: Some(timer), end: None, ended: false, _place: place }
    }

    /// Ends with the status that `end` resolves to, after what is ready to be sent before that.
    pub(super) fn until(mut self, end: impl Future<Output = Status> + Send + 'static) -> Self {
        self.end = Some(Box::pin(end));
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
            Poll::Pending => match self.end.as_mut().map(|end| end.as_mut().poll(cx)) {
                Some(Poll::Ready(status)) => {
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
