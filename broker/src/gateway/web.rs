//! The web port: a table of routes, each open to whoever reaches the port, so each with its own way to know its callers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::header::ALLOW;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::timeout;
use tonic::body::Body;

use super::answer::{self, Answer};
use crate::telemetry::{Samples, names};
use crate::transport::Limits;

/// Its callers are a few senders of events and the databases that fetch keys, and it must leave room for the others.
const CONNECTIONS: usize = 512;
const HANDSHAKES: usize = 128;
const STREAMS: u32 = 16;
const HEADER_BYTES: u32 = 16 * 1024;

/// The label of requests for what is not there, so that callers cannot invent label values.
const NO_ROUTE: &str = "_OTHER";

/// One thing that the port answers.
pub struct Route {
    method: Method,
    path: String,
    handler: Handler,
}

type Handler = Box<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Answer> + Send + Sync>;

/// The service under every connection of the port.
#[derive(Clone, Debug)]
pub struct Web(Arc<Table>);

struct Table {
    routes: Vec<Route>,
    deadline: Duration,
    answered: Mutex<BTreeMap<(String, u16), u64>>,
}

impl Route {
    /// The path is compared as it was sent, without its query.
    pub fn new<F>(
        method: Method,
        path: impl Into<String>,
        handler: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self { method, path: path.into(), handler: Box::new(move |request| Box::pin(handler(request))) }
    }
}

impl Web {
    pub fn new(routes: Vec<Route>, deadline: Duration) -> Self {
        Self(Arc::new(Table { routes, deadline, answered: Mutex::default() }))
    }

    /// What its connections may occupy: the patience is that of all listeners, the room its own.
    pub fn limits(all: &Limits) -> Limits {
        Limits {
            connections: CONNECTIONS,
            handshakes: HANDSHAKES,
            streams_per_connection: STREAMS,
            header_bytes: HEADER_BYTES,
            ..all.clone()
        }
    }

    pub fn samples(&self, out: &mut Samples) {
        for ((route, status), count) in &*self.0.answered.lock().unwrap_or_else(PoisonError::into_inner) {
            out.set(&names::WEB_REQUESTS, &[route, &status.to_string()], *count);
        }
    }
}

impl tower::Service<Request<Incoming>> for Web {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let table = Arc::clone(&self.0);
        Box::pin(async move { Ok(table.answer(request).await.map(Body::new)) })
    }
}

impl Table {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        let here = || self.routes.iter().filter(|route| route.path == path);
        let route = here().find(|route| route.method == *request.method());
        let label = here().next().map_or(NO_ROUTE, |route| &route.path);
        let answer = match route {
            Some(route) => timeout(self.deadline, (route.handler)(request)).await.unwrap_or_else(|_| too_late()),
            None => nothing_there(&here().map(|route| route.method.as_str()).collect::<Vec<_>>()),
        };
        self.count(label, answer.status());
        answer
    }

    fn count(&self, label: &str, status: StatusCode) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        *answered.entry((label.to_owned(), status.as_u16())).or_default() += 1;
    }
}

fn too_late() -> Answer {
    answer::text(StatusCode::SERVICE_UNAVAILABLE, "the request was not dealt with in time; send it again")
}

fn nothing_there(methods: &[&str]) -> Answer {
    if methods.is_empty() {
        return answer::text(StatusCode::NOT_FOUND, "there is nothing here; check the path");
    }
    let allowed = methods.join(", ");
    let mut refusal =
        answer::text(StatusCode::METHOD_NOT_ALLOWED, &format!("this path answers {allowed}; use one of them"));
    if let Ok(allowed) = HeaderValue::from_str(&allowed) {
        refusal.headers_mut().insert(ALLOW, allowed);
    }
    refusal
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.iter().map(|route| (&route.method, &route.path))).finish()
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}
