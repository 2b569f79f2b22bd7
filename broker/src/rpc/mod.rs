//! Proto on the outside, domain on the inside: one file per service, one table of all methods.

mod call;
mod caller_message;
mod envoy;
mod explain;
#[cfg(test)]
mod fuzz;
mod lease_messages;
mod methods;
mod operator;
mod page_token;
mod proto_time;
mod rotating;
mod rotation_messages;
mod rotations;
mod router;
mod secret_access;
mod secret_messages;
mod secrets;
mod subscribers;
mod token_messages;
mod tokens;
mod watch;
mod watch_messages;

pub use call::{Call, decided, unrecorded};
pub(crate) use caller_message::{json_of, json_of_struct};
pub use envoy::EnvoyRpc;
pub use methods::{Access, AuditKind, METHOD_NAMES, METHODS, Method, Service, find};
pub use operator::{OperatorRpc, StatusReport};
pub use page_token::{Binding, PageTokens};
pub use proto_time::timestamp;
pub use rotating::Rotating;
pub use rotations::RotationRpc;
pub use router::Router;
pub(crate) use secret_messages::error_detail;
pub use secrets::SecretRpc;
pub(crate) use token_messages::database_kind;
pub use tokens::TokenRpc;
