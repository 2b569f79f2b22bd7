use std::path::PathBuf;
use std::time::Duration;

use crate::TokenSource;

const DEADLINE: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 3;

/// Where the broker is and who calls it. Files are PEM.
#[derive(Clone, Debug)]
pub struct Options {
    /// `https://host:port`
    pub endpoint: String,
    /// The name that the broker's certificate must have, where it is not the endpoint's host.
    pub server_name: Option<String>,
    /// The CAs that the broker's certificate may come from; the system's where there is none.
    pub ca: Option<PathBuf>,
    /// The client certificate with its chain; read once, when connecting. Without one, a token has to do.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Sent with every call, beside the certificate.
    pub token: Option<TokenSource>,
    /// For connecting, and for each call with all its attempts.
    pub deadline: Duration,
    /// How often a call is tried in all; the broker has to ask for each repetition.
    pub attempts: u32,
}

impl Options {
    pub fn new(
        endpoint: impl Into<String>,
        ca: impl Into<PathBuf>,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        Self {
            endpoint: endpoint.into(),
            server_name: None,
            ca: Some(ca.into()),
            certificate: Some(certificate.into()),
            key: Some(key.into()),
            token: None,
            deadline: DEADLINE,
            attempts: ATTEMPTS,
        }
    }
}
