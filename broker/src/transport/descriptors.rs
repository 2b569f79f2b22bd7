//! File descriptors: each connection takes one, and a process without any cannot even accept and refuse.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::settings::Limits;

/// Kept for the listeners, the audit log, the stores and the connections that we open ourselves.
const RESERVE: usize = 128;
/// Of what is left, the part that handshakes may have when there is not enough for all.
const HANDSHAKES: usize = 10;

impl Limits {
    /// Lowers the connections to what the process may have open, and says what to raise.
    pub fn fit_descriptors(&mut self) {
        let Some(allowed) = getrlimit(Resource::Nofile).current else { return };
        let wanted = (self.connections, self.handshakes);
        self.fit(usize::try_from(allowed).unwrap_or(usize::MAX));
        if (self.connections, self.handshakes) != wanted {
            tracing::warn!(
                allowed,
                connections = self.connections,
                handshakes = self.handshakes,
                "fewer connections than [limits] asks for: raise the limit of open files (ulimit -Hn, LimitNOFILE=)"
            );
        }
    }

    fn fit(&mut self, allowed: usize) {
        let available = allowed.saturating_sub(RESERVE).max(2);
        if self.connections.saturating_add(self.handshakes) > available {
            self.handshakes = self.handshakes.min((available / HANDSHAKES).max(1));
            self.connections = self.connections.min(available - self.handshakes);
        }
    }
}

pub(super) fn are_exhausted(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::super::tests::limits;
    use super::*;

    fn fitted(connections: usize, handshakes: usize, allowed: usize) -> (usize, usize) {
        let mut limits = Limits { connections, handshakes, ..limits() };
        limits.fit(allowed);
        (limits.connections, limits.handshakes)
    }

    #[test]
    fn connections_and_handshakes_together_leave_descriptors_for_the_rest() {
        assert_eq!(fitted(10_000, 1000, 1 << 20), (10_000, 1000));
        assert_eq!(fitted(10_000, 1000, 11_128), (10_000, 1000));
        assert_eq!(fitted(10_000, 1000, 1128), (900, 100));
        assert_eq!(fitted(10_000, 5, 1128), (995, 5));
        assert_eq!(fitted(10_000, 1000, 0), (1, 1));
    }

    #[test]
    fn a_process_or_system_without_descriptors_is_recognised() {
        assert!(are_exhausted(&Errno::MFILE.into()) && are_exhausted(&Errno::NFILE.into()));
        assert!(!are_exhausted(&Errno::NOMEM.into()));
    }
}
