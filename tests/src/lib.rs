//! What the suites share: a CA, a clock that stands still, a broker in the process and one of its own process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

pub mod attack;
pub mod broker;
pub mod canary;
pub mod clock;
pub mod collector;
pub mod command;
pub mod conformance;
pub mod curl;
pub mod doubles;
pub mod envoy;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod issuer;
pub mod node;
pub mod pki;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod sandbox;
pub mod state_conformance;
pub mod tls;
pub mod web;
