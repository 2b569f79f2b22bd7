//! Why a token was refused, in words that its holder can act on.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::algorithm::Algorithm;
use crate::clock::Timestamp;
use crate::error::{Failure, Reason};

/// Quotes no more than names: never the token, never a signature. What a broker expects (audience, limits) is told only
/// once the signature is verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("the bearer token is malformed: {0}")]
    Malformed(Cow<'static, str>),
    #[error(
        "the token's algorithm {algorithm} is none that this broker verifies; sign with an RS, PS, ES or EdDSA one"
    )]
    AlgorithmUnknown { algorithm: Quoted },
    #[error(
        "the token's issuer {seen} is not configured here; compare it with the configured one letter by letter, the \
         last slash included"
    )]
    IssuerUnknown { seen: Quoted, resembles: Option<String> },
    #[error(
        "the token is signed with {algorithm}, which is not allowed for issuer {issuer}; let the issuer use another \
         one or allow it"
    )]
    AlgorithmNotAllowed { issuer: String, algorithm: Algorithm },
    #[error("the token is signed with {algorithm}, which does not fit the key that it names at issuer {issuer}")]
    AlgorithmUnfit { issuer: String, algorithm: Algorithm },
    #[error(
        "the token's key {key} is not among the {known} keys of issuer {issuer}, fetched {age} s ago; fetch a new \
         token, and where that fails too, see whether the token is from another environment"
    )]
    KeyUnknown { issuer: String, key: Quoted, known: usize, age: u64 },
    #[error("issuer {issuer} has withdrawn the key that the token was signed with; fetch a new token")]
    KeyWithdrawn { issuer: String },
    #[error("the token names no key (kid) and {fitting} keys of issuer {issuer} fit it; only exactly one would do")]
    KeyAmbiguous { issuer: String, fitting: usize },
    #[error(
        "the keys of issuer {issuer} cannot be had: there is no good copy that is recent enough; try again, and see \
         the issuer in the broker's status"
    )]
    KeysUnavailable { issuer: String },
    #[error("the token's signature does not verify with the key of issuer {issuer} that it names")]
    Signature { issuer: String },
    #[error(
        "the token is for audience {seen}, and this broker expects {expected}; ask issuer {issuer} for a token for it"
    )]
    Audience { issuer: String, seen: String, expected: String },
    #[error(
        "the token expired {ago} s ago by this broker's clock ({now}), beyond the {leeway} s of leeway; fetch a new \
         one or set the clock"
    )]
    Expired { ago: u64, now: Timestamp, leeway: u64 },
    #[error(
        "the token's {claim} is {ahead} s ahead of this broker's clock ({now}), beyond the {leeway} s of leeway; set \
         the clocks of issuer and broker"
    )]
    NotYetValid { claim: &'static str, ahead: u64, now: Timestamp, leeway: u64 },
    #[error("the token lives {seconds} s, and issuer {issuer} may grant {limit} s here; ask for a shorter one")]
    Lifetime { issuer: String, seconds: u64, limit: u64 },
    #[error("the token is bound to a client certificate, and {0}")]
    Binding(&'static str),
}

impl Rejection {
    pub fn reason(&self) -> Reason {
        match self {
            Self::Malformed(_) => Reason::TokenMalformed,
            Self::AlgorithmUnknown { .. } | Self::AlgorithmNotAllowed { .. } | Self::AlgorithmUnfit { .. } => {
                Reason::TokenAlgorithm
            }
            Self::IssuerUnknown { .. } => Reason::TokenIssuerUnknown,
            Self::KeyUnknown { .. } | Self::KeyWithdrawn { .. } | Self::KeyAmbiguous { .. } => Reason::TokenKeyUnknown,
            Self::KeysUnavailable { .. } => Reason::IssuerKeysUnavailable,
            Self::Signature { .. } => Reason::TokenSignature,
            Self::Audience { .. } => Reason::TokenAudience,
            Self::Expired { .. } => Reason::TokenExpired,
            Self::NotYetValid { .. } => Reason::TokenNotYetValid,
            Self::Lifetime { .. } => Reason::TokenLifetime,
            Self::Binding(_) => Reason::TokenBinding,
        }
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        let failure = Self::new(rejection.reason(), rejection.to_string());
        match rejection {
            Rejection::KeysUnavailable { .. } => failure.retry_after(Duration::from_secs(2)),
            // For the log alone: which issuers are configured is no business of a stranger.
            Rejection::IssuerUnknown { resembles: Some(name), .. } => {
                failure.caused_by(format!("it resembles the configured issuer {name}"))
            }
            Rejection::IssuerUnknown { resembles: None, .. }
            | Rejection::Malformed(_)
            | Rejection::AlgorithmUnknown { .. }
            | Rejection::AlgorithmNotAllowed { .. }
            | Rejection::AlgorithmUnfit { .. }
            | Rejection::KeyUnknown { .. }
            | Rejection::KeyWithdrawn { .. }
            | Rejection::KeyAmbiguous { .. }
            | Rejection::Signature { .. }
            | Rejection::Audience { .. }
            | Rejection::Expired { .. }
            | Rejection::NotYetValid { .. }
            | Rejection::Lifetime { .. }
            | Rejection::Binding(_) => failure,
        }
    }
}

/// A name out of a token: clipped, and escaped so that it cannot break a line or a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    const MAX_CHARS: usize = 160;

    pub(super) fn new(text: &str) -> Self {
        let mut quoted = String::from("\"");
        quoted.extend(text.chars().take(Self::MAX_CHARS).flat_map(char::escape_default));
        quoted.push('"');
        if text.chars().nth(Self::MAX_CHARS).is_some() {
            quoted.push('…');
        }
        Self(quoted)
    }

    /// A few of several, and how many more.
    pub(super) fn list<'a>(texts: impl ExactSizeIterator<Item = &'a str>) -> String {
        const SHOWN: usize = 4;
        if texts.len() == 0 {
            return "none".to_owned();
        }
        let more = texts.len().saturating_sub(SHOWN);
        let shown: Vec<_> = texts.take(SHOWN).map(|text| Self::new(text).0).collect();
        let mut list = shown.join(", ");
        if more > 0 {
            list.push_str(&format!(" and {more} more"));
        }
        list
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
