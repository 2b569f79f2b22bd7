//! The Keyferry client: secrets from a broker over mTLS, with errors that a program can act on.
//!
//! ```no_run
#![doc = include_str!("../tests/reading/example.rs")]
//! ```
//!
//! A [`Client`] is cheap to clone and shares one connection, which is made again when it is lost. Every call has a
//! deadline. A call is repeated only where the broker asks for it (`RetryInfo`), at most as often as
//! [`Options::attempts`] says, and never past its deadline.
//!
//! Methods that have no wrapper yet are reached through the generated clients: [`Client::secret_service`] and its
//! neighbours carry the same certificate and token.

mod client;
mod error;
mod handle;
mod list;
mod options;
mod read;
mod retry;
mod secret;
mod token;
mod watch;

pub use client::{Authorized, Client};
pub use error::{Error, Refusal};
pub use handle::SecretHandle;
/// The contract's own messages and clients.
pub use keyferry_proto::v1 as proto;
pub use keyferry_proto::v1::{ErrorReason as Reason, ReadSource};
pub use list::{SecretInfo, SecretPages};
pub use options::Options;
pub use read::Read;
pub use secret::{Payload, Secret};
pub use token::{TokenError, TokenSource};
pub use watch::{Told, Watch, WatchOptions};
