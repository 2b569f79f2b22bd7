//! Streams that are open: how many a caller has, and what all of them were told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::message::{Told, Why};
use crate::error::{Failure, Reason};

#[derive(Debug)]
pub(super) struct Streams {
    most: usize,
    of: Mutex<HashMap<Arc<str>, usize>>,
    numbers: AtomicU64,
}

/// One stream's place among its caller's. Free again when dropped.
#[derive(Debug)]
pub struct Place {
    streams: Arc<Streams>,
    caller: Arc<str>,
    number: u64,
}

/// What was sent since the start.
#[derive(Debug, Default)]
pub struct Counts {
    snapshots: AtomicU64,
    batches: AtomicU64,
    bookmarks: AtomicU64,
    events: AtomicU64,
    resyncs: [AtomicU64; Why::ALL.len()],
}

impl Streams {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, of: Mutex::default(), numbers: AtomicU64::new(0) })
    }

    pub(super) fn enter(self: &Arc<Self>, caller: Arc<str>) -> Result<Place, Failure> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let open = of.entry(Arc::clone(&caller)).or_default();
        if *open >= self.most {
            return Err(too_many(&caller, self.most));
        }
        *open += 1;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        Ok(Place { streams: Arc::clone(self), caller, number })
    }

    pub(super) fn open(&self) -> usize {
        self.of.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

impl Place {
    /// Of this stream in the order of all.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of = self.streams.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = of.get_mut(&self.caller) {
            *open -= 1;
            if *open == 0 {
                of.remove(&self.caller);
            }
        }
    }
}

impl Counts {
    pub(super) fn sent(&self, told: &Told) {
        let count = |counter: &AtomicU64, by: usize| {
            counter.fetch_add(u64::try_from(by).unwrap_or(0), Ordering::Relaxed);
        };
        match told {
            Told::Snapshot { complete, .. } => count(&self.snapshots, usize::from(*complete)),
            Told::Changes(parts) => {
                count(&self.batches, 1);
                count(&self.events, parts.iter().map(|part| part.events().len()).sum());
            }
            Told::Bookmark(_) => count(&self.bookmarks, 1),
            Told::Resync(why) => count(&self.resyncs[*why as usize], 1),
        }
    }

    /// By kind.
    pub fn messages(&self) -> [(&'static str, u64); 3] {
        let counted = [("snapshot", &self.snapshots), ("events", &self.batches), ("bookmark", &self.bookmarks)];
        counted.map(|(kind, count)| (kind, count.load(Ordering::Relaxed)))
    }

    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    pub fn resyncs(&self) -> impl Iterator<Item = (Why, u64)> + '_ {
        Why::ALL.into_iter().zip(&self.resyncs).map(|(why, count)| (why, count.load(Ordering::Relaxed)))
    }
}

fn too_many(caller: &Arc<str>, most: usize) -> Failure {
    let limit = format!("{most} open streams");
    let message = format!(
        "{caller} has as many streams open as [quota] streams allows, {most}; close one, or watch more with one"
    );
    let retry = std::time::Duration::from_secs(5);
    Failure::new(Reason::StreamLimitExceeded, message).quota(caller.to_string(), limit, retry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_so_many_streams_and_another_its_own() {
        let streams = Streams::new(2);
        let (one, _two) = (streams.enter("a".into()).unwrap(), streams.enter("a".into()).unwrap());
        assert_eq!(streams.enter("a".into()).unwrap_err().reason(), Reason::StreamLimitExceeded);
        assert!(streams.enter("b".into()).is_ok());
        drop(one);
        assert!(streams.enter("a".into()).is_ok());
    }
}
