//! One call as its handler sees it, and the one way by which its result leaves.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::methods::Method;
use crate::admission::{Action, Circumstances, Gate, Permit, Resource};
use crate::audit::{Decision, Draft, Receipt};
use crate::clock::SharedClock;
use crate::error::{Failure, Reason};
use crate::identity::Caller;
use crate::status::ReasonExt;

/// Put into the request by [`crate::transport::Stack`] once the caller is known.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: &'static Method,
    pub caller: Caller,
    pub peer: SocketAddr,
    pub gate: Arc<Gate>,
    pub draft: Arc<Draft>,
    pub clock: SharedClock,
}

/// Runs a handler. What it returns is not an answer yet but a way to make one from an audit receipt, so that nothing
/// can leave before the call is on record.
pub(super) async fn answer<M, T, D, F>(
    request: Request<M>,
    handle: impl FnOnce(Call, M) -> F,
) -> Result<Response<T>, Status>
where
    F: Future<Output = Result<D, Failure>>,
    D: FnOnce(&Receipt) -> T,
{
    let (_, mut extensions, message) = request.into_parts();
    let Some(call) = extensions.remove::<Call>() else {
        return Err(Failure::new(Reason::Internal, "the call reached its handler unauthenticated; report this").into());
    };
    let draft = Arc::clone(&call.draft);
    match handle(call, message).await {
        Ok(disclose) => match draft.settle("OK").await {
            Some(Ok(receipt)) => Ok(Response::new(disclose(&receipt))),
            Some(Err(unavailable)) => Err(unrecorded(unavailable).into()),
            None => Err(Failure::new(Reason::Internal, "the call was put on record twice; report this").into()),
        },
        Err(failure) => {
            draft.note(|record| record.outcome = failure.reason().name());
            Err(failure.into())
        }
    }
}

/// [`answer`] for results that hold nothing secret.
pub(super) async fn reply<M, T, F>(
    request: Request<M>,
    handle: impl FnOnce(Call, M) -> F,
) -> Result<Response<T>, Status>
where
    F: Future<Output = Result<T, Failure>>,
{
    answer(request, |call, message| {
        let handled = handle(call, message);
        async move { handled.await.map(|result| |_: &Receipt| result) }
    })
    .await
}

pub fn unrecorded(cause: crate::audit::Unavailable) -> Failure {
    let message = "the audit log cannot be written, so nothing is handed out; retry, and tell an operator if it lasts";
    Failure::new(Reason::AuditUnavailable, message).caused_by(cause)
}

impl Call {
    /// Asks the gate for this method's own action.
    pub fn admit(&self, resource: Resource) -> Result<Permit, Failure> {
        match self.method.action() {
            Some(action) => self.admit_to(action, resource),
            None => Err(Failure::new(Reason::Internal, "this method has no action to be permitted; report this")),
        }
    }

    /// Whether policy would allow it, for leaving things out of a list. Not a permit, and not on record.
    pub fn may(&self, action: Action, resource: Resource) -> bool {
        self.gate.admit(&self.caller, action, resource, self.circumstances()).is_ok()
    }

    fn circumstances(&self) -> Circumstances {
        Circumstances { now: self.clock.now(), peer: self.peer.ip() }
    }

    pub fn admit_to(&self, action: Action, resource: Resource) -> Result<Permit, Failure> {
        let name = resource.name();
        let outcome = self.gate.admit(&self.caller, action, resource, self.circumstances());
        self.draft.note(|record| {
            record.resource = Some(name);
            match &outcome {
                Ok(permit) => (record.decision, record.policy) = (Decision::Allow, Some(permit.policy())),
                Err(denied) => (record.decision, record.policy) = (Decision::Deny, Some(denied.policy)),
            }
        });
        outcome.map_err(|denied| denied.failure)
    }
}

/// For methods of the contract that this version does not serve.
pub(super) async fn not_yet<T>(method: &str) -> Result<T, Failure> {
    let message = format!("{method} is part of the contract but not of this version; GetStatus tells the version");
    Err(Failure::new(Reason::Unimplemented, message))
}
