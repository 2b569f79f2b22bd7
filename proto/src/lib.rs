//! Keyferry's gRPC contract: the messages, servers and clients generated from `keyferry/v1/*.proto`.
//!
//! The generated code is checked in, so that building needs no protobuf compiler. After a change of a `.proto` file run
//! `KEYFERRY_REGENERATE=1 cargo test -p keyferry-proto --test generated`.

mod redacted;

/// Version 1 of the contract.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    missing_docs,
    rust_2018_idioms,
    rustdoc::all,
    unreachable_pub
)]
pub mod v1 {
    include!("gen/keyferry.v1.rs");
}

/// The encoded descriptors of the contract and of what it imports, for server reflection and for going over all methods.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/keyferry.v1.bin");
