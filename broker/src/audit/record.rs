//! What the audit log says of one call.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::digest::Digest;

/// One call, from the first byte to its answer. Everything here is metadata: no payload, token or claim value.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// When the call arrived; the log adds node, sequence and the previous record's hash.
    pub time: Option<Timestamp>,
    pub request_id: u128,
    pub trace_id: u128,
    pub peer: Option<SocketAddr>,
    /// `x509/…` or `oidc/…`; absent when nobody was authenticated.
    pub caller: Option<Arc<str>>,
    /// SHA-256 of the client certificate's DER.
    pub certificate: Option<Digest>,
    /// SHA-256 of the bearer token.
    pub token: Option<Digest>,
    /// How it was spoken: `grpc`, `grpc-web` or `connect`.
    pub protocol: &'static str,
    /// The gRPC method, such as `keyferry.v1.SecretService/GetSecret`; unknown ones are recorded as `unknown`.
    pub method: &'static str,
    /// The policy action, where the method has one.
    pub action: &'static str,
    pub resource: Option<Arc<str>>,
    pub version: Option<Arc<str>>,
    pub decision: Decision,
    pub policy: Option<Digest>,
    /// `OK`, `CANCELLED`, the error reason, or `STARTED` where a change is about to be made.
    pub outcome: &'static str,
    /// Where a secret came from: `CACHE`, `PROVIDER` or `STALE`.
    pub source: &'static str,
    pub lease: Option<Arc<str>>,
    /// The number that a minted credential without a lease carries: a token's `jti`, a certificate's serial number.
    pub credential: Option<Arc<str>>,
    /// What a batch touched, each with its own outcome.
    pub items: Vec<Item>,
    pub latency: Duration,
}

/// One entry of a batch.
#[derive(Clone, Debug)]
pub struct Item {
    pub resource: Arc<str>,
    pub version: Option<Arc<str>>,
    pub decision: Decision,
    pub outcome: &'static str,
    pub source: &'static str,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decision {
    /// The call ended before policy was asked.
    #[default]
    None,
    Allow,
    Deny,
}
