//! What every call passes through, in this order, between the connection and its handler.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Instrument as _;

use super::answer::Answer;
use super::arriving::{Arriving, LargeRequests};
use super::stream_end::{Opener, stream_end};
use super::{Connection, Drain, RequestIds};
use crate::admission::{Action, Gate};
use crate::audit::{Draft, Log, Record};
use crate::clock::SharedClock;
use crate::error::{Failure, Reason};
use crate::gateway::{Speech, Translator};
use crate::identity::token::Token;
use crate::identity::{Authenticator, Certificate};
use crate::rpc::{Access, AuditKind, Call, Method, Router, find, unrecorded};
use crate::status::ReasonExt as _;
use crate::telemetry::names::OTHER_METHOD;
use crate::telemetry::{self, Metrics, TraceContext, Traces};

const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// The service under every connection.
#[derive(Clone, Debug)]
pub struct Stack(Arc<Layers>);

#[derive(Debug)]
pub struct Layers {
    pub in_flight: Arc<Semaphore>,
    /// Places of open streams: one that is quiet for days shall not keep a call out.
    pub streams: Arc<Semaphore>,
    /// Places of health checks and schema look-ups: neither they nor the other calls can crowd the others out.
    pub quiet_in_flight: Arc<Semaphore>,
    pub drain: Drain,
    pub request_timeout: Duration,
    pub large_requests: LargeRequests,
    pub default_deadline: Duration,
    pub maximum_deadline: Duration,
    pub log: Log,
    pub clock: SharedClock,
    pub authenticator: Arc<Authenticator>,
    pub gate: Arc<Gate>,
    pub translator: Translator,
    pub router: Router,
    pub request_ids: RequestIds,
    pub metrics: Arc<Metrics>,
    pub traces: Traces,
}

impl Stack {
    pub fn new(layers: Layers) -> Self {
        Self(Arc::new(layers))
    }
}

impl tower::Service<Request<Incoming>> for Stack {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let layers = Arc::clone(&self.0);
        Box::pin(async move { Ok(layers.answer(request).await) })
    }
}

