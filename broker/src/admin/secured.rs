//! The port over TLS: who asks for more than a probe is authenticated, decided and recorded as for `GetStatus`.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tonic::body::Body;

use super::pages::{Answer, Pages, text};
use crate::admission::{Action, Circumstances, Gate, QuotaClass, Resource};
use crate::audit::{Draft, Log, Record};
use crate::clock::SharedClock;
use crate::error::{Failure, Reason};
use crate::identity::token::Token;
use crate::identity::{Authenticator, Certificate};
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
pub struct Door(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pages: Pages,
    authenticator: Arc<Authenticator>,
    gate: Arc<Gate>,
    log: Log,
    clock: SharedClock,
    request_ids: RequestIds,
}

impl Door {
    pub fn new(
        pages: Pages,
        authenticator: Arc<Authenticator>,
        gate: Arc<Gate>,
        log: Log,
        clock: SharedClock,
        request_ids: RequestIds,
    ) -> Self {
        Self(Arc::new(Inner { pages, authenticator, gate, log, clock, request_ids }))
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

impl Inner {
    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        if Pages::is_probe(request.uri().path()) {
            return self.pages.answer(request);
        }
        let draft = self.open_draft(request);
        let admitted = self.admit(request, &draft).await;
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

    fn open_draft(&self, request: &Request<Incoming>) -> Arc<Draft> {
        let connection = request.extensions().get::<Arc<Connection>>();
        let record = Record {
            peer: connection.map(|connection| connection.peer()),
            certificate: connection.and_then(|connection| connection.presented()).map(Certificate::thumbprint),
            request_id: self.request_ids.next(),
            method: "admin",
            action: Action::GetStatus.as_str(),
            ..Record::default()
        };
        Draft::open(self.log.clone(), Arc::clone(&self.clock), record)
    }

    async fn admit(&self, request: &Request<Incoming>, draft: &Draft) -> Result<(), Failure> {
        let connection = request
            .extensions()
            .get::<Arc<Connection>>()
            .ok_or_else(|| Failure::new(Reason::Internal, "the request came without its connection; report this"))?;
        let caller = self.authenticator.authenticate(connection, request.headers()).await?.ok_or_else(|| {
            Failure::new(
                Reason::CredentialMissing,
                "come with a client certificate whose holder policy permits GetStatus",
            )
        })?;
        let circumstances = Circumstances { now: self.clock.now(), peer: connection.peer().ip() };
        let asked = self.gate.admit(&caller, Action::GetStatus, QuotaClass::Operate, Resource::Broker, circumstances);
        draft.note(|record| {
            record.caller = Some(caller.shared_id());
            record.token = caller.token().map(Token::digest);
            record.resource = Some(Resource::Broker.name());
            (record.decision, record.policy) = decided(&asked);
        });
        asked.map(drop).map_err(|refused| refused.failure)
    }
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
