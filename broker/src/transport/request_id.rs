//! Ids that tell calls apart, across restarts too.

use std::sync::atomic::{AtomicU64, Ordering};

/// A random part for the process, a count for the call.
#[derive(Debug)]
pub struct RequestIds {
    process: u64,
    calls: AtomicU64,
}

impl RequestIds {
    pub fn new() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut process = [0; 8];
        aws_lc_rs::rand::fill(&mut process)?;
        Ok(Self { process: u64::from_be_bytes(process), calls: AtomicU64::new(1) })
    }

    pub fn next(&self) -> u128 {
        (u128::from(self.process) << 64) | u128::from(self.calls.fetch_add(1, Ordering::Relaxed))
    }
}
