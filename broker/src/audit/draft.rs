//! The record of the call under way: opened before anything is decided, closed exactly once, whatever happens.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Log, Receipt, Record, Unavailable};
use crate::clock::SharedClock;

/// Shared by the layers of one call. Dropped unsettled (a cancelled call), it records that.
#[derive(Debug)]
pub struct Draft {
    log: Log,
    clock: SharedClock,
    started: Instant,
    /// `None` once the record was handed to the log.
    record: Mutex<Option<Record>>,
    announced: AtomicBool,
}

impl Draft {
    pub fn open(log: Log, clock: SharedClock, mut record: Record) -> Arc<Self> {
        record.time = Some(clock.now());
        let started = clock.monotonic();
        Arc::new(Self { log, clock, started, record: Mutex::new(Some(record)), announced: AtomicBool::new(false) })
    }

    /// Of a stream that is open: each thing that it hands out or refuses goes on record by itself.
    pub fn follow_up(&self, record: Record) -> Arc<Self> {
        Self::open(self.log.clone(), Arc::clone(&self.clock), record)
    }

    /// Adds what became known. After the record is on its way there is nothing left to add to.
    pub fn note(&self, add: impl FnOnce(&mut Record)) {
        if let Some(record) = self.lock().as_mut() {
            add(record);
        }
    }

    /// Puts a change on record as begun, before it is made. The call's own record follows when it has ended.
    pub async fn announce(&self) -> Result<(), Unavailable> {
        let Some(mut record) = self.lock().clone() else { return Ok(()) };
        record.outcome = "STARTED";
        self.log.commit(&record).await?;
        self.announced.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Relaxed)
    }

    /// Puts the call on record before its answer leaves: with the outcome that was noted, or else with this one.
    ///
    /// `None`: it is on record already.
    pub async fn settle(&self, outcome: &'static str) -> Option<Result<Receipt, Unavailable>> {
        let record = self.close(outcome)?;
        Some(self.log.commit(&record).await)
    }

    /// The outcome noted so far, possibly empty; `None` once on record.
    pub fn outcome(&self) -> Option<&'static str> {
        self.lock().as_ref().map(|record| record.outcome)
    }

    fn close(&self, outcome: &'static str) -> Option<Record> {
        let mut record = self.lock().take()?;
        if record.outcome.is_empty() {
            record.outcome = outcome;
        }
        record.latency = self.clock.monotonic().saturating_duration_since(self.started);
        Some(record)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Record>> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(record) = self.close("CANCELLED") {
            self.log.commit_detached(&record);
        }
    }
}
