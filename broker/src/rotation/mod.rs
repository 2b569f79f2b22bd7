//! Rotations: what changed in secrets, who must know, and the engine that changes them.
//!
//! There is no list of events. Each secret has one record of what is known of it (`standing.rs`), written by the change
//! it tells of; the state's own history of those records is the log, and its revisions are the log's.

mod changes;
pub mod engine;
mod event;
pub mod holders;
mod log;
mod ring;
pub mod schedule;
pub mod settings;
pub mod sources;
mod standing;
pub mod strategies;
pub mod subscribers;
mod tail;
pub mod watch;

#[cfg(test)]
mod tests;

pub use changes::{Changed, Changes};
pub use event::{Event, EventKind, Fact, Observation, Origin, VersionMark};
pub use log::{Log, Observed};
pub use ring::{Behind, Change};
pub use standing::{Standing, Underway, Version};

pub use crate::state::Position;
