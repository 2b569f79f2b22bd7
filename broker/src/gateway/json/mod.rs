//! The contract's messages as JSON, by protobuf's own mapping: straight from text to wire format and back, without a
//! tree in between that would hold secrets once more.

mod escapes;
mod fault;
#[cfg(test)]
mod fuzz;
mod reader;
mod schema;
mod writer;

#[cfg(test)]
mod tests;

pub use schema::SchemaError;
pub(super) use schema::{MessageId, Schema};
pub(super) use writer::{Malformed, write_text};
