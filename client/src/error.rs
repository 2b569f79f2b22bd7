use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use keyferry_proto::v1::ErrorDetail;
use thiserror::Error;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{CredentialsError, NameError, Reason, TokenError, Unreachable, secret};

/// The `ErrorInfo` domain of the broker's own errors; a proxy on the way has another, or none.
const DOMAIN: &str = "keyferry";

/// Why a call did not succeed. Each text says what to do next; [`StdError::source`] has what lies beneath.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    #[error("the endpoint \"{0}\" cannot be used; write it like https://keyferry.example:7443")]
    Endpoint(String),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The broker never heard of the call.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The broker may have carried the call out.
    #[error("the connection was lost before the answer came; try again, a change with the same request_id")]
    Lost(#[source] Arc<Status>),
    /// With what was last heard, where the call was tried more than once.
    #[error("no answer within {0:?}; see that the broker runs, or allow for more time")]
    Deadline(Duration, #[source] Option<Box<Error>>),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the payload of {0} does not have its checksum; it was damaged on the way: read it again")]
    Damaged(String),
    #[error("{0} hands out no passwords; log in with what it hands out by Client::call, or take another role")]
    NoPassword(String),
    #[error("the broker's answer cannot be understood ({0}); use a client as new as the broker")]
    Unexpected(&'static str),
}

/// The broker, or something on the way to it, said no.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Refusal {
    /// `Unspecified` where none came, as from a proxy, or one that this version does not know.
    pub reason: Reason,
    /// The reason as it was sent, which is all there is of one that this version does not know. Empty where none came.
    pub reason_name: String,
    pub code: Code,
    pub message: String,
    /// When the same call may be tried again; `None` where that cannot help.
    pub retry_delay: Option<Duration>,
    /// Facts for programs.
    pub metadata: BTreeMap<String, String>,
    /// Where to read on.
    pub help: Vec<String>,
}

impl Error {
    /// The refusal, if it was one.
    pub fn refusal(&self) -> Option<&Refusal> {
        if let Self::Refused(refusal) = self { Some(refusal) } else { None }
    }

    /// The broker's reason, if it gave one that this version knows.
    pub fn reason(&self) -> Option<Reason> {
        self.refusal().map(|refusal| refusal.reason).filter(|reason| *reason != Reason::Unspecified)
    }

    /// Whether waiting may mend it, without anybody doing anything.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Lost(_) | Self::Deadline(..) | Self::Damaged(_) => true,
            // Sources of tokens come and go like everything else on the network.
            Self::Token(_) => true,
            Self::Refused(refusal) => refusal.is_passing(),
            Self::Endpoint(_) | Self::Name(_) | Self::Credentials(_) | Self::NoPassword(_) | Self::Unexpected(_) => {
                false
            }
        }
    }

    /// What the link said, from wherever it hides in another error's chain.
    pub(crate) fn of_link(error: &(dyn StdError + 'static)) -> Self {
        Self::hidden_in(error).unwrap_or_else(|| Self::Lost(Arc::new(Status::unavailable(error.to_string()))))
    }

    fn hidden_in(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut chain = std::iter::successors(Some(error), |&error| error.source());
        chain.find_map(|error| {
            let token = error.downcast_ref::<TokenError>().cloned().map(Self::Token);
            token.or_else(|| error.downcast_ref::<Unreachable>().cloned().map(Self::Unreachable))
        })
    }
}

impl Refusal {
    /// Whether the same call may succeed later.
    pub fn is_passing(&self) -> bool {
        let code = matches!(
            self.code,
            Code::Unavailable | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded | Code::ResourceExhausted
        );
        self.retry_delay.is_some() || code && self.reason != Reason::MessageTooLarge
    }
}

/// What a generated client returned.
impl From<Status> for Error {
    fn from(status: Status) -> Self {
        // A status that came over the wire has no source.
        match status.source() {
            Some(source) => Self::hidden_in(source).unwrap_or_else(|| Self::Lost(Arc::new(status))),
            None => Self::Refused(status.into()),
        }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let reason = info.and_then(|info| Reason::from_str_name(&format!("ERROR_REASON_{}", info.reason)));
        let links = details.help().map(|help| help.links.iter().map(|link| link.url.clone()).collect());
        Self {
            reason: reason.unwrap_or_default(),
            reason_name: info.map(|info| info.reason.clone()).unwrap_or_default(),
            code: status.code(),
            message: status.message().to_owned(),
            retry_delay: details.retry_info().and_then(|info| info.retry_delay),
            metadata: info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default(),
            help: links.unwrap_or_default(),
        }
    }
}

impl From<ErrorDetail> for Refusal {
    fn from(detail: ErrorDetail) -> Self {
        let reason = detail.reason();
        let name = reason.as_str_name().trim_start_matches("ERROR_REASON_");
        Self {
            reason,
            // An unknown one has no name here, only its number.
            reason_name: if reason == Reason::Unspecified { detail.reason.to_string() } else { name.to_owned() },
            code: Code::from_i32(detail.code),
            retry_delay: detail.retry_delay.and_then(|delay| Duration::try_from(delay).ok()),
            message: detail.message,
            metadata: detail.metadata.into_iter().collect(),
            help: Vec::new(),
        }
    }
}

impl From<secret::Damaged> for Error {
    fn from(damaged: secret::Damaged) -> Self {
        Self::Damaged(damaged.0)
    }
}
