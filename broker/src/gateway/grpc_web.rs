//! gRPC-Web: gRPC whose trailers come as the body's last frame, in base64 for browsers that take no bytes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

use super::frame::{self, HEAD};
use super::speech::Coding;
use super::wiped::Wiped;
use crate::error::{Failure, Reason};

/// Marks the frame that holds the trailers.
const TRAILERS: u8 = 0x80;

/// The request with the bytes that its text stands for. They may come in several pieces, each with its own padding.
pub(super) async fn decoded(request: Request<Body>, most: usize) -> Result<Request<Body>, Failure> {
    let (head, body) = request.into_parts();
    let text = frame::collect(body, base64::encoded_len(HEAD + most, true).unwrap_or(most)).await?;
    let text = &text.as_slice()[HEAD..];
    let mut bytes = Wiped::with_capacity(base64::decoded_len_estimate(text.len()));
    for piece in pieces(text) {
        bytes
            .put_with(base64::decoded_len_estimate(piece.len()), |out| STANDARD.decode_slice(piece, out))
            .map_err(|_| Failure::new(Reason::InvalidArgument, "the body is not base64, as its content type says"))?;
    }
    Ok(Request::from_parts(head, frame::body(bytes.into_bytes())))
}

/// Each up to its padding.
fn pieces(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.chunk_by(|before, after| *before != b'=' || *after == b'=')
}

pub(super) fn answer<B>(coding: Coding, answer: Response<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes, Error = Status> + Send + Unpin + 'static,
{
    let mut response = answer.map(|body| Body::new(Web { body, coding }));
    let kind = match coding {
        Coding::Binary => "application/grpc-web+proto",
        Coding::Base64 => "application/grpc-web-text+proto",
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

struct Web<B> {
    body: B,
    coding: Coding,
}

impl<B> http_body::Body for Web<B>
where
    B: http_body::Body<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else { return Poll::Ready(None) };
        let bytes = match frame?.into_data() {
            Ok(data) => data,
            Err(other) => trailing(&other.into_trailers().unwrap_or_default()),
        };
        Poll::Ready(Some(Ok(Frame::data(match self.coding {
            Coding::Binary => bytes,
            Coding::Base64 => encoded(&bytes),
        }))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

fn trailing(trailers: &HeaderMap) -> Bytes {
    let mut last = frame::begin(128);
    for (name, value) in trailers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            last.put(part);
        }
    }
    last.as_mut_slice()[0] = TRAILERS;
    frame::finish(last)
}

fn encoded(bytes: &[u8]) -> Bytes {
    let most = base64::encoded_len(bytes.len(), true).unwrap_or(0);
    let mut text = Wiped::with_capacity(most);
    // The room is exactly what the text takes.
    let _ = text.put_with(most, |out| STANDARD.encode_slice(bytes, out));
    text.into_bytes()
}
