//! The one place where a failure becomes a gRPC status.

use std::collections::{BTreeMap, HashMap};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::clock::{Clock as _, SystemClock};
use crate::error::{Detail, Failure, Reason};

const DOMAIN: &str = "keyferry";

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let reason = failure.reason();
        let mut details = ErrorDetails::with_error_info(reason.name(), DOMAIN, HashMap::new());
        match failure.detail() {
            Detail::None => {}
            Detail::RetryAfter(delay) => {
                details.set_retry_info(Some(*delay));
            }
            Detail::Quota { subject, description, retry_after } => {
                details.add_quota_failure_violation(subject, description);
                details.set_retry_info(Some(*retry_after));
            }
            Detail::BadField { field, description } => {
                details.add_bad_request_violation(field.as_ref(), description);
            }
            Detail::Rotation(name) => {
                let metadata = HashMap::from([("rotation".to_owned(), name.to_string())]);
                details.set_error_info(reason.name(), DOMAIN, metadata);
            }
        }
        if details.retry_info().is_none()
            && let Some(delay) = failure.retry_delay()
        {
            details.set_retry_info(Some(delay));
        }
        log(&failure);
        Self::with_error_details(reason.code(), failure.message(), details)
    }
}

/// Error lines a second for each reason. When a provider is down, every call says the same.
const LINES_A_SECOND: u32 = 10;

/// The chain of causes is logged here and nowhere else.
fn log(failure: &Failure) {
    let reason = failure.reason().name();
    let cause = failure.cause();
    if !failure.reason().blames_broker() {
        tracing::debug!(reason, message = failure.message(), cause, "call refused");
        return;
    }
    // A status is made where no clock reaches, and this one decides nothing but what is logged.
    let now = SystemClock.monotonic();
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let admitted = said.entry(reason).or_insert_with(|| Said::since(now)).admit(now);
    drop(said);
    if let Some(suppressed) = admitted {
        tracing::error!(reason, message = failure.message(), cause, suppressed, "call failed");
    }
}

/// One entry per reason, of which there is a closed set.
static SAID: Mutex<BTreeMap<&'static str, Said>> = Mutex::new(BTreeMap::new());

/// What was logged within the current second.
#[derive(Debug)]
struct Said {
    since: Instant,
    lines: u32,
    suppressed: u64,
}

impl Said {
    fn since(now: Instant) -> Self {
        Self { since: now, lines: 0, suppressed: 0 }
    }

    /// Whether one more line may go out, and how many could not since the last one.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines == LINES_A_SECOND {
            self.suppressed += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// The names of all reasons, for labels.
pub static REASON_NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let numbers = 1..i32::from(u8::MAX);
    numbers.filter_map(|number| Reason::try_from(number).ok()).map(Reason::name).collect()
});

/// What derives from a failure as a whole.
pub trait FailureExt {
    /// As the failure says, or else as its reason does.
    fn retry_delay(&self) -> Option<Duration>;
}

impl FailureExt for Failure {
    fn retry_delay(&self) -> Option<Duration> {
        match self.detail() {
            Detail::RetryAfter(delay) | Detail::Quota { retry_after: delay, .. } => Some(*delay),
            Detail::None | Detail::BadField { .. } | Detail::Rotation(_) => self.reason().retry_delay(),
        }
    }
}

/// What derives from a reason.
pub trait ReasonExt {
    /// As in `ErrorInfo.reason`, in audit records and in metrics.
    fn name(self) -> &'static str;
    fn code(self) -> Code;
    /// How long to wait where nothing better is known; `None` where a retry of the same call cannot help.
    fn retry_delay(self) -> Option<Duration>;
    /// Whether an operator of the broker has to act, rather than the caller.
    fn blames_broker(self) -> bool;
}

