//! Rotations: what changed in secrets, who must know, and the engine that changes them.

pub mod holders;
pub mod schedule;
pub mod strategies;
