//! Peers that mean harm, and what good callers notice of them.

mod floods;
mod frames;
mod input;
mod peer;
mod siege;
mod slow;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

pub use floods::Flood;
pub use input::{Bomb, bombs};
use peer::Target;
pub use siege::{Figures, Pace, Siege};

/// Each is carried out by many peers at once, which begin anew whenever the broker has ended them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    Flood(Flood),
    /// Large answers of which one byte is taken, or none.
    UntakenAnswers,
    /// Large requests that stop before their end.
    HeldRequests,
    /// TCP and nothing else.
    SilentSockets,
    /// A TLS handshake by single bytes.
    SlowHandshakes,
    /// TLS with a good certificate and nothing after it.
    SilentCallers,
    /// Headers by single bytes.
    SlowHeaders,
    /// The same over HTTP/1 at the port that asks for no certificate.
    WebSlowHeaders,
    /// Connections to the operators' port that say nothing.
    SilentOperators,
    /// Messages that are nested, many in few bytes, or not of the length that they claim.
    Bombs,
    /// Good connections that do nothing.
    Idle,
}

/// How many peers carry it out.
#[derive(Clone, Copy, Debug)]
pub struct Strength {
    pub peers: usize,
    pub sockets: usize,
    pub idle: usize,
}

/// What the attackers saw.
#[derive(Debug, Default)]
struct Tally {
    connected: AtomicUsize,
    ended: AtomicUsize,
}

/// A crowd that connects all at once would time out on its own processor.
const CONNECTING: usize = 32;

impl Attack {
    pub const SLOW: [Self; 8] = [
        Self::UntakenAnswers,
        Self::HeldRequests,
        Self::SilentSockets,
        Self::SlowHandshakes,
        Self::SilentCallers,
        Self::SlowHeaders,
        Self::WebSlowHeaders,
        Self::SilentOperators,
    ];

    fn peers(self, strength: Strength) -> usize {
        match self {
            Self::Idle => strength.idle,
            Self::SilentSockets | Self::SlowHandshakes | Self::SilentCallers | Self::SilentOperators => {
                strength.sockets
            }
            Self::Flood(_)
            | Self::UntakenAnswers
            | Self::HeldRequests
            | Self::SlowHeaders
            | Self::WebSlowHeaders
            | Self::Bombs => strength.peers,
        }
    }

    /// Until its task is aborted.
    async fn carry_out(self, target: Target, connecting: Arc<Semaphore>, tally: Arc<Tally>) {
        loop {
            let place = connecting.acquire().await.unwrap();
            let began = || {
                drop(place);
                tally.connected.fetch_add(1, Ordering::Relaxed);
            };
            // How a connection ends is the broker's business, and whether it does is counted.
            let _ = self.once(&target, began).await;
            tally.ended.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Until the broker ends the connection. Connected, it says so.
    async fn once(self, target: &Target, began: impl FnOnce()) -> io::Result<()> {
        match self {
            Self::Flood(flood) => flood.carry_out(target, began).await,
            Self::UntakenAnswers => slow::untaken_answers(target, began).await,
            Self::HeldRequests => slow::held_requests(target, began).await,
            Self::SilentSockets => slow::silence(target.grpc, began).await,
            Self::SilentOperators => slow::silence(target.admin, began).await,
            Self::SlowHandshakes => slow::handshake(target, began).await,
            Self::SilentCallers => slow::silent_caller(target, began).await,
            Self::SlowHeaders => slow::headers(target, began).await,
            Self::WebSlowHeaders => slow::web_headers(target, began).await,
            Self::Bombs => input::throw(target, began).await,
            Self::Idle => slow::idle(target, began).await,
        }
    }
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Flood(flood) = self {
            return write!(f, "{flood:?}");
        }
        write!(f, "{self:?}")
    }
}
