use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The files behind TLS; they are read together and swapped together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// PEM bundles of the CAs whose client certificates are accepted.
    pub client_ca: Vec<PathBuf>,
    /// PEM or DER revocation lists; with at least one, a certificate whose CA has no current list is refused.
    pub client_crls: Vec<PathBuf>,
    /// SPIFFE trust domains, each with the bundle of the CAs that may speak for it.
    pub trust_domains: BTreeMap<String, PathBuf>,
    pub client_certificate: ClientCertificate,
    pub minimum_version: TlsVersion,
    /// How often the files are looked at for a change.
    pub reload_interval: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    Required,
    Optional,
    /// The listener does not ask for one, and client CAs and revocation lists are not read.
    NotAsked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// Bounds on what one peer, and all of them together, may occupy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub connections: usize,
    /// Connections that have not finished their handshake.
    pub handshakes: usize,
    pub handshake_timeout: Duration,
    pub streams_per_connection: u32,
    pub header_bytes: u32,
    pub message_bytes: usize,
    /// How long a request's message may take to arrive.
    pub request_timeout: Duration,
    /// Calls under way in the whole process; beyond it they are shed at once.
    pub calls_in_flight: usize,
    /// Open streams in the whole process, beside the calls under way.
    pub streams: usize,
    /// Events kept for those who watch, each at its own pace.
    pub watch_backlog: usize,
    pub default_deadline: Duration,
    pub maximum_deadline: Duration,
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    /// How long calls in flight may go on after a drain began.
    pub drain_grace: Duration,
}
