//! The moments between two steps of a lease, at which a suite can end the process.

use std::fmt;

/// Told of each step as it is reached. The broker's own does nothing.
pub trait Failpoints: Send + Sync + fmt::Debug {
    fn reach(&self, point: Point);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    MintBegun,
    MintPending,
    MintCreated,
    MintActive,
    RenewExtended,
    RevokeBegun,
    RevokeRemoved,
    RevokeEnded,
}

impl Point {
    pub const ALL: [Self; 8] = [
        Self::MintBegun,
        Self::MintPending,
        Self::MintCreated,
        Self::MintActive,
        Self::RenewExtended,
        Self::RevokeBegun,
        Self::RevokeRemoved,
        Self::RevokeEnded,
    ];
}

#[derive(Clone, Copy, Debug)]
pub struct NoFailpoints;

impl Failpoints for NoFailpoints {
    fn reach(&self, _point: Point) {}
}
