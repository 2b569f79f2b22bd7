//! Who is calling: from the connection's certificate and the call's token to a [`Caller`].

mod caller;
mod certificate;
#[cfg(test)]
mod fuzz;
mod spiffe;
pub mod token;

use std::sync::Arc;

pub use caller::{Caller, Credentials};
pub use certificate::{Certificate, CertificateError, SpiffeError};
pub use spiffe::{SpiffeId, SpiffeIdError};

use http::HeaderMap;

use self::token::TokenVerifier;
use crate::error::{Failure, Reason};
use crate::transport::Connection;

/// Which name of a certificate makes the caller's identity, in the order in which they are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateName {
    Spiffe,
    Dns,
    CommonName,
}

#[derive(Debug)]
pub struct Authenticator {
    names: Vec<CertificateName>,
    tokens: Arc<TokenVerifier>,
}

impl Authenticator {
    pub fn new(names: Vec<CertificateName>, tokens: Arc<TokenVerifier>) -> Self {
        Self { names, tokens }
    }

    /// `None`: nothing was presented. Whatever was presented and is bad is an error, never ignored.
    pub async fn authenticate(&self, connection: &Connection, headers: &HeaderMap) -> Result<Option<Caller>, Failure> {
        let certificate = connection.certificate()?;
        let token = match token::bearer(headers)? {
            None => None,
            Some(bearer) => {
                let token = self.tokens.verify(bearer).await?;
                token.check_binding(certificate.as_ref().map(|certificate| certificate.thumbprint()))?;
                Some(token)
            }
        };
        let name = match &certificate {
            Some(certificate) => connection.name_once(|| self.name(certificate))?,
            None => None,
        };
        match (certificate, token) {
            (None, None) => Ok(None),
            (certificate, Some(token)) => Ok(Some(Caller::by_token(token, certificate))),
            (Some(certificate), None) => match name {
                Some(id) => Ok(Some(Caller::by_certificate(id, certificate))),
                None => Err(self.nameless(&certificate)),
            },
        }
    }

    /// For an open stream: whether what opened it would be accepted still.
    pub fn recheck(&self, connection: &Connection, caller: &Caller) -> Result<(), Failure> {
        connection.certificate()?;
        caller.token().map_or(Ok(()), |token| self.tokens.recheck(token).map_err(Failure::from))
    }

    pub fn tokens(&self) -> &Arc<TokenVerifier> {
        &self.tokens
    }

    fn name(&self, certificate: &Certificate) -> Result<Option<Arc<str>>, SpiffeError> {
        // A SPIFFE id that is claimed and wrong must not fall through to another kind of name.
        let spiffe = certificate.spiffe_id()?;
        Ok(self.names.iter().find_map(|name| match name {
            CertificateName::Spiffe => spiffe.map(|id| format!("x509/{id}").into()),
            CertificateName::Dns => certificate.dns_names().first().map(|name| format!("x509/{name}").into()),
            // Marked, because a common name can hold anything, another caller's DNS name or SPIFFE id included.
            CertificateName::CommonName => certificate.common_name().map(|name| format!("x509/CN={name}").into()),
        }))
    }

    fn nameless(&self, certificate: &Certificate) -> Failure {
        let names: Vec<_> = self.names.iter().map(|name| name.as_str()).collect();
        let message = format!(
            "the client certificate {} has none of the names that make an identity here ({}); issue one that has, or \
             change [identity] certificate_names",
            certificate.thumbprint(),
            names.join(", "),
        );
        Failure::new(Reason::CertificateRejected, message)
    }
}

impl From<SpiffeError> for Failure {
    fn from(error: SpiffeError) -> Self {
        Self::new(Reason::CertificateRejected, format!("the client certificate was refused: {error}"))
    }
}

impl CertificateName {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spiffe => "spiffe",
            Self::Dns => "dns",
            Self::CommonName => "common_name",
        }
    }
}
