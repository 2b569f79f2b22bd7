//! What Google's refusals mean to a caller, in our words: theirs may quote what nobody should read.

use std::time::Duration;

use google_cloud_gax::error::Error;
use google_cloud_gax::error::rpc::{Code, Status, StatusDetails};
use http::header::RETRY_AFTER;

use super::method::{About, Method};
use crate::error::{Failure, Reason};

/// `subject` is whom Google takes the broker for.
pub(super) fn failure(error: Error, method: &Method, resource: &str, subject: Option<&str>) -> Failure {
    let Some(status) = error.http_status_code() else { return unanswered(error, resource) };
    let code = error.status().map(|status| status.code);
    let failure = match (status, code) {
        (401, _) => Failure::new(
            Reason::ProviderCredential,
            "Secret Manager refuses the broker's token though it should live; see the store's credential in GetStatus",
        ),
        // Without the API's own error it is something in front that refuses, and says nothing of the secret.
        (403, Some(_)) => denied(error.status(), method, resource, subject),
        (429, _) => throttled(&error, resource),
        (404, Some(_)) => not_found(method, resource),
        (400, Some(Code::FailedPrecondition)) => wrong_state(method, resource),
        (400, Some(Code::InvalidArgument)) => Failure::new(
            Reason::InvalidArgument,
            format!(
                "Secret Manager takes the request for {resource} for invalid; check the store's project and location"
            ),
        ),
        (409, _) => Failure::new(Reason::Conflict, format!("{resource} was changed meanwhile; read it and try again")),
        _ => unavailable(resource, &format!("answers with HTTP status {status}")).waiting(&error),
    };
    // The numbers alone: the text that came with them stays out of the log too.
    failure.caused_by(format!("Secret Manager answered {status} ({})", code.map_or("no API error", |code| code.name())))
}

/// An answer that no API of Google's gives.
pub(super) fn garbage(resource: &str) -> Failure {
    unavailable(resource, "answers with something that is not its API's")
}

/// Without an answer, or without one that could be read to its end.
fn unanswered(error: Error, resource: &str) -> Failure {
    if error.is_deserialization() {
        // Its text may quote the body, and the body may hold the payload.
        return garbage(resource);
    }
    let how = if error.is_timeout() {
        "does not answer in time"
    } else if error.is_connect() {
        "cannot be reached; check the network and the store's endpoint"
    } else {
        "breaks off its answer"
    };
    unavailable(resource, how).caused_by(error)
}

fn unavailable(resource: &str, how: &str) -> Failure {
    Failure::new(
        Reason::ProviderUnavailable,
        format!("{resource} cannot be had: Secret Manager {how}; try again later"),
    )
}

fn denied(status: Option<&Status>, method: &Method, resource: &str, subject: Option<&str>) -> Failure {
    let Method { permission, role, .. } = method;
    let whom = subject.unwrap_or("the broker's identity");
    let message = if has_reason(status, "SERVICE_DISABLED") {
        format!("Secret Manager is not enabled in the project of {resource}; enable secretmanager.googleapis.com there")
    } else {
        format!("Google denies {whom} {permission} on {resource}; grant it {role} on the secret or its project")
    };
    Failure::new(Reason::ProviderDenied, message)
}

fn throttled(error: &Error, resource: &str) -> Failure {
    let message = format!("Secret Manager throttles the broker's requests for {resource}; try again later");
    Failure::new(Reason::ProviderThrottled, message).waiting(error)
}

fn not_found(method: &Method, resource: &str) -> Failure {
    match method.about {
        About::Store => Failure::new(
            Reason::ProviderDenied,
            format!("Google knows no project or location of {resource}; check them in the configuration"),
        ),
        About::Secret | About::Version => Failure::new(Reason::SecretNotFound, format!("{resource} does not exist")),
    }
}

/// Which state it is, Google tells only in prose.
fn wrong_state(method: &Method, resource: &str) -> Failure {
    match method.about {
        About::Version => Failure::new(
            Reason::VersionDisabled,
            format!("{resource} is disabled or destroyed; list its versions, and enable it or name another"),
        ),
        About::Secret | About::Store => unusable(resource),
    }
}

/// Google refuses for a state that is not the version's own.
pub(super) fn unusable(resource: &str) -> Failure {
    Failure::new(
        Reason::ProviderDenied,
        format!("Google refuses {resource} for its state; check its encryption key (CMEK) and the project's billing"),
    )
}

fn has_reason(status: Option<&Status>, wanted: &str) -> bool {
    let mut details = status.into_iter().flat_map(|status| &status.details);
    details.any(|detail| matches!(detail, StatusDetails::ErrorInfo(info) if info.reason == wanted))
}

trait Waiting {
    /// With the wait that Google asks for.
    fn waiting(self, error: &Error) -> Self;
}

impl Waiting for Failure {
    fn waiting(self, error: &Error) -> Self {
        match asked_wait(error) {
            Some(delay) => self.retry_after(delay),
            None => self,
        }
    }
}

/// `Retry-After` in seconds, or else `google.rpc.RetryInfo`.
fn asked_wait(error: &Error) -> Option<Duration> {
    let header = error.http_headers().and_then(|headers| headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok());
    header.map(Duration::from_secs).or_else(|| {
        error.status()?.details.iter().find_map(|detail| {
            let StatusDetails::RetryInfo(info) = detail else { return None };
            info.retry_delay?.try_into().ok()
        })
    })
}