impl ReasonExt for Reason {
    fn name(self) -> &'static str {
        self.as_str_name().trim_start_matches("ERROR_REASON_")
    }

    fn code(self) -> Code {
        match self {
            Self::CredentialMissing
            | Self::CertificateRejected
            | Self::CertificateExpired
            | Self::TokenMalformed
            | Self::TokenIssuerUnknown
            | Self::TokenAudience
            | Self::TokenExpired
            | Self::TokenNotYetValid
            | Self::TokenLifetime
            | Self::TokenAlgorithm
            | Self::TokenKeyUnknown
            | Self::TokenSignature
            | Self::TokenBinding => Code::Unauthenticated,
            Self::AccessDenied | Self::ClientCertificateRequired => Code::PermissionDenied,
            Self::InvalidArgument
            | Self::InvalidName
            | Self::InvalidPageToken
            | Self::InvalidCursor
            | Self::InvalidPublicKey => Code::InvalidArgument,
            Self::SecretNotFound
            | Self::VersionNotFound
            | Self::DatabaseRoleNotFound
            | Self::LeaseNotFound
            | Self::RotationNotFound => Code::NotFound,
            Self::VersionDisabled
            | Self::VersionDestroyed
            | Self::UnsupportedByStore
            | Self::EpochChanged
            | Self::LeaseNotActive
            | Self::LeaseNotRenewable
            | Self::RotationNotConfigured
            | Self::RotationState
            | Self::ValueUnusable => Code::FailedPrecondition,
            Self::RequestIdConflict | Self::RotationInProgress | Self::Conflict => Code::Aborted,
            Self::QuotaExceeded
            | Self::DistinctSecretsExceeded
            | Self::LeaseLimitExceeded
            | Self::Overloaded
            | Self::MessageTooLarge
            | Self::StreamLimitExceeded => Code::ResourceExhausted,
            Self::IssuerKeysUnavailable
            | Self::ProviderUnavailable
            | Self::ProviderThrottled
            | Self::ProviderDenied
            | Self::ProviderCredential
            | Self::ProviderBudgetExhausted
            | Self::CircuitOpen
            | Self::DatabaseUnavailable
            | Self::DatabaseLoginRefused
            | Self::DatabaseTls
            | Self::DatabaseExhausted
            | Self::StateUnavailable
            | Self::AuditUnavailable
            | Self::Draining
            | Self::RevisionNotReached => Code::Unavailable,
            Self::PayloadCorrupt => Code::DataLoss,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::Cancelled => Code::Cancelled,
            Self::Unimplemented | Self::MethodUnknown => Code::Unimplemented,
            Self::Internal | Self::Unspecified => Code::Internal,
        }
    }

    fn retry_delay(self) -> Option<Duration> {
        let passes = matches!(self.code(), Code::Unavailable | Code::Aborted | Code::ResourceExhausted);
        // The same message is as large the next time, and leases end when somebody ends them.
        let lasts = matches!(self, Self::MessageTooLarge | Self::LeaseLimitExceeded);
        (passes && !lasts).then_some(Duration::from_secs(1))
    }

    fn blames_broker(self) -> bool {
        matches!(self.code(), Code::Unavailable | Code::DataLoss | Code::Internal)
            && !matches!(self, Self::Draining | Self::RevisionNotReached)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn every_reason_travels_with_the_code_that_its_number_is_grouped_under() {
        let group = |number| match number / 10 {
            0 | 1 => Code::Unauthenticated,
            2 => Code::PermissionDenied,
            3 => Code::InvalidArgument,
            4 => Code::NotFound,
            5 => Code::FailedPrecondition,
            6 => Code::Aborted,
            7 => Code::ResourceExhausted,
            8 | 9 => Code::Unavailable,
            10 => Code::DataLoss,
            11 => Code::DeadlineExceeded,
            12 => Code::Cancelled,
            13 => Code::Unimplemented,
            14 => Code::Internal,
            _ => panic!("a new group: {number}"),
        };
        for name in REASON_NAMES.iter() {
            let reason = Reason::from_str_name(&format!("ERROR_REASON_{name}")).unwrap();
            assert_eq!(reason.code(), group(i32::from(reason)), "{name}");
        }
        assert!(REASON_NAMES.len() > 50);
    }

    #[test]
    fn a_failure_carries_what_a_program_needs_and_hides_its_cause() {
        let wait = Duration::from_secs(7);
        let failure = Failure::new(Reason::QuotaExceeded, "slow down")
            .quota("x509/a".into(), "100 reads a second".into(), wait)
            .caused_by("the private cause");
        let status = Status::from(failure);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("QUOTA_EXCEEDED", "keyferry"));
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(wait));
        assert_eq!(details.quota_failure().unwrap().violations[0].subject, "x509/a");
        assert!(!format!("{status:?}").contains("private"));

        let status = Status::from(Failure::bad_field(Reason::InvalidName, "name", "is empty"));
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations[0].field, "name");
        assert!(status.get_error_details().retry_info().is_none());
        assert!(Status::from(Failure::new(Reason::Draining, "x")).get_error_details().retry_info().is_some());
    }

    #[test]
    fn a_failure_of_every_call_is_logged_a_few_times_a_second_and_the_rest_is_counted() {
        let begun = SystemClock.monotonic();
        let mut said = Said::since(begun);
        let admitted = (0..1_000).filter(|_| said.admit(begun).is_some()).count();
        assert_eq!(admitted, 10);
        let later = begun + Duration::from_secs(1);
        assert_eq!(said.admit(later), Some(990));
        assert_eq!(said.admit(later), Some(0));
    }
}
