//! End to end: a real broker, real clients, real files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

mod admin;
mod audit;
mod bad_input;
mod calls;
mod dev;
mod providers;
mod reload;
mod status;
