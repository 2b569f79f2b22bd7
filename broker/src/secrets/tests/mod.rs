//! The read path over a scripted store: every test decides when the store answers, and what.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod guarded;
mod interleavings;
mod memory;
mod outage;
mod reading;
mod vault;
mod world;
