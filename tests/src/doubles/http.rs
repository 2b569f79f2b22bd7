//! HTTP/1 for the doubles: one handler per server, ended with its connections when dropped.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::faults::Fault;

pub type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Answers one request, whose body has been read.
pub type Handler = Arc<dyn Fn(Request<Bytes>) -> BoxFuture<'static, Answer> + Send + Sync>;

/// A server that serves until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

/// Serves on `listener`, with TLS where it is configured.
pub fn serve(listener: TcpListener, tls: Option<ServerConfig>, handler: Handler) -> Server {
    let address = listener.local_addr().unwrap();
    let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    let accepting = tokio::spawn(async move {
        // Owned here, so that no connection outlives the server.
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, handler) = (tls.clone(), Arc::clone(&handler));
            connections.spawn(async move {
                match tls {
                    None => converse(stream, handler).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            converse(stream, handler).await;
                        }
                    }
                }
            });
            while connections.try_join_next().is_some() {}
        }
    });
    Server { address, accepting }
}

impl Server {
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, handler: Handler) {
    let service = service_fn(move |request: Request<Incoming>| {
        let handler = Arc::clone(&handler);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, hyper::Error>(handler(Request::from_parts(head, body)).await)
        }
    });
    // A client may leave at any time, and a fault may break the connection: neither is the double's failure.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn text(answer: Answer) -> String {
    let body = answer.into_body().collect().await.unwrap_or_default().to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

pub fn json(status: StatusCode, body: &Value) -> Answer {
    let mut answer = Response::new(whole(body.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

pub fn whole(body: impl Into<Bytes>) -> UnsyncBoxBody<Bytes, io::Error> {
    Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// Does to an answer what a fault of the wire does; the cloud's own faults are for the double to put in its own form.
pub async fn spoil(answer: Answer, fault: Option<Fault>) -> Answer {
    match fault {
        None | Some(Fault::Throttle { .. } | Fault::Status(_) | Fault::WrongCrc) => answer,
        Some(Fault::BlackHole) => std::future::pending().await,
        Some(Fault::SlowBody) => answer.map(|_| StreamBody::new(stream::pending()).boxed_unsync()),
        Some(Fault::Bare(status)) => {
            let mut page = Response::new(whole("<html>it works</html>"));
            *page.status_mut() = StatusCode::from_u16(status).unwrap();
            page
        }
        Some(Fault::Garbage) => Response::new(whole(format!("<html>{}</html>", text(answer).await))),
        Some(Fault::Spill) => {
            let quoted = text(answer).await;
            let error = serde_json::json!({ "code": 500, "status": "INTERNAL", "message": quoted });
            json(StatusCode::INTERNAL_SERVER_ERROR, &serde_json::json!({ "error": error, "error_description": quoted }))
        }
        Some(Fault::TruncatedBody) => {
            let (mut head, body) = answer.into_parts();
            let mut body = body.collect().await.unwrap_or_default().to_bytes();
            head.headers.insert(header::CONTENT_LENGTH, body.len().into());
            let half = body.split_to(body.len() / 2);
            let broken = [Ok(Frame::data(half)), Err(io::Error::from(io::ErrorKind::ConnectionReset))];
            Response::from_parts(head, StreamBody::new(stream::iter(broken).boxed()).boxed_unsync())
        }
    }
}
