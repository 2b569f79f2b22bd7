//! What an event comes down to.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::names::SecretName;
use crate::rotation::{Fact, Observation};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Of one secret, under the name that each of its stores has for it.
    Fact(Vec<SecretName>, Observation),
    /// That there is a new version, of which the event says too little: the store is to be asked.
    Added { secrets: Vec<SecretName>, version: Arc<str>, happened: Option<Timestamp> },
    /// Of another store, or nothing that readers would notice.
    OfNoConcern,
    /// What nobody can make sense of, however often it is delivered.
    Unreadable(&'static str),
}

impl Told {
    /// Which secrets it is about, and which version of them.
    pub(super) fn subjects(&self) -> (&[SecretName], Option<&Arc<str>>) {
        match self {
            Self::Added { secrets, version, .. } => (secrets, Some(version)),
            Self::Fact(secrets, observation) => match &observation.fact {
                Fact::VersionAdded(mark) => (secrets, Some(&mark.id)),
                Fact::VersionEnabled(id)
                | Fact::VersionDisabled(id)
                | Fact::VersionDestroyed(id)
                | Fact::NearExpiry(id) => (secrets, Some(id)),
                Fact::SecretDeleted | Fact::SecretUpdated => (secrets, None),
            },
            Self::OfNoConcern | Self::Unreadable(_) => (&[], None),
        }
    }
}

/// As the clouds write it; what cannot be read is as if it was not told.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.trim().parse().ok()?;
    u64::try_from(time.as_microsecond()).ok().map(Timestamp::from_micros)
}
