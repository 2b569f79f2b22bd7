use std::io;
use std::path::PathBuf;
use std::time::Duration;

use keyferry_proto::v1::ErrorDetail;
use thiserror::Error;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::token::TokenError;
use crate::{Reason, secret};

/// The `ErrorInfo` domain of the broker's own errors; a proxy on the way has another, or none.
const DOMAIN: &str = "keyferry";

#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot read {0}; name a PEM file that this process may read")]
    File(PathBuf, #[source] io::Error),
    #[error("a certificate without its key, or a key without its certificate; give both or neither")]
    HalfIdentity,
    #[error("the endpoint \"{0}\" cannot be used; write it like https://keyferry.example:7443")]
    Endpoint(String),
    #[error(
        "the certificate, key or CA cannot be used; see that all are PEM and that the key belongs to the certificate"
    )]
    Tls(#[source] tonic::transport::Error),
    #[error("cannot connect to {0}; see that the broker runs there, and that each side trusts the other's CA")]
    Connect(String, #[source] tonic::transport::Error),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the payload of {0} does not have its checksum; it was damaged on the way: read it again")]
    Damaged(String),
    #[error("the broker's answer cannot be understood ({0}); use a client as new as the broker")]
    Unexpected(&'static str),
}

/// The broker, or something on the way to it, said no.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Refusal {
    /// `Unspecified` where none came, as from a proxy or a lost connection, or one that this version does not know.
    pub reason: Reason,
    pub code: Code,
    pub message: String,
    /// When the same call may be tried again; `None` where that cannot help.
    pub retry_delay: Option<Duration>,
}

impl Error {
    /// The refusal, if it was one.
    pub fn refusal(&self) -> Option<&Refusal> {
        if let Self::Refused(refusal) = self { Some(refusal) } else { None }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
        let reason = info.and_then(|info| Reason::from_str_name(&format!("ERROR_REASON_{}", info.reason)));
        Self {
            reason: reason.unwrap_or_default(),
            code: status.code(),
            message: status.message().to_owned(),
            retry_delay: status.get_details_retry_info().and_then(|info| info.retry_delay),
        }
    }
}

impl From<ErrorDetail> for Refusal {
    fn from(detail: ErrorDetail) -> Self {
        Self {
            reason: detail.reason(),
            code: Code::from_i32(detail.code),
            retry_delay: detail.retry_delay.and_then(|delay| Duration::try_from(delay).ok()),
            message: detail.message,
        }
    }
}

impl From<secret::Damaged> for Error {
    fn from(damaged: secret::Damaged) -> Self {
        Self::Damaged(damaged.0)
    }
}
