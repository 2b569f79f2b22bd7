//! The port on loopback, without TLS.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::pages::{self, Answer, Pages};
use crate::browser;

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
#[derive(Clone, Debug)]
pub struct Admin {
    pages: Arc<Pages>,
    head_timeout: Duration,
}

impl Admin {
    pub fn new(pages: Pages) -> Self {
        Self { pages: Arc::new(pages), head_timeout: HEAD_TIMEOUT }
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
            let answer = answer(&pages, &request);
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

fn answer(pages: &Pages, request: &Request<Incoming>) -> Answer {
    // Probes and collectors ask by whatever name they know the broker by; a page of the web cannot pass for one.
    let is_for_page = request.uri().path() == "/" || browser::is_one(request.headers());
    if is_for_page && !pages::names_this_host(request) {
        let words = "this is for browsers on the broker's host; ask for it by localhost or 127.0.0.1\n";
        return pages::text(StatusCode::MISDIRECTED_REQUEST, words);
    }
    pages.answer(request)
}

/// Most likely there is no descriptor left: accepting again at once would only spin.
async fn refused(error: &io::Error) {
    tracing::warn!(cause = %error, "the admin port cannot accept a connection; raise the limit of open files if it lasts");
    sleep(ACCEPT_PAUSE).await;
}

#[cfg(test)]
#[path = "tests/plain.rs"]
mod tests;
