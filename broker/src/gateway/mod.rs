//! What others speak to the broker in their own way: JSON and gRPC-Web on gRPC's port, what Envoys fetch, the web port and its
//! routes. And the gateways that the broker calls itself.

mod answer;
pub mod api_management;
mod body;
mod connect;
mod frame;
#[cfg(test)]
mod fuzz;
mod grpc_web;
pub mod issuer;
mod json;
mod origins;
pub mod sds;
mod speech;
mod translator;
pub mod web;
pub mod webhooks;
mod wiped;

pub use answer::Answer;
pub use json::SchemaError;
pub use speech::{Refusal, Speech};
pub use translator::{Heard, Translator};
pub use web::{Route, Web};
