//! What a guard says of itself: the circuit, and the quota ledger.

use std::time::Duration;

use super::Operation;
use crate::clock::Timestamp;
use crate::error::Reason;

#[derive(Clone, Debug)]
pub struct Account {
    pub circuit: Circuit,
    pub ledger: [LedgerEntry; Operation::ALL.len()],
    /// Requests sent again, since the start.
    pub retries: u64,
    /// When the provider last answered, whatever it said.
    pub success: Option<Timestamp>,
    /// Cleared by the next call that succeeds.
    pub failure: Option<LastFailure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    Closed,
    Open { retry: Timestamp },
    HalfOpen,
}

#[derive(Clone, Debug)]
pub struct LastFailure {
    pub at: Timestamp,
    pub reason: Reason,
    pub message: String,
}

/// What became of one class's budget. The window is the one that ends now.
#[derive(Clone, Debug)]
pub struct LedgerEntry {
    pub operation: Operation,
    pub window: Duration,
    pub limit: u64,
    pub used: u64,
    /// What a whole window at the present rate would use.
    pub forecast: u64,
    /// When nothing is left, if the present rate goes on.
    pub exhausted: Option<Timestamp>,
    /// Until when the provider wants to be left alone.
    pub paused: Option<Timestamp>,
    /// Since the start.
    pub requests: u64,
    pub throttled: u64,
    pub refused: u64,
}

impl LedgerEntry {
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}
