//! TLS connections in, HTTP requests out: the acceptor, its bounds, hot reload of certificates, and draining.

mod answer;
mod arriving;
mod clients;
pub mod connection;
mod deadline;
mod descriptors;
pub mod drain;
mod files;
mod frames;
mod grpc_timeout;
mod handshake;
mod http;
mod material;
mod patience;
mod request_id;
pub mod server;
pub mod settings;
mod stack;
pub mod stats;
mod stream_end;
pub mod tls;

#[cfg(test)]
mod tests;

pub use arriving::LargeRequests;
pub use connection::{CertificateRefusal, Connection, Protocol};
pub use drain::Drain;
pub(crate) use grpc_timeout::parse as grpc_timeout;
pub use handshake::HandshakeFailure;
pub use material::{Material, TlsError};
pub use request_id::RequestIds;
pub use server::serve;
pub use settings::{ClientCertificate, Limits, TlsSettings, TlsVersion};
pub use stack::{Layers, Stack};
pub use stats::TransportStats;
pub use tls::{Reload, ReloadFailure, Tls, TlsStatus};
