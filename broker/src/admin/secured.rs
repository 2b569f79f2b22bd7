//! The port over TLS: who asks for more than a probe is authenticated, decided and recorded as for `GetStatus`.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::timeout;
use tonic::body::Body;

use super::pages::{Answer, Pages, text};
use crate::admission::{Action, Circumstances, Gate, QuotaClass, Resource};
use crate::audit::{Draft, Log, Record};
use crate::clock::SharedClock;
use crate::error::{Failure, Reason};
use crate::identity::token::Token;
use crate::identity::{Authenticator, Caller, Certificate};
use crate::rpc::decided;
use crate::status::ReasonExt as _;
use crate::transport::{Connection, Limits, RequestIds};

/// A few probes, collectors and browsers.
const CONNECTIONS: usize = 64;
const HANDSHAKES: usize = 32;
const STREAMS: u32 = 16;
const HEADER_BYTES: u32 = 16 * 1024;

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

/// The service under every connection of the port.
#[derive(Clone, Debug)]
pub struct Door(Arc<Guard>);

/// What it asks before it shows a page.
#[derive(Debug)]
pub struct Guard {
    pub pages: Pages,
    pub authenticator: Arc<Authenticator>,
    pub gate: Arc<Gate>,
    pub log: Log,
    pub clock: SharedClock,
    pub request_ids: RequestIds,
    /// For a token's issuer to be heard.
    pub deadline: Duration,
}

impl Door {
    pub fn new(guard: Guard) -> Self {
        Self(Arc::new(guard))
    }
}

impl tower::Service<Request<Incoming>> for Door {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let door = Arc::clone(&self.0);
        Box::pin(async move { Ok(door.answer(&request).await.map(Body::new)) })
    }
}

impl Guard {
    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        if Pages::is_probe(request.uri().path()) {
            return self.pages.answer(request);
        }
        // Whoever is nobody is turned away without a record: strangers shall not fill the disk that every call needs.
        let caller = match timeout(self.deadline, self.caller(request)).await {
            Ok(Ok(caller)) => caller,
            Ok(Err(failure)) => return refusal(&failure),
            Err(_) => {
                return refusal(&Failure::new(Reason::Internal, "the token's issuer was not heard in time; try again"));
            }
        };
        let draft = self.open_draft(request, &caller);
        let admitted = self.admit(request, &caller, &draft);
        if let Err(failure) = &admitted {
            draft.note(|record| record.outcome = failure.reason().name());
        }
        match (admitted, draft.settle("OK").await) {
            (Ok(()), None | Some(Ok(_))) => self.pages.answer(request),
            (Ok(()), Some(Err(_))) => refusal(&Failure::new(
                Reason::AuditUnavailable,
                "the audit log cannot be written, so nothing is shown; /readyz has the reason",
            )),
            (Err(failure), _) => refusal(&failure),
        }
    }

    /// By a certificate, and a token beside it where there is one.
    async fn caller(&self, request: &Request<Incoming>) -> Result<Caller, Failure> {
        let connection = connection(request)?;
        let caller = self.authenticator.authenticate(connection, request.headers()).await?;
        caller.filter(|_| connection.presented().is_some()).ok_or_else(|| {
            let message = "come with a client certificate whose holder policy permits GetStatus";
            Failure::new(Reason::CredentialMissing, message)
        })
    }

    fn open_draft(&self, request: &Request<Incoming>, caller: &Caller) -> Arc<Draft> {
        let connection = request.extensions().get::<Arc<Connection>>();
        let record = Record {
            peer: connection.map(|connection| connection.peer()),
            certificate: connection.and_then(|connection| connection.presented()).map(Certificate::thumbprint),
            caller: Some(caller.shared_id()),
            token: caller.token().map(Token::digest),
            request_id: self.request_ids.next(),
            method: "admin",
            action: Action::GetStatus.as_str(),
            ..Record::default()
        };
        Draft::open(self.log.clone(), Arc::clone(&self.clock), record)
    }

    fn admit(&self, request: &Request<Incoming>, caller: &Caller, draft: &Draft) -> Result<(), Failure> {
        let circumstances = Circumstances { now: self.clock.now(), peer: connection(request)?.peer().ip() };
        let asked = self.gate.admit(caller, Action::GetStatus, QuotaClass::Operate, Resource::Broker, circumstances);
        draft.note(|record| {
            record.resource = Some(Resource::Broker.name());
            (record.decision, record.policy) = decided(&asked);
        });
        asked.map(drop).map_err(|refused| refused.failure)
    }
}

fn connection(request: &Request<Incoming>) -> Result<&Arc<Connection>, Failure> {
    let connection = request.extensions().get::<Arc<Connection>>();
    connection.ok_or_else(|| Failure::new(Reason::Internal, "the request came without its connection; report this"))
}

fn refusal(failure: &Failure) -> Answer {
    let status = if failure.reason() == Reason::CredentialMissing {
        StatusCode::UNAUTHORIZED
    } else if [Reason::AuditUnavailable, Reason::Internal].contains(&failure.reason()) {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::FORBIDDEN
    };
    text(status, format!("{}: {}\n", failure.reason().name(), failure.message()))
}
