//! Who calls: one id, and both credentials' facts where both were presented.

use std::sync::Arc;

use super::Certificate;
use super::token::Token;
use crate::clock::Timestamp;
use crate::digest::Digest;

/// An authenticated caller. Made by [`super::Authenticator`] alone.
#[derive(Clone, Debug)]
pub struct Caller {
    id: Arc<str>,
    certificate: Option<Arc<Certificate>>,
    token: Option<Arc<Token>>,
}

/// Names everything that policy can know of a caller: two callers with equal credentials are decided alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Credentials {
    certificate: Option<Digest>,
    token: Option<Digest>,
}

impl Caller {
    pub(crate) fn by_certificate(id: Arc<str>, certificate: Arc<Certificate>) -> Self {
        Self { id, certificate: Some(certificate), token: None }
    }

    /// The token says who calls; a certificate beside it adds what policy may demand of the connection.
    pub(super) fn by_token(token: Arc<Token>, certificate: Option<Arc<Certificate>>) -> Self {
        Self { id: Arc::clone(token.id()), certificate, token: Some(token) }
    }

    /// `x509/…` or `oidc/…`.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn shared_id(&self) -> Arc<str> {
        Arc::clone(&self.id)
    }

    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_deref()
    }

    pub fn token(&self) -> Option<&Token> {
        self.token.as_deref()
    }

    pub fn credentials(&self) -> Credentials {
        Credentials {
            certificate: self.certificate.as_ref().map(|certificate| certificate.thumbprint()),
            token: self.token.as_ref().map(|token| token.facts()),
        }
    }

    /// When the caller's rights end: with the first of its credentials.
    pub fn ends(&self) -> Timestamp {
        let certificate = self.certificate.as_ref().map(|certificate| certificate.not_after());
        let token = self.token.as_ref().map(|token| token.ends());
        certificate.into_iter().chain(token).min().unwrap_or(Timestamp::from_micros(0))
    }
}
