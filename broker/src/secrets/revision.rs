//! Where loads and changes stand: to each other in this process, and in the rotation log.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use crate::error::{Failure, Reason};
use crate::state::{Position, Revision};

/// Counts what happened to secrets, in the order in which this process heard of it. Means nothing elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Turn(u64);

#[derive(Debug, Default)]
pub(super) struct Revisions {
    turn: AtomicU64,
    /// How much of the rotation log is known here; absent until some is.
    position: RwLock<Option<Position>>,
}

const CATCH_UP: Duration = Duration::from_millis(200);

impl Revisions {
    pub(super) fn turn(&self) -> Turn {
        Turn(self.turn.load(SeqCst))
    }

    /// Something happened: what began before does not know of it.
    pub(super) fn advance(&self) -> Turn {
        Turn(self.turn.fetch_add(1, SeqCst) + 1)
    }

    pub(super) fn position(&self) -> Option<Position> {
        *self.position.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reach(&self, position: Option<Position>) {
        *self.position.write().unwrap_or_else(PoisonError::into_inner) = position;
    }

    /// Whether `demanded` can be honoured. `epoch` is the one it was told with; empty where the caller did not say.
    pub(super) fn check(&self, demanded: Revision, epoch: &str) -> Result<(), Failure> {
        if demanded == Revision::default() {
            return Ok(());
        }
        let position = self.position();
        if !epoch.is_empty() && position.is_some_and(|position| position.epoch.to_string() != epoch) {
            let message = "min_revision belongs to another epoch of the rotation log, whose numbers mean nothing in \
                           this one; read without it, and go on from the revision and epoch of the answer";
            return Err(Failure::new(Reason::EpochChanged, message));
        }
        if position.is_none_or(|position| position.revision < demanded) {
            let message = format!("this replica has not seen revision {demanded} yet; retry shortly");
            return Err(Failure::new(Reason::RevisionNotReached, message).retry_after(CATCH_UP));
        }
        Ok(())
    }
}
