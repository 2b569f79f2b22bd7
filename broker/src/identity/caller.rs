//! Who calls: one id, and both credentials' facts where both were presented.

use std::sync::Arc;

use super::Certificate;
use crate::clock::Timestamp;

/// An authenticated caller. Made by [`super::Authenticator`] alone.
#[derive(Clone, Debug)]
pub struct Caller {
    id: Arc<str>,
    certificate: Option<Arc<Certificate>>,
}

impl Caller {
    pub(super) fn by_certificate(id: Arc<str>, certificate: Arc<Certificate>) -> Self {
        Self { id, certificate: Some(certificate) }
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

    /// When the caller's rights end.
    pub fn ends(&self) -> Timestamp {
        self.certificate.as_ref().map_or(Timestamp::from_micros(0), |certificate| certificate.not_after())
    }
}
