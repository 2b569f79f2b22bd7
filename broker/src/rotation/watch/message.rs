//! What a subscriber is told, before it is put into bytes.

use std::sync::Arc;
use std::time::Duration;

use super::cursor::Cursor;
use crate::clock::Timestamp;
use crate::names::SecretName;
use crate::rotation::{Change, Event, Position, Standing};
use crate::state::Revision;

#[derive(Clone, Debug)]
pub struct Message {
    /// Where to resume once this has been dealt with. Absent: where the message before said.
    pub cursor: Option<Cursor>,
    pub told: Told,
}

#[derive(Clone, Debug)]
pub enum Told {
    Snapshot {
        entries: Vec<Entry>,
        complete: bool,
    },
    /// One or more, in order.
    Changes(Vec<Part>),
    Bookmark(Bookmark),
    Resync(Why),
}

/// What the subscriber is to be told of one change.
#[derive(Clone, Debug)]
pub struct Part {
    pub position: Position,
    pub change: Arc<Change>,
    /// Those of its events that are for this subscriber. Absent: all of them.
    pub only: Option<Vec<Event>>,
}

/// One secret of a snapshot.
#[derive(Clone, Debug)]
pub struct Entry {
    pub secret: SecretName,
    /// Absent where nothing was heard of the secret yet.
    pub standing: Option<(Standing, Revision)>,
}

#[derive(Clone, Debug)]
pub struct Bookmark {
    pub position: Position,
    pub now: Timestamp,
    pub credential_ends: Option<Timestamp>,
    /// The broker is shutting down, and this is how long to wait.
    pub reconnect_delay: Option<Duration>,
}

/// Why a subscriber starts over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Compacted,
    Lagged,
    PolicyChanged,
    EpochChanged,
}

impl Part {
    pub fn events(&self) -> &[Event] {
        self.only.as_deref().unwrap_or(&self.change.events)
    }
}

impl Why {
    pub const ALL: [Self; 4] = [Self::Compacted, Self::Lagged, Self::PolicyChanged, Self::EpochChanged];

    /// In metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Compacted => "compacted",
            Self::Lagged => "lagged",
            Self::PolicyChanged => "policy_changed",
            Self::EpochChanged => "epoch_changed",
        }
    }
}
