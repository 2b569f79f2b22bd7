use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::handshake::HandshakeFailure;

/// What the transport has done since it started; telemetry reads it.
#[derive(Debug, Default)]
pub struct TransportStats {
    pub(super) accepted: AtomicU64,
    pub(super) accept_errors: AtomicU64,
    pub(super) refused_full: AtomicU64,
    pub(super) retired: AtomicU64,
    pub(super) cut_off: AtomicU64,
    pub(super) broken: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) flooded: AtomicU64,
    pub(super) untaken: AtomicU64,
    pub(super) reloads: AtomicU64,
    pub(super) reload_failures: AtomicU64,
    handshake_failures: [AtomicU64; HandshakeFailure::ALL.len()],
    open: AtomicUsize,
}

/// One connection that has finished its handshake, counted until dropped.
#[derive(Debug)]
pub(super) struct OpenConnection<'a>(&'a TransportStats);

impl TransportStats {
    /// TCP connections taken from the listener.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Times the listener could not accept, as when out of file descriptors.
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Ordering::Relaxed)
    }

    /// Connections closed because as many as allowed were open.
    pub fn refused_full(&self) -> u64 {
        self.refused_full.load(Ordering::Relaxed)
    }

    /// Connections closed because their client certificate was no longer in force.
    pub fn retired(&self) -> u64 {
        self.retired.load(Ordering::Relaxed)
    }

    /// Connections closed with calls still under way when the grace had passed.
    pub fn cut_off(&self) -> u64 {
        self.cut_off.load(Ordering::Relaxed)
    }

    /// Connections that ended by an HTTP error, a reset or an unanswered ping.
    pub fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }

    /// Connections closed because the peer sent nothing after its handshake, or stopped reading.
    pub fn timed_out(&self) -> u64 {
        self.timed_out.load(Ordering::Relaxed)
    }

    /// Connections closed because of floods of frames that ask for nothing.
    pub fn flooded(&self) -> u64 {
        self.flooded.load(Ordering::Relaxed)
    }

    /// Calls whose peer did not take their answer.
    pub fn untaken(&self) -> u64 {
        self.untaken.load(Ordering::Relaxed)
    }

    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    pub fn reload_failures(&self) -> u64 {
        self.reload_failures.load(Ordering::Relaxed)
    }

    /// Connections open now, handshakes not counted.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub fn handshake_failures(&self, kind: HandshakeFailure) -> u64 {
        self.handshake_failures[kind as usize].load(Ordering::Relaxed)
    }

    pub(super) fn handshake_failed(&self, kind: HandshakeFailure) {
        self.handshake_failures[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one more open connection unless `limit` are open.
    pub(super) fn try_open(&self, limit: usize) -> Option<OpenConnection<'_>> {
        self.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1))
            .ok()
            .map(|_| OpenConnection(self))
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
