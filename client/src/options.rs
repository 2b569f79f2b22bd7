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
    /// The CAs that the broker's certificate may come from.
    pub ca: PathBuf,
    /// The client certificate with its chain; read once, when connecting.
    pub certificate: PathBuf,
    pub key: PathBuf,
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
            ca: ca.into(),
            certificate: certificate.into(),
            key: key.into(),
            token: None,
            deadline: DEADLINE,
            attempts: ATTEMPTS,
        }
    }
}
