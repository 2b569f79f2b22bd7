//! Who is calling: from the connection's certificate to a [`Caller`].

mod caller;
mod certificate;
mod spiffe;

use std::sync::Arc;

pub use caller::Caller;
pub use certificate::{Certificate, CertificateError, SpiffeError};
pub use spiffe::{SpiffeId, SpiffeIdError};

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
}

impl Authenticator {
    pub fn new(names: Vec<CertificateName>) -> Self {
        Self { names }
    }

    /// `None`: nothing was presented. Whatever was presented and is bad is an error, never ignored.
    pub fn authenticate(&self, connection: &Connection) -> Result<Option<Caller>, Failure> {
        let Some(certificate) = connection.certificate()? else {
            return Ok(None);
        };
        // A SPIFFE id that is claimed and wrong must not fall through to another kind of name.
        let spiffe = certificate.spiffe_id().map_err(|error| {
            Failure::new(Reason::CertificateRejected, format!("the client certificate was refused: {error}"))
        })?;
        match self.name(&certificate, spiffe) {
            Some(id) => Ok(Some(Caller::by_certificate(id, certificate))),
            None => Err(self.nameless(&certificate)),
        }
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

    fn name(&self, certificate: &Certificate, spiffe: Option<&SpiffeId>) -> Option<Arc<str>> {
        self.names.iter().find_map(|name| match name {
            CertificateName::Spiffe => spiffe.map(|id| format!("x509/{id}").into()),
            CertificateName::Dns => certificate.dns_names().first().map(|name| format!("x509/{name}").into()),
            // Marked, because a common name can hold anything, another caller's DNS name or SPIFFE id included.
            CertificateName::CommonName => certificate.common_name().map(|name| format!("x509/CN={name}").into()),
        })
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
