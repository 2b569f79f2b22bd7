//! An error as Google tells it: a canonical code, in JSON with its HTTP status.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::doubles::faults::Fault;
use crate::doubles::http::{self as wire, Answer};

#[derive(Clone, Debug)]
pub(super) struct Refusal {
    code: Code,
    /// Where it is not the one that belongs to the code.
    http: Option<u16>,
    message: String,
    details: Vec<Value>,
    retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, http: None, message: message.into(), details: Vec::new(), retry_after: None }
    }

    pub(super) fn unauthenticated() -> Self {
        Self::new(
            Code::Unauthenticated,
            "Request had invalid authentication credentials. Expected OAuth 2 access token.",
        )
        .because("ACCESS_TOKEN_TYPE_UNSUPPORTED")
    }

    pub(super) fn denied(permission: &str, resource: &str) -> Self {
        let message = format!("Permission '{permission}' denied for resource '{resource}' (or it may not exist).");
        Self::new(Code::PermissionDenied, message).because("IAM_PERMISSION_DENIED")
    }

    /// The faults that come in Google's own form.
    pub(super) fn of(fault: Fault) -> Option<Self> {
        match fault {
            Fault::Throttle { retry_after } => {
                let mut throttled = Self::new(Code::ResourceExhausted, "Quota exceeded for quota metric.")
                    .because("RATE_LIMIT_EXCEEDED");
                throttled.retry_after = retry_after;
                Some(throttled)
            }
            Fault::Status(status) => {
                let code = match status {
                    400 => Code::InvalidArgument,
                    401 => Code::Unauthenticated,
                    403 => Code::PermissionDenied,
                    404 => Code::NotFound,
                    429 => Code::ResourceExhausted,
                    503 => Code::Unavailable,
                    504 => Code::DeadlineExceeded,
                    _ => Code::Internal,
                };
                let mut refusal = Self::new(code, "A fault was switched on.");
                refusal.http = Some(status);
                Some(refusal)
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

    fn because(mut self, reason: &str) -> Self {
        self.details.push(json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            "domain": "googleapis.com",
            "metadata": { "service": "secretmanager.googleapis.com" },
        }));
        self
    }

    pub(super) fn status(&self) -> Status {
        Status::new(self.code, self.message.clone())
    }

    pub(super) fn answer(&self) -> Answer {
        let (status, name) = match self.code {
            Code::InvalidArgument => (400, "INVALID_ARGUMENT"),
            Code::FailedPrecondition => (400, "FAILED_PRECONDITION"),
            Code::Unauthenticated => (401, "UNAUTHENTICATED"),
            Code::PermissionDenied => (403, "PERMISSION_DENIED"),
            Code::NotFound => (404, "NOT_FOUND"),
            Code::AlreadyExists => (409, "ALREADY_EXISTS"),
            Code::Aborted => (409, "ABORTED"),
            Code::ResourceExhausted => (429, "RESOURCE_EXHAUSTED"),
            Code::Unimplemented => (501, "UNIMPLEMENTED"),
            Code::Unavailable => (503, "UNAVAILABLE"),
            Code::DeadlineExceeded => (504, "DEADLINE_EXCEEDED"),
            Code::Ok | Code::Cancelled | Code::Unknown | Code::OutOfRange | Code::Internal | Code::DataLoss => {
                (500, "INTERNAL")
            }
        };
        let status = self.http.unwrap_or(status);
        let error = json!({ "code": status, "message": self.message, "status": name, "details": self.details });
        let mut answer = wire::json(StatusCode::from_u16(status).unwrap(), &json!({ "error": error }));
        if let Some(delay) = self.retry_after {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(delay.as_secs()));
        }
        answer
    }
}
