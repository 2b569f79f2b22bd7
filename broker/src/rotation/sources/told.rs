//! What an event comes down to.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::names::SecretName;
use crate::rotation::Observation;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Fact(SecretName, Observation),
    /// That there is a new version, of which the event says too little: the store is to be asked.
    Added {
        secret: SecretName,
        version: Arc<str>,
        happened: Option<Timestamp>,
    },
    /// Of another store, or nothing that readers would notice.
    OfNoConcern,
    /// What nobody can make sense of, however often it is delivered.
    Unreadable(&'static str),
}

/// As the clouds write it; what cannot be read is as if it was not told.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.trim().parse().ok()?;
    u64::try_from(time.as_microsecond()).ok().map(Timestamp::from_micros)
}
