//! The admin port: is it alive, is it ready, what does it count.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Metrics, prometheus};

const CONNECTIONS: usize = 64;
/// For a request's head, and for a kept-alive connection to send its next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// However slowly its answers are read, or however many it asks for, a connection ends after this.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
const HEAD_BYTES: usize = 8 * 1024;
const HEADERS: usize = 32;
/// Answers under way at the stop may finish within this.
const STOP_GRACE: Duration = Duration::from_secs(1);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers on a listener that is bound already.
#[derive(Clone)]
pub struct Admin {
    pages: Arc<Pages>,
    head_timeout: Duration,
}

struct Pages {
    metrics: Arc<Metrics>,
    /// Why calls should go elsewhere; empty when ready.
    obstacles: Obstacles,
    status: Option<StatusPage>,
}

type Obstacles = Box<dyn Fn() -> Vec<String> + Send + Sync>;
type StatusPage = Box<dyn Fn() -> String + Send + Sync>;

impl Admin {
    /// `obstacles` names each reason not to be ready in one line, such as `draining`.
    pub fn new(metrics: Arc<Metrics>, obstacles: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        let pages = Pages { metrics, obstacles: Box::new(obstacles), status: None };
        Self { pages: Arc::new(pages), head_timeout: HEAD_TIMEOUT }
    }

    /// Adds a page at `/`, in HTML.
    #[must_use]
    pub fn with_status_page(mut self, page: impl Fn() -> String + Send + Sync + 'static) -> Self {
        if let Some(pages) = Arc::get_mut(&mut self.pages) {
            pages.status = Some(Box::new(page));
        }
        self
    }

    /// Until stopped. Its connections end with it.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            // Room first: whoever finds none waits in the kernel's own queue, which is bounded too.
            let permit = tokio::select! {
                () = stop.cancelled() => break,
                permit = Arc::clone(&room).acquire_owned() => permit,
            };
            let stream = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            while connections.try_join_next().is_some() {}
            match stream {
                Ok((stream, _)) => {
                    let connection = self.clone().connection(stream, stop.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => refused(&error).await,
            }
        }
        let finished = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(STOP_GRACE, finished).await;
    }

    async fn connection(self, stream: TcpStream, stop: CancellationToken) {
        let pages = self.pages;
        let service = service_fn(move |request| {
            let answer = pages.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.head_timeout)
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        // What a client did wrong on its own connection concerns nobody else.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stop.cancelled() => {}
            () = sleep(CONNECTION_LIFE) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = timeout(STOP_GRACE, connection).await;
    }
}

impl Pages {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let page: fn(&Self) -> Response<Full<Bytes>> = match request.uri().path() {
            "/healthz" => |_| text(StatusCode::OK, "ok\n"),
            "/readyz" => Self::readiness,
            "/metrics" => |pages| reply(StatusCode::OK, prometheus::CONTENT_TYPE, pages.metrics.prometheus()),
            "/" if self.status.is_some() => Self::status,
            _ => {
                return text(StatusCode::NOT_FOUND, "not found; there are /healthz, /readyz and /metrics\n");
            }
        };
        // A HEAD answer is a GET answer whose body hyper leaves out.
        if *request.method() == Method::GET || *request.method() == Method::HEAD {
            return page(self);
        }
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        refusal
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        let obstacles = (self.obstacles)();
        if obstacles.is_empty() {
            return text(StatusCode::OK, "ready\n");
        }
        text(StatusCode::SERVICE_UNAVAILABLE, obstacles.join("\n") + "\n")
    }

    fn status(&self) -> Response<Full<Bytes>> {
        let page = self.status.as_ref().map(|status| status()).unwrap_or_default();
        reply(StatusCode::OK, "text/html; charset=utf-8", page)
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    reply(status, "text/plain; charset=utf-8", body)
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Most likely there is no descriptor left: accepting again at once would only spin.
async fn refused(error: &io::Error) {
    tracing::warn!(cause = %error, "the admin port cannot accept a connection; raise the limit of open files if it lasts");
    sleep(ACCEPT_PAUSE).await;
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("head_timeout", &self.head_timeout).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tests/admin.rs"]
mod tests;
