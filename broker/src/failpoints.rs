//! The moments between two steps of a lease or of a rotation, at which a suite can end the process.

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
    RotationBegun,
    RotationDigested,
    RotationAdded,
    RotationCreated,
    RotationAdmitted,
    RotationSet,
    RotationProved,
    RotationTested,
    RotationCurrent,
    RotationRetiring,
    RotationExpelled,
    RotationDisabled,
    RotationRetired,
}

impl Point {
    pub const OF_LEASES: [Self; 8] = [
        Self::MintBegun,
        Self::MintPending,
        Self::MintCreated,
        Self::MintActive,
        Self::RenewExtended,
        Self::RevokeBegun,
        Self::RevokeRemoved,
        Self::RevokeEnded,
    ];

    /// Of one that succeeds, in order.
    pub const OF_ROTATIONS: [Self; 13] = [
        Self::RotationBegun,
        Self::RotationDigested,
        Self::RotationAdded,
        Self::RotationCreated,
        Self::RotationAdmitted,
        Self::RotationSet,
        Self::RotationProved,
        Self::RotationTested,
        Self::RotationCurrent,
        Self::RotationRetiring,
        Self::RotationExpelled,
        Self::RotationDisabled,
        Self::RotationRetired,
    ];
}

#[derive(Clone, Copy, Debug)]
pub struct NoFailpoints;

impl Failpoints for NoFailpoints {
    fn reach(&self, _point: Point) {}
}
