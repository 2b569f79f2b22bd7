//! Changes, told in the order of their commits.
//!
//! Nothing is buffered for a watcher: it reads the store's history at its own pace. One that is so slow that history is
//! compacted before it is read is told so.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use thiserror::Error;

use super::failure::StateError;
use super::key::Key;
use super::record::{self, Fault, Record};
use super::store::Revision;

/// After an end, only the same end.
pub struct Watch {
    source: Box<dyn Source>,
    end: Option<WatchEnd>,
}

/// What a backend makes a watch of.
pub trait Source: Send {
    fn next(&mut self) -> BoxFuture<'_, Result<Watched, WatchEnd>>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    Batch(Batch),
    /// Everything up to and including this revision has been told.
    Progress(Revision),
}

/// All that one transaction changed under the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub revision: Revision,
    pub changes: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: Key,
    /// Absent when it was deleted.
    pub value: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WatchEnd {
    #[error("the history before revision {oldest} is gone; list anew and watch from there")]
    Compacted { oldest: Revision },
    #[error("the history that was watched was replaced by another; list anew and watch from there")]
    Replaced,
    #[error("the store cannot be watched at the moment; watch again from the revision after the last one heard")]
    Unavailable(#[from] StateError),
}

impl Watch {
    pub fn new(source: impl Source + 'static) -> Self {
        Self { source: Box::new(source), end: None }
    }

    /// Waits for the next. Dropped while it waits, it has taken nothing.
    pub async fn next(&mut self) -> Result<Watched, WatchEnd> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        self.source.next().await.inspect_err(|end| self.end = Some(end.clone()))
    }
}

impl Change {
    /// The record after the change; `None` when it was deleted.
    pub fn record<R: Record>(&self) -> Option<Result<R, Fault>> {
        self.value.as_ref().map(|value| record::decode(value))
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("end", &self.end).finish_non_exhaustive()
    }
}
