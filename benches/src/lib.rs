//! What the benchmarks share: a load generator, looks at what a server takes, and the parts that are measured alone.
#![allow(clippy::disallowed_methods, reason = "the real time is what is measured")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]

pub mod load;
pub mod memory;
pub mod openbao;
pub mod parts;
pub mod processor;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
