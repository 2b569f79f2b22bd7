//! The rotation log's revisions: how far this process has come, and in which life of the log.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use aws_lc_rs::error::Unspecified;

use crate::error::{Failure, Reason};

/// A place in the rotation log. A load that began at one reflects what happened up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

/// There is no durable log yet, so each start begins an epoch, and only changes made here advance it.
#[derive(Debug)]
pub struct Revisions {
    epoch: Arc<str>,
    current: AtomicU64,
}

const CATCH_UP: Duration = Duration::from_millis(200);

impl Revision {
    pub const fn new(revision: u64) -> Self {
        Self(revision)
    }

    pub const fn get(self) -> u64 {
        self.0
    }
}

impl Revisions {
    pub fn new() -> Result<Self, Unspecified> {
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random)?;
        let epoch = format!("{:032x}", u128::from_be_bytes(random)).into();
        Ok(Self { epoch, current: AtomicU64::new(0) })
    }

    pub fn epoch(&self) -> &Arc<str> {
        &self.epoch
    }

    pub fn current(&self) -> Revision {
        Revision(self.current.load(SeqCst))
    }

    /// The revision of a change that was made here.
    pub fn advance(&self) -> Revision {
        Revision(self.current.fetch_add(1, SeqCst) + 1)
    }

    /// What happened up to `revision` is known here.
    pub fn reach(&self, revision: Revision) {
        self.current.fetch_max(revision.0, SeqCst);
    }

    /// Whether `demanded` can be honoured. `epoch` is the one it was told with; empty where the caller did not say.
    pub(super) fn check(&self, demanded: Revision, epoch: &str) -> Result<(), Failure> {
        if demanded == Revision::default() {
            return Ok(());
        }
        if !epoch.is_empty() && epoch != &*self.epoch {
            let message = "min_revision belongs to another epoch of the rotation log, whose numbers mean nothing in \
                           this one; read without it, and go on from the revision and epoch of the answer";
            return Err(Failure::new(Reason::EpochChanged, message));
        }
        if demanded > self.current() {
            let message = format!("this replica has not seen revision {demanded} yet; retry shortly");
            return Err(Failure::new(Reason::RevisionNotReached, message).retry_after(CATCH_UP));
        }
        Ok(())
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
