//! What the benchmarks share: a load generator, and looks at what a server takes.
#![allow(clippy::disallowed_methods, reason = "the real time is what is measured")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]

pub mod load;
pub mod memory;
pub mod openbao;
pub mod processor;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
