//! Why a command failed, and the exit code that says so.

use std::fmt;
use std::time::Duration;

use keyferry_client::{Error, Refusal};
use serde_json::{Value, json};
use tonic::Code;

use super::{chain, printable};

/// What a script can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Failed = 1,
    Usage = 2,
    Denied = 3,
    Unauthenticated = 4,
    NotFound = 5,
    Conflict = 6,
    Limited = 7,
    Unavailable = 8,
}

/// For whoever typed the command: what went wrong, and what to do next.
#[derive(Debug)]
pub(super) struct Failure {
    exit: Exit,
    message: String,
    /// The contract's reason, where the broker gave one.
    reason: Option<String>,
    /// When the same may be tried again.
    retry: Option<Duration>,
}

impl Exit {
    /// With what each means, for the manual.
    pub(super) const ALL: [(Self, &'static str); 8] = [
        (Self::Failed, "anything else went wrong, or what was checked is not good"),
        (Self::Usage, "the command line or the request is wrong"),
        (Self::Denied, "the broker knows you and does not let you"),
        (Self::Unauthenticated, "the broker does not accept your certificate or token, or there is none"),
        (Self::NotFound, "there is no such thing, or it is not for you to see"),
        (Self::Conflict, "it is in no state for this, or somebody else was first"),
        (Self::Limited, "a limit was met"),
        (Self::Unavailable, "no broker, store or database answered in time"),
    ];

    fn of(code: Code) -> Self {
        match code {
            Code::InvalidArgument | Code::OutOfRange => Self::Usage,
            Code::PermissionDenied => Self::Denied,
            Code::Unauthenticated => Self::Unauthenticated,
            Code::NotFound => Self::NotFound,
            Code::Aborted | Code::AlreadyExists | Code::FailedPrecondition => Self::Conflict,
            Code::ResourceExhausted => Self::Limited,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Self::Unavailable,
            Code::Ok | Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => Self::Failed,
        }
    }
}

impl Failure {
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into(), reason: None, retry: None }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self { exit: Exit::NotFound, message: message.into(), reason: None, retry: None }
    }

    pub(super) fn exit(&self) -> Exit {
        self.exit
    }

    /// With where it happened.
    #[must_use]
    pub(super) fn at(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    fn advice(&self) -> Option<String> {
        if let Some(retry) = self.retry {
            let seconds = retry.as_secs() + u64::from(retry.subsec_nanos() > 0);
            return Some(format!("try again in {seconds}s"));
        }
        let advice = match (self.exit, self.reason.as_deref()?) {
            (Exit::Denied, _) => "`keyferry explain` tells which policy decided",
            (Exit::NotFound, _) => "see that the name is right; what you may not see answers like what does not exist",
            (Exit::Unauthenticated, "CREDENTIAL_MISSING") => "give --cert and --key, or --own-token-file",
            (Exit::Unauthenticated, _) => {
                "an operator's `keyferry explain --token-file FILE` tells what is wrong with a token"
            }
            _ => return None,
        };
        Some(advice.to_owned())
    }

    pub(super) fn to_json(&self) -> Value {
        json!({ "error": {
            "exit_code": self.exit as u8,
            "reason": self.reason,
            "message": self.message,
            "advice": self.advice(),
            "retry_after_seconds": self.retry.map(|retry| retry.as_secs_f64()),
        }})
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let named = !refusal.reason_name.is_empty();
        Self {
            exit: Exit::of(refusal.code),
            message: if named {
                format!("the broker refused: {}", refusal.message)
            } else {
                format!("the call failed: {} ({})", refusal.message, refusal.code.description())
            },
            reason: named.then_some(refusal.reason_name),
            retry: refusal.retry_delay,
        }
    }
}

impl From<Error> for Failure {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the client's errors may become more")]
    fn from(error: Error) -> Self {
        let exit = match &error {
            Error::Refused(refusal) => return refusal.clone().into(),
            Error::Unreachable(_) | Error::Lost(_) | Error::Deadline(..) => Exit::Unavailable,
            Error::Token(_) => Exit::Unauthenticated,
            Error::Credentials(_) | Error::Endpoint(_) | Error::Name(_) => Exit::Usage,
            _ => Exit::Failed,
        };
        Self { exit, message: chain(&error), reason: None, retry: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.message))?;
        if let Some(reason) = &self.reason {
            write!(f, " ({reason})")?;
        }
        match self.advice() {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use keyferry_client::Reason;

    use super::*;
    use crate::status::ReasonExt as _;

    #[test]
    fn the_manual_has_every_exit_code_once() {
        for (at, (exit, _)) in Exit::ALL.into_iter().enumerate() {
            assert_eq!(exit as usize, at + 1);
        }
    }

    #[test]
    fn a_refusal_tells_its_reason_and_what_to_do() {
        let refusal = |reason: Reason, code, retry_delay| Refusal {
            reason,
            reason_name: reason.name().to_owned(),
            code,
            message: "no".to_owned(),
            retry_delay,
            metadata: BTreeMap::new(),
            help: Vec::new(),
        };
        let denied = Failure::from(refusal(Reason::AccessDenied, Code::PermissionDenied, None));
        assert_eq!(
            (denied.exit(), denied.to_string().as_str()),
            (Exit::Denied, "the broker refused: no (ACCESS_DENIED); `keyferry explain` tells which policy decided")
        );
        let wait = Some(Duration::from_millis(1500));
        let limited = Failure::from(refusal(Reason::QuotaExceeded, Code::ResourceExhausted, wait));
        assert_eq!(limited.to_string(), "the broker refused: no (QUOTA_EXCEEDED); try again in 2s");
        assert_eq!(limited.to_json()["error"]["exit_code"], 7);
    }
}