impl Layers {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let heard = match self.translator.hear(&request) {
            Ok(heard) => heard,
            Err(response) => {
                // Counted, not audited: it touches nothing. The code is what gRPC makes of such an answer.
                self.metrics.begin(usize::MAX).finish(Code::Unknown);
                return *response;
            }
        };
        let (place, method) = match find(request.uri().path()) {
            Some((place, method)) => (place, Some(method)),
            None => (usize::MAX, None),
        };
        let timer = self.metrics.begin(place);
        let streams = method.is_some_and(|method| method.streams);
        // Shed before anything is spent on the call. A shed call is counted, not audited: it touched nothing.
        let Some((slot, opening)) = self.take_places(method) else {
            self.metrics.failed(Reason::Overloaded.name());
            let response = refusal(overloaded());
            timer.finish(code_of(&response));
            return self.translator.answer(heard, method, response).await;
        };
        // An answer that is translated is made at once, and not when its first bytes are asked for.
        let translated = heard.speech != Speech::Grpc;
        let connection = translated.then(|| request.extensions().get::<Arc<Connection>>().cloned()).flatten();
        let mut response = self.traced(heard.speech, method, request).await;
        drop(opening);
        if let Some(connection) = connection {
            connection.answers().room().await;
        }
        let code = code_of(&response);
        let opener = response.extensions_mut().remove::<Opener>();
        let response = response.map(|body| {
            let answer = Answer::new(body, code, timer, slot);
            if !streams {
                return answer;
            }
            answer.until(stream_end(self.drain.clone(), Arc::clone(&self.authenticator), opener))
        });
        self.translator.answer(heard, method, response).await
    }

    /// The place that the answer keeps, and for a stream the one that it needs until it is open.
    fn take_places(
        &self,
        method: Option<&'static Method>,
    ) -> Option<(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>)> {
        let take = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned().ok();
        match method {
            Some(method) if method.audit == AuditKind::Quiet => Some((take(&self.quiet_in_flight)?, None)),
            Some(method) if method.streams => Some((take(&self.streams)?, Some(take(&self.in_flight)?))),
            Some(_) | None => Some((take(&self.in_flight)?, None)),
        }
    }

    async fn traced(
        &self,
        speech: Speech,
        method: Option<&'static Method>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let trace = self.traces.accept(request.headers());
        match self.traces.call_span(method.map_or(OTHER_METHOD, Method::name), &trace) {
            None => self.recorded(speech, method, request, &trace).await,
            Some(span) => {
                let response = self.recorded(speech, method, request, &trace).instrument(span.clone()).await;
                telemetry::finish(&span, code_of(&response));
                response
            }
        }
    }

    async fn recorded(
        &self,
        speech: Speech,
        method: Option<&'static Method>,
        request: Request<Incoming>,
        trace: &TraceContext,
    ) -> Response<Body> {
        let Some(method) = method else {
            let draft = self.open_draft(speech, ("unknown", ""), &request, trace);
            let refusal = noted(Some(&draft), unknown_method());
            return self.settle(&draft, refusal).await;
        };
        if method.audit == AuditKind::Quiet {
            return self.guarded(speech, method, request, None).await;
        }
        let action = method.action().map_or("", Action::as_str);
        let draft = self.open_draft(speech, (method.name(), action), &request, trace);
        let response = self.guarded(speech, method, request, Some(&draft)).await;
        let response = explained(&draft, response);
        self.settle(&draft, response).await
    }

    fn open_draft(
        &self,
        speech: Speech,
        (method, action): (&'static str, &'static str),
        request: &Request<Incoming>,
        trace: &TraceContext,
    ) -> Arc<Draft> {
        let connection = request.extensions().get::<Arc<Connection>>();
        let record = Record {
            peer: connection.map(|connection| connection.peer()),
            // Presented, and perhaps about to be refused.
            certificate: connection.and_then(|connection| connection.presented()).map(Certificate::thumbprint),
            request_id: self.request_ids.next(),
            trace_id: trace.trace_id,
            protocol: speech.name(),
            method,
            action,
            ..Record::default()
        };
        Draft::open(self.log.clone(), Arc::clone(&self.clock), record)
    }

    /// Inside the draft: neither a panic nor a deadline keeps the call from being recorded and answered.
    async fn guarded(
        &self,
        speech: Speech,
        method: &'static Method,
        request: Request<Incoming>,
        draft: Option<&Arc<Draft>>,
    ) -> Response<Body> {
        let deadline = match self.deadline(speech, method, request.headers()) {
            Ok(deadline) => deadline,
            Err(failure) => return noted(draft, failure),
        };
        let work = pin!(AssertUnwindSafe(self.authenticated(speech, method, request, draft)).catch_unwind());
        let outcome = match deadline {
            Duration::ZERO => Ok(Err(too_late(deadline))),
            deadline => tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| Ok(Err(too_late(deadline)))),
        };
        match outcome {
            Ok(Ok(response)) => response,
            Ok(Err(failure)) => noted(draft, failure),
            Err(_panic) => noted(draft, panicked()),
        }
    }

    async fn authenticated(
        &self,
        speech: Speech,
        method: &'static Method,
        request: Request<Incoming>,
        draft: Option<&Arc<Draft>>,
    ) -> Result<Response<Body>, Failure> {
        let mut request = request.map(|body| {
            let most = (!method.streams).then(|| self.translator.body_bytes(speech, method));
            Body::new(Arriving::new(body, self.request_timeout, most, &self.large_requests, draft.map(Arc::clone)))
        });
        let mut opener = None;
        if method.access != Access::Anyone {
            let connection = request.extensions().get::<Arc<Connection>>().cloned().ok_or_else(no_connection)?;
            let authenticated = self.authenticator.authenticate(&connection, request.headers()).await?;
            let caller = authenticated.ok_or_else(no_credential)?;
            if method.streams {
                opener = Some(Opener { connection: Arc::clone(&connection), caller: caller.clone() });
            }
            if let Some(draft) = draft {
                draft.note(|record| {
                    record.caller = Some(caller.shared_id());
                    record.token = caller.token().map(Token::digest);
                });
                request.extensions_mut().insert(Call {
                    method,
                    caller,
                    peer: connection.peer(),
                    gate: Arc::clone(&self.gate),
                    draft: Arc::clone(draft),
                    clock: Arc::clone(&self.clock),
                });
            }
        }
        let request = self.translator.request(speech, method, request).await?;
        let mut response = self.router.call(method, request).await;
        if let Some(opener) = opener {
            response.extensions_mut().insert(opener);
        }
        Ok(response)
    }

    /// The client's, within ours. A stream's is to its opening, since until then it takes a place of the calls'; once open, it
    /// ends when its client or its credential does.
    fn deadline(&self, speech: Speech, method: &Method, headers: &HeaderMap) -> Result<Duration, Failure> {
        match speech.timeout(headers)? {
            Some(asked) if !method.streams => Ok(asked.min(self.maximum_deadline)),
            Some(_) | None => Ok(self.default_deadline),
        }
    }

    /// Puts the call on record, if its handler has not; an answer that cannot be recorded does not leave.
    async fn settle(&self, draft: &Draft, response: Response<Body>) -> Response<Body> {
        if code_of(&response) != Code::Ok {
            // What was closed before it failed is a success that could not be recorded.
            self.metrics.failed(draft.outcome().unwrap_or(Reason::AuditUnavailable.name()));
        }
        match draft.settle("OK").await {
            None | Some(Ok(_)) => response,
            Some(Err(unavailable)) => refusal(unrecorded(unavailable)),
        }
    }
}

