//! One call as its handler sees it, and the one way by which its result leaves.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::methods::Method;
use crate::admission::{Action, Circumstances, Gate, Inquiry, Permit, Refused, Resource};
use crate::audit::{Decision, Draft, Receipt};
use crate::clock::SharedClock;
use crate::digest::Digest;
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
            Some(Err(unavailable)) if draft.is_announced() => Err(half_recorded(unavailable).into()),
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

/// The change is on record as begun, so an auditor knows of it; the caller must not take this for "not done".
fn half_recorded(cause: crate::audit::Unavailable) -> Failure {
    let message = "the change was made, but the audit log failed before its outcome was recorded; look at the resource \
                   before you repeat it";
    Failure::new(Reason::AuditUnavailable, message).caused_by(cause)
}

impl Call {
    /// The method's own action.
    pub fn action(&self) -> Result<Action, Failure> {
        self.method
            .action()
            .ok_or_else(|| Failure::new(Reason::Internal, "this method has no action to be permitted; report this"))
    }

    /// Asks the gate for the method's own action; the decision goes on record.
    pub fn admit(&self, resource: Resource) -> Result<Permit, Failure> {
        self.admit_to(self.action()?, resource)
    }

    /// For a method whose action depends on what it is asked for.
    pub(super) fn admit_to(&self, action: Action, resource: Resource) -> Result<Permit, Failure> {
        let name = resource.name();
        let asked = self.ask(action, resource);
        self.draft.note(|record| {
            record.resource = Some(name);
            (record.decision, record.policy) = decided(&asked);
        });
        asked.map_err(|refused| refused.failure)
    }

    /// Asks the gate and leaves the record to the asker.
    pub(super) fn ask(&self, action: Action, resource: Resource) -> Result<Permit, Refused> {
        self.gate.admit(&self.caller, action, self.method.quota, resource, self.circumstances())
    }

    /// For a secret whose labels are to be looked up first.
    pub(super) fn inquire(&self, action: Action) -> Inquiry<'_> {
        self.gate.inquiry(&self.caller, action, self.method.quota, self.circumstances())
    }

    /// Whether policy would allow it, for leaving things out of a list. Not a permit, and not on record.
    pub fn may(&self, action: Action, resource: &Resource) -> bool {
        self.gate.allows(&self.caller, action, resource, self.circumstances())
    }

    /// For a list that has no resource of its own: counts the call, which no permit does.
    pub(super) fn meter(&self) -> Result<(), Failure> {
        self.gate.quota().take(&self.caller.shared_id(), self.method.quota, None)
    }

    /// Before anything is changed: the change goes on record as begun, or is not made.
    pub async fn announce(&self) -> Result<(), Failure> {
        self.draft.announce().await.map_err(|cause| {
            let message =
                "the audit log cannot be written, so nothing was changed; retry, and tell an operator if it lasts";
            Failure::new(Reason::AuditUnavailable, message).caused_by(cause)
        })
    }

    fn circumstances(&self) -> Circumstances {
        Circumstances { now: self.clock.now(), peer: self.peer.ip() }
    }
}

/// What goes on record, and by which policies.
pub fn decided(asked: &Result<Permit, Refused>) -> (Decision, Option<Digest>) {
    match asked {
        Ok(permit) => (Decision::Allow, Some(permit.policy())),
        Err(refused) => {
            let decision = match refused.allowed {
                Some(true) => Decision::Allow,
                Some(false) => Decision::Deny,
                None => Decision::None,
            };
            (decision, Some(refused.policy))
        }
    }
}
