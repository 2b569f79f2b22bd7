//! Proto on the outside, domain on the inside: one file per service, one table of all methods.

mod call;
mod methods;
mod operator;
mod page_token;
mod proto_time;
mod rotations;
mod router;
mod secrets;
mod tokens;

pub use call::{Call, unrecorded};
pub use methods::{Access, AuditKind, METHOD_NAMES, METHODS, Method, QuotaClass, Service, find};
pub use operator::{OperatorRpc, StatusReport};
pub use page_token::PageTokens;
pub use proto_time::timestamp;
pub use router::Router;
pub use secrets::SecretRpc;
