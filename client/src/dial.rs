use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use crate::chance;

/// Why there is no connection to the broker. Nothing was sent.
#[derive(Clone, Debug, Error)]
pub enum Unreachable {
    #[error("the host {0} has no address; see the endpoint and the name service")]
    Host(String, #[source] Arc<io::Error>),
    #[error("nothing answers at {0}; see that the broker runs there, and that the way to it is open")]
    Tcp(String, #[source] Arc<io::Error>),
    #[error("no TLS with {0}; see that its certificate has the expected name and comes from a CA that is trusted here")]
    Tls(String, #[source] Arc<io::Error>),
}

/// Makes connections: TCP to one of the host's addresses, then TLS.
#[derive(Clone)]
pub(crate) struct Dialer {
    target: Arc<Target>,
    state: Arc<Mutex<State>>,
}

struct Target {
    host: String,
    port: u16,
    name: ServerName<'static>,
}

struct State {
    config: Arc<ClientConfig>,
    failures: u32,
    /// Until when the last failure answers for further attempts, so that callers who wait do not knock all the time.
    settled: Option<(Instant, Unreachable)>,
}

/// For one address, TLS included. Another may answer.
const PATIENCE: Duration = Duration::from_secs(5);
const SHORTEST_REST: Duration = Duration::from_millis(20);
const LONGEST_REST: Duration = Duration::from_secs(1);

pub(crate) type Connection = TokioIo<TlsStream<TcpStream>>;

impl Dialer {
    /// `None` where the name can be no server's.
    pub(crate) fn new(host: &str, port: u16, name: Option<&str>, config: Arc<ClientConfig>) -> Option<Self> {
        let name = ServerName::try_from(name.unwrap_or(host).to_owned()).ok()?;
        let state = Mutex::new(State { config, failures: 0, settled: None });
        Some(Self { target: Arc::new(Target { host: host.to_owned(), port, name }), state: Arc::new(state) })
    }

    pub(crate) fn use_from_now_on(&self, config: Arc<ClientConfig>) {
        let mut state = self.state();
        state.config = config;
        state.settled = None;
    }

    pub(crate) async fn dial(self) -> Result<Connection, Unreachable> {
        let connector = {
            let state = self.state();
            if let Some((until, unreachable)) = &state.settled
                && Instant::now() < *until
            {
                return Err(unreachable.clone());
            }
            TlsConnector::from(Arc::clone(&state.config))
        };
        let outcome = self.target.reach(connector).await;
        let mut state = self.state();
        match &outcome {
            Ok(_) => (state.failures, state.settled) = (0, None),
            Err(unreachable) => {
                let rest = SHORTEST_REST.saturating_mul(1 << state.failures.min(10)).min(LONGEST_REST);
                state.failures = state.failures.saturating_add(1);
                state.settled = Some((Instant::now() + chance::around(rest), unreachable.clone()));
            }
        }
        outcome
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target {
    async fn reach(&self, connector: TlsConnector) -> Result<Connection, Unreachable> {
        let nowhere = |error| Unreachable::Host(self.host.clone(), Arc::new(error));
        let mut addresses: Vec<_> = lookup_host((&*self.host, self.port)).await.map_err(nowhere)?.collect();
        if addresses.is_empty() {
            return Err(nowhere(io::ErrorKind::NotFound.into()));
        }
        // Clients spread over replicas, and each meets the others after one that is down.
        let start = chance::below(addresses.len());
        addresses.rotate_left(start);
        let mut last = None;
        for address in addresses {
            match self.reach_at(address, &connector).await {
                Ok(connection) => return Ok(connection),
                Err(unreachable) => last = Some(unreachable),
            }
        }
        Err(last.unwrap_or_else(|| nowhere(io::ErrorKind::NotFound.into())))
    }

    async fn reach_at(&self, address: SocketAddr, connector: &TlsConnector) -> Result<Connection, Unreachable> {
        let place = || format!("{}:{} ({address})", self.host, self.port);
        let tcp = within(TcpStream::connect(address)).await;
        let tcp = tcp.map_err(|error| Unreachable::Tcp(place(), Arc::new(error)))?;
        // Without it answers wait for acknowledgements; a kernel that refuses changes nothing else.
        let _ = tcp.set_nodelay(true);
        let tls = within(connector.connect(self.name.clone(), tcp)).await;
        tls.map(TokioIo::new).map_err(|error| Unreachable::Tls(place(), Arc::new(error)))
    }
}

async fn within<T>(attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl Service<http::Uri> for Dialer {
    type Response = Connection;
    type Error = Unreachable;
    type Future = BoxFuture<'static, Result<Connection, Unreachable>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unreachable>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        Box::pin(self.clone().dial())
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dialer({}:{})", self.target.host, self.target.port)
    }
}
