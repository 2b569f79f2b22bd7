//! Key Vault's errors: a status, a code, and where it says more an inner code.

use http::StatusCode;
use serde_json::{Value, json};

use super::super::faults::Fault;
use super::super::http::{Answer, json as answer};

#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    code: &'static str,
    inner: Option<&'static str>,
    message: String,
    retry_after: Option<u64>,
}

impl Refusal {
    pub(super) fn bad_parameter(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadParameter", None, message)
    }

    pub(super) fn not_found(what: &str) -> Self {
        let message = format!("{what} was not found in this key vault.");
        Self::new(StatusCode::NOT_FOUND, "SecretNotFound", None, message)
    }

    pub(super) fn forbidden(inner: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", Some(inner), "The operation is not allowed.")
    }

    pub(super) fn conflict(inner: &'static str) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", Some(inner), "The name belongs to a deleted secret.")
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", None, "The request needs a valid Bearer token.")
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "BadMethod", None, "There is no such operation.")
    }

    /// What of a fault is the vault's own to say.
    pub(super) fn of(fault: Fault) -> Option<Self> {
        match fault {
            Fault::Throttle { retry_after } => {
                let message = "The request was not processed, because too many were received.";
                let mut refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "Throttled", None, message);
                refusal.retry_after = retry_after.map(|wait| wait.as_secs());
                Some(refusal)
            }
            Fault::Status(status) => {
                Some(Self::new(StatusCode::from_u16(status).unwrap(), "InternalServerError", None, "Something failed."))
            }
            Fault::Bare(_)
            | Fault::BlackHole
            | Fault::SlowBody
            | Fault::TruncatedBody
            | Fault::Garbage
            | Fault::WrongCrc
            | Fault::Spill => None,
        }
    }

    pub(super) fn answer(&self) -> Answer {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(inner) = self.inner {
            error["innererror"] = json!({ "code": inner });
        }
        let mut answer = answer(self.status, &Value::from_iter([("error", error)]));
        if let Some(seconds) = self.retry_after {
            answer.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
        }
        answer
    }

    fn new(status: StatusCode, code: &'static str, inner: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, code, inner, message: message.into(), retry_after: None }
    }
}
