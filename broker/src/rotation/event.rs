//! What the rotation log tells, and what it is told.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::names::{RotationName, SecretName};
use crate::secrets::{Newest, VersionInfo, VersionState};

/// One change of one secret. Of a secret, each revision has one at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    pub secret: SecretName,
    pub kind: EventKind,
    /// Absent where it happened to the secret.
    pub version: Option<Arc<str>>,
    /// For `VersionCurrent`: the one that was current before, where that is known.
    pub previous: Option<Arc<str>>,
    /// The broker's own rotation that it belongs to.
    pub rotation: Option<RotationName>,
    pub origin: Origin,
    /// As the origin says, or else when the broker learnt of it.
    pub happened: Timestamp,
    /// When the previous version retires at the latest.
    pub retires: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    VersionCurrent,
    VersionRetiring,
    VersionEnabled,
    VersionDisabled,
    VersionDestroyed,
    VersionNearExpiry,
    SecretDeleted,
    SecretUpdated,
    RotationStarted,
    RotationAdvanced,
    RotationEnded,
}

/// Who told the broker first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A call to this broker.
    Operator,
    Schedule,
    PubSub,
    EventGrid,
    /// Tells how things are, not when they became so.
    Poll,
}

/// What somebody says of a secret. It may have been said before, and what happened later may be known already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    pub fact: Fact,
    pub origin: Origin,
    /// When, as the origin says. A poll says when it asked. Absent: the origin does not tell.
    pub happened: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    VersionAdded(VersionMark),
    VersionEnabled(Arc<str>),
    VersionDisabled(Arc<str>),
    VersionDestroyed(Arc<str>),
    /// It ends soon at its provider.
    NearExpiry(Arc<str>),
    SecretDeleted,
    SecretUpdated,
}

/// A version as it was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionMark {
    pub id: Arc<str>,
    pub created: Option<Timestamp>,
    pub state: VersionState,
}

impl From<&VersionInfo> for VersionMark {
    fn from(version: &VersionInfo) -> Self {
        Self { id: Arc::clone(&version.id), created: version.created, state: version.state }
    }
}

impl From<&VersionMark> for Newest {
    fn from(version: &VersionMark) -> Self {
        Self { id: Arc::clone(&version.id), created: version.created }
    }
}