/// tonic refuses what it cannot decode before a handler runs; its refusal gets a reason of ours.
fn explained(draft: &Arc<Draft>, response: Response<Body>) -> Response<Body> {
    let code = code_of(&response);
    if code == Code::Ok || response.headers().contains_key("grpc-status-details-bin") {
        return response;
    }
    let accepted = response.headers().get(ACCEPT_ENCODING).cloned();
    let failure = if matches!(code, Code::OutOfRange | Code::ResourceExhausted) {
        let message = "the message is larger than [limits] message_bytes allows; send less at a time";
        Failure::new(Reason::MessageTooLarge, message)
    } else if code == Code::Unimplemented {
        Failure::new(Reason::Unimplemented, "compressed messages are not accepted; send it uncompressed")
    } else {
        let message = "the message could not be decoded; check that it was made from this version of the contract";
        Failure::new(Reason::InvalidArgument, message)
    };
    let mut explained = noted(Some(draft), failure);
    if let Some(accepted) = accepted {
        // Tells the client what it may use instead.
        explained.headers_mut().insert(ACCEPT_ENCODING, accepted);
    }
    explained
}

/// For the record and for the caller.
fn noted(draft: Option<&Arc<Draft>>, failure: Failure) -> Response<Body> {
    if let Some(draft) = draft {
        draft.note(|record| record.outcome = failure.reason().name());
    }
    refusal(failure)
}

fn refusal(failure: Failure) -> Response<Body> {
    Status::from(failure).into_http()
}

/// An answer without a status in its headers has it in its trailers: its message was accepted and encoded.
fn code_of(response: &Response<Body>) -> Code {
    response.headers().get("grpc-status").map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}

fn overloaded() -> Failure {
    let message = "the broker has as many calls under way, or streams open, as [limits] calls_in_flight and streams allow; retry \
                   after a moment";
    Failure::new(Reason::Overloaded, message).retry_after(Duration::from_millis(500))
}

fn unknown_method() -> Failure {
    Failure::new(Reason::MethodUnknown, "there is no such method; server reflection or `grpcurl list` shows them all")
}

fn too_late(deadline: Duration) -> Failure {
    let message =
        format!("the call was not finished within {deadline:?}; what it asked for may or may not have been done");
    Failure::new(Reason::DeadlineExceeded, message)
}

fn panicked() -> Failure {
    Failure::new(Reason::Internal, "the call failed in an unforeseen way; please report it with the broker's log")
}

fn no_connection() -> Failure {
    Failure::new(Reason::Internal, "the call came without its connection; report this")
}

fn no_credential() -> Failure {
    Failure::new(
        Reason::CredentialMissing,
        "no credential was presented; connect with a client certificate, send a bearer token, or both",
    )
}
