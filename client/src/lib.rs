//! The Keyferry client: secrets from a broker over mTLS, with errors that a program can act on.
//!
//! ```no_run
#![doc = include_str!("../tests/reading/example.rs")]
//! ```
//!
//! A [`Client`] is cheap to clone and shares one connection, which is made again when it is lost, on the certificate and
//! token files as they then are. Every call has a deadline, and within it is repeated where that is harmless and can help:
//! for as long as the broker is away or drains; up to [`Options::attempts`] times where the connection broke or the broker
//! asks for it (`RetryInfo`), the latter within a budget that calls which succeed fill again.
//!
//! Methods without a wrapper are reached by [`Client::call`]. The generated clients ([`Client::secret_service`] and its
//! neighbours) carry the same certificate and token, and leave deadlines and repeats to their user.

mod cache;
mod calls;
mod chance;
mod client;
mod clock;
mod credentials;
mod dial;
mod error;
mod handle;
mod link;
mod list;
mod logins;
mod names;
mod options;
#[cfg(any(feature = "deadpool-postgres", feature = "sqlx"))]
pub mod pool;
mod read;
mod retry;
mod secret;
mod token;
mod watch;

pub use cache::{Cached, SecretCache};
pub use calls::Call;
pub use client::Client;
pub use credentials::CredentialsError;
pub use dial::Unreachable;
pub use error::{Error, Refusal};
pub use handle::SecretHandle;
/// The contract's own messages and clients.
pub use keyferry_proto::v1 as proto;
pub use keyferry_proto::v1::{ErrorReason as Reason, ReadSource};
pub use link::{Link, LinkError};
pub use list::{SecretInfo, SecretPages};
pub use logins::{Login, Logins};
pub use names::{NameError, RoleName, SecretName, SubscriberName, VersionName};
pub use options::Options;
pub use read::Read;
pub use secret::{Payload, Secret};
pub use token::{AzureIdentity, TokenError, TokenSource};
pub use watch::{Told, Watch, WatchOptions};
