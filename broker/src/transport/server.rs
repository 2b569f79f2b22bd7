//! From a listening socket to HTTP requests, each with its `Arc<Connection>`.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{Join, Map, Ready, join, ready};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tonic::body::Body;
use tower::ServiceExt;
use tower::util::Oneshot;

use super::connection::{Connection, Protocol};
use super::deadline::Punctual;
use super::descriptors::are_exhausted;
use super::drain::Drain;
use super::frames::FrameMeter;
use super::handshake::{HandshakeFailure, HandshakeSlot, Handshakes};
use super::http::Http;
use super::patience::{Answers, Untaken, Watched};
use super::settings::Limits;
use super::stats::{TransportStats, count};
use super::tls::Tls;

/// What the peer must send soon after its handshake: HTTP/2's preface, or the beginning of an HTTP/1 request.
const HTTP2_PREFACE: usize = 24;
const HTTP1_BEGINNING: usize = 1;

/// One series for all listeners, so that an id names one connection of the process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Serves `listener` until `drain` has started and the last connection is gone. Dropping the future ends them all.
pub async fn serve<S>(listener: TcpListener, tls: Arc<Tls>, limits: &Limits, service: S, drain: Drain)
where
    S: tower::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let _held = drain.hold();
    let handshakes = Handshakes::new(limits.handshakes, tls.clock());
    let untaken = Arc::<Untaken>::default();
    let server = Arc::new(Server {
        http: Http::new(limits, drain.tasks().clone(), Arc::clone(&untaken), Arc::clone(tls.stats())),
        untaken,
        limits: limits.clone(),
        tls,
        drain: drain.clone(),
    });
    let mut connections = JoinSet::new();
    let mut pause = ACCEPT_PAUSE;
    let mut full = false;
    loop {
        let accepted = tokio::select! {
            () = drain.started() => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        // A burst of new connections must not put off the ended ones for long.
        while let Some(ended) = connections.try_join_next() {
            report(ended);
        }
        match accepted {
            Ok((stream, peer)) => {
                pause = ACCEPT_PAUSE;
                count(&server.stats().accepted);
                if server.is_full(peer, &mut full) {
                    continue;
                }
                let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
                let slot = tokio::select! {
                    () = drain.started() => break,
                    slot = handshakes.begin(id) => slot,
                };
                let server = Arc::clone(&server);
                connections.spawn(server.connection(id, stream, peer, slot, service.clone()));
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: trying again at once would only burn the processor.
                count(&server.stats().accept_errors);
                if are_exhausted(&error) {
                    handshakes.end_oldest();
                }
                tracing::warn!(%error, "cannot accept connections, pausing");
                tokio::select! {
                    () = drain.started() => break,
                    () = sleep(pause) => pause = (pause * 2).min(ACCEPT_PAUSE_MAX),
                }
            }
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

/// What all connections of one listener share.
struct Server {
    http: Http,
    untaken: Arc<Untaken>,
    limits: Limits,
    tls: Arc<Tls>,
    drain: Drain,
}

impl Server {
    async fn connection<S>(
        self: Arc<Self>,
        id: u64,
        stream: TcpStream,
        peer: SocketAddr,
        slot: HandshakeSlot,
        service: S,
    ) where
        S: tower::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
    {
        let Some((stream, connection)) = self.handshake(id, stream, peer, &slot).await else {
            return;
        };
        drop(slot);
        let Some(_open) = self.stats().try_open(self.limits.connections) else {
            count(&self.stats().refused_full);
            return;
        };
        self.calls(stream, Arc::new(connection), service).await;
    }

    async fn handshake(
        &self,
        id: u64,
        stream: TcpStream,
        peer: SocketAddr,
        slot: &HandshakeSlot,
    ) -> Option<(TlsStream<TcpStream>, Connection)> {
        // A socket that is already dead fails in the handshake, which tells it better.
        let _ = stream.set_nodelay(true);
        let local = stream.local_addr().ok()?;
        let material = self.tls.current();
        let shake = slot.shake(stream, peer, material.server(), self.limits.handshake_timeout);
        let shaken = tokio::select! {
            () = self.drain.started() => return None,
            shaken = shake => shaken,
        };
        let stream = match shaken {
            Ok(stream) => stream,
            Err(failure) => {
                self.stats().handshake_failed(failure);
                return None;
            }
        };
        let tls = Arc::clone(&self.tls);
        let (_, session) = stream.get_ref();
        let answers = Answers::new(Arc::clone(&self.untaken));
        match Connection::new(id, (local, peer), session, tls, &material, answers) {
            Ok(connection) => Some((stream, connection)),
            Err(error) => {
                tracing::debug!(%peer, %error, "client certificate refused after the handshake");
                self.stats().handshake_failed(HandshakeFailure::BadCertificate);
                None
            }
        }
    }

    async fn calls<S>(&self, stream: TlsStream<TcpStream>, connection: Arc<Connection>, service: S)
    where
        S: tower::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
    {
        let protocol = connection.protocol();
        let first_bytes = match protocol {
            Protocol::Http2 => HTTP2_PREFACE,
            Protocol::Http1 => HTTP1_BEGINNING,
        };
        let stream = Punctual::new(
            stream,
            first_bytes,
            self.limits.handshake_timeout,
            self.limits.keepalive_interval + self.limits.keepalive_timeout,
            (protocol == Protocol::Http2).then(|| FrameMeter::new(self.tls.clock())),
            Arc::clone(self.tls.stats()),
        );
        let calls = Calls { service, connection: Arc::clone(&connection) };
        let stream = TokioIo::new(stream);
        match protocol {
            Protocol::Http2 => {
                let http = self.http.http2.serve_connection(stream, calls);
                self.see_out(&connection, http, http2::Connection::graceful_shutdown).await;
            }
            Protocol::Http1 => {
                let http = self.http.http1.serve_connection(stream, calls);
                self.see_out(&connection, http, http1::Connection::graceful_shutdown).await;
            }
        }
    }

    /// To its end: the peer's, a drain's, or that of the certificate it came with.
    async fn see_out<H>(&self, connection: &Connection, http: H, shut_down: impl FnOnce(Pin<&mut H>))
    where
        H: Future<Output = hyper::Result<()>>,
    {
        let mut http = pin!(http);
        tokio::select! {
            ended = after_the_others(http.as_mut()) => return self.ended(connection, ended),
            () = self.drain.started() => {}
            () = connection.retired() => count(&self.stats().retired),
        }
        shut_down(http.as_mut());
        match timeout(self.limits.drain_grace, after_the_others(http)).await {
            Ok(ended) => self.ended(connection, ended),
            Err(_) => {
                count(&self.stats().cut_off);
                tracing::warn!(peer = %connection.peer(), connection = connection.id(), "connection closed with calls under way, the grace has passed");
            }
        }
    }

    fn ended(&self, connection: &Connection, ended: hyper::Result<()>) {
        if let Err(error) = ended {
            count(&self.stats().broken);
            tracing::debug!(peer = %connection.peer(), connection = connection.id(), %error, "connection broken off");
        }
    }

    fn stats(&self) -> &TransportStats {
        self.tls.stats()
    }

    fn is_full(&self, peer: SocketAddr, was_full: &mut bool) -> bool {
        let full = self.stats().open() >= self.limits.connections;
        if full {
            count(&self.stats().refused_full);
            if !*was_full {
                tracing::warn!(%peer, limit = self.limits.connections, "connection limit reached, refusing new ones");
            }
        }
        *was_full = full;
        full
    }
}

/// Polls a connection only after whatever else is ready, so that the answers of many calls leave in one write. Woken by
/// the first of them, it would write that one at once and alone.
fn after_the_others<F: Future>(mut connection: Pin<&mut F>) -> impl Future<Output = F::Output> {
    let mut waited = false;
    poll_fn(move |cx| {
        waited = !waited;
        if waited {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        connection.as_mut().poll(cx)
    })
}

/// Hands a connection's calls to the service, each with the connection in its extensions.
struct Calls<S> {
    service: S,
    connection: Arc<Connection>,
}

type Answered = (Result<Response<Body>, Infallible>, Arc<Connection>);
type Watching = Result<Response<Watched<Body>>, Infallible>;

impl<S> hyper::service::Service<Request<Incoming>> for Calls<S>
where
    S: tower::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone,
{
    type Response = Response<Watched<Body>>;
    type Error = Infallible;
    type Future = Map<Join<Oneshot<S, Request<Incoming>>, Ready<Arc<Connection>>>, fn(Answered) -> Watching>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(Arc::clone(&self.connection));
        let answered = join(self.service.clone().oneshot(request), ready(Arc::clone(&self.connection)));
        answered.map(|(answer, connection)| answer.map(|answer| answer.map(|body| Watched::new(body, connection))))
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Waker;

    use futures_util::future::BoxFuture;

    use super::*;

    const CALLS: usize = 32;

    /// How often a connection writes while its calls are answered, each of which wakes it.
    async fn writes(
        connection: impl FnOnce(Arc<AtomicUsize>, std::sync::mpsc::Sender<Waker>) -> BoxFuture<'static, usize>,
    ) -> usize {
        let answered = Arc::new(AtomicUsize::new(0));
        let (sender, wakers) = std::sync::mpsc::channel();
        let served = tokio::spawn(connection(Arc::clone(&answered), sender));
        let waker = tokio::task::spawn_blocking(move || wakers.recv().unwrap()).await.unwrap();
        let calls = tokio::spawn(async move {
            for _ in 0..CALLS {
                let (answered, waker) = (Arc::clone(&answered), waker.clone());
                tokio::spawn(async move {
                    answered.fetch_add(1, Ordering::Relaxed);
                    waker.wake();
                });
            }
        });
        calls.await.unwrap();
        served.await.unwrap()
    }

    fn written(answered: Arc<AtomicUsize>, wakers: std::sync::mpsc::Sender<Waker>) -> impl Future<Output = usize> {
        let (mut writes, mut written) = (0, 0);
        poll_fn(move |cx| {
            let answered = answered.load(Ordering::Relaxed);
            if answered > written {
                (writes, written) = (writes + 1, answered);
            }
            let _ = wakers.send(cx.waker().clone());
            if written == CALLS { Poll::Ready(writes) } else { Poll::Pending }
        })
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn answers_that_are_ready_together_leave_together() {
        let at_once = writes(|answered, wakers| Box::pin(written(answered, wakers))).await;
        assert_eq!(at_once, CALLS, "the runtime has become kinder: nothing has to wait any more");
        let gathered =
            writes(|answered, wakers| Box::pin(async move { after_the_others(pin!(written(answered, wakers))).await }));
        assert!(gathered.await <= 2);
    }
}
