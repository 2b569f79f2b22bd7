//! Why a call failed: one closed set of reasons, a sentence for the caller, and a cause for the operator's log.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::names::RotationName;

/// The contract's closed set. What a caller may do about a failure, and how it travels, derives from it.
pub use keyferry_proto::v1::ErrorReason as Reason;

/// What a call answers instead of its result.
///
/// The message and detail are public: they say what to do next and quote neither an upstream nor a credential. The
/// cause is private and is logged once, where the failure becomes a status.
///
/// Clones are for those who waited for the same thing.
#[derive(Clone)]
pub struct Failure(Box<Inner>);

#[derive(Clone)]
struct Inner {
    reason: Reason,
    message: String,
    detail: Detail,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

/// The part of a failure that a program acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    None,
    RetryAfter(Duration),
    Quota {
        subject: String,
        description: String,
        retry_after: Duration,
    },
    BadField {
        field: Cow<'static, str>,
        description: String,
    },
    /// That stands in the way.
    Rotation(RotationName),
}

impl Failure {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { reason, message: message.into(), detail: Detail::None, cause: None }))
    }

    /// A request field that cannot be used as sent.
    pub fn bad_field(reason: Reason, field: impl Into<Cow<'static, str>>, description: impl Into<String>) -> Self {
        let (field, description) = (field.into(), description.into());
        let mut failure = Self::new(reason, format!("{field}: {description}"));
        failure.0.detail = Detail::BadField { field, description };
        failure
    }

    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.0.detail = Detail::RetryAfter(delay);
        self
    }

    #[must_use]
    pub fn quota(mut self, subject: String, description: String, retry_after: Duration) -> Self {
        self.0.detail = Detail::Quota { subject, description, retry_after };
        self
    }

    #[must_use]
    pub fn about_rotation(mut self, name: RotationName) -> Self {
        self.0.detail = Detail::Rotation(name);
        self
    }

    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.cause = Some(Arc::from(cause.into()));
        self
    }

    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn detail(&self) -> &Detail {
        &self.0.detail
    }

    /// The causes, outermost first, joined for one log field.
    pub fn cause(&self) -> Option<String> {
        let mut text = self.0.cause.as_ref()?.to_string();
        let mut next = self.0.cause.as_ref()?.source();
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        Some(text)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("reason", &self.0.reason)
            .field("message", &self.0.message)
            .field("cause", &self.cause())
            .finish()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl Error for Failure {}
