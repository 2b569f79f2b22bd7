//! Keyferry, a gRPC secrets broker. `ARCHITECTURE.md` walks through this tree.

pub mod admin;
pub mod admission;
pub mod app;
pub mod audit;
mod browser;
pub mod cli;
pub mod clock;
pub mod config;
pub mod databases;
pub mod digest;
pub mod error;
pub mod failpoints;
pub mod gateway;
pub mod hardening;
pub mod identity;
pub mod names;
pub mod providers;
pub mod report;
pub mod requests;
pub mod rotation;
pub mod rpc;
pub mod secrets;
pub mod state;
pub mod status;
pub mod suggestion;
pub mod telemetry;
pub mod transport;

// What fuzz targets allocate is bounded.
#[cfg(test)]
#[global_allocator]
static MEMORY: keyferry_fuzz::Counting = keyferry_fuzz::Counting;
