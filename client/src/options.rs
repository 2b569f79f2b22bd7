use std::path::PathBuf;
use std::time::Duration;

use crate::TokenSource;

const DEADLINE: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 3;
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Where the broker is and who calls it. Files are PEM, and read again when they change.
#[derive(Clone, Debug)]
pub struct Options {
    /// `https://host:port`. Where the host has several addresses, another is tried when one does not answer.
    pub endpoint: String,
    /// The name that the broker's certificate must have, where it is not the endpoint's host.
    pub server_name: Option<String>,
    /// The CAs that the broker's certificate may come from; the system's where there is none.
    pub ca: Option<PathBuf>,
    /// The client certificate with its chain. Without one, a token has to do.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Sent with every call, beside the certificate.
    pub token: Option<TokenSource>,
    /// For each call with all its attempts.
    pub deadline: Duration,
    /// How often a call is sent in all. Waiting for a broker that is not there counts for none.
    pub attempts: u32,
    /// How often a silent connection is asked whether it still is one.
    pub keepalive: Duration,
}

impl Options {
    /// For a caller with a certificate.
    pub fn new(
        endpoint: impl Into<String>,
        ca: impl Into<PathBuf>,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        Self { ca: Some(ca.into()), certificate: Some(certificate.into()), key: Some(key.into()), ..Self::to(endpoint) }
    }

    /// With the system's CAs, and neither certificate nor token yet.
    pub fn to(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            server_name: None,
            ca: None,
            certificate: None,
            key: None,
            token: None,
            deadline: DEADLINE,
            attempts: ATTEMPTS,
            keepalive: KEEPALIVE,
        }
    }
}
