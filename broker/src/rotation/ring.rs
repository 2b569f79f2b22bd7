//! The last changes in memory, for whoever follows the log at a pace of its own.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use thiserror::Error;

use super::event::Event;
use crate::clock::Timestamp;
use crate::state::{Epoch, Position, Revision};

/// All that happened at one revision.
#[derive(Debug)]
pub struct Change {
    pub revision: Revision,
    pub committed: Timestamp,
    /// One or more, each of another secret.
    pub events: Arc<[Event]>,
    /// The whole change as subscribers receive it, once the first of them has had it encoded.
    pub encoded: OnceLock<Bytes>,
}

/// Why what came after a position cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Behind {
    #[error("what came next is no longer kept")]
    Compacted,
    #[error("the log was replaced by another")]
    EpochChanged,
}

#[derive(Debug)]
pub(super) struct Ring {
    /// Events, some hundred bytes each.
    most: usize,
    epoch: Option<Epoch>,
    changes: VecDeque<Arc<Change>>,
    events: usize,
    /// Everything after it is here.
    floor: Revision,
}

impl Ring {
    pub(super) const fn new(most: usize) -> Self {
        Self { most, epoch: None, changes: VecDeque::new(), events: 0, floor: Revision::new(0) }
    }

    /// Whatever was here is of another history, or has a gap after it.
    pub(super) fn begin(&mut self, epoch: Epoch, floor: Revision) {
        *self = Self { epoch: Some(epoch), floor, ..Self::new(self.most) };
    }

    pub(super) fn push(&mut self, change: Change) {
        self.events += change.events.len();
        self.changes.push_back(Arc::new(change));
        while self.events > self.most
            && let Some(oldest) = self.changes.pop_front()
        {
            self.events -= oldest.events.len();
            self.floor = oldest.revision;
        }
    }

    /// When something happened last, or before all that is here.
    pub(super) fn last(&self) -> Revision {
        self.changes.back().map_or(self.floor, |change| change.revision)
    }

    pub(super) fn after(&self, position: Position, most: usize) -> Result<Vec<Arc<Change>>, Behind> {
        if self.epoch != Some(position.epoch) {
            return Err(Behind::EpochChanged);
        }
        if position.revision < self.floor {
            return Err(Behind::Compacted);
        }
        let first = self.changes.partition_point(|change| change.revision <= position.revision);
        Ok(self.changes.range(first..).take(most).cloned().collect())
    }
}
