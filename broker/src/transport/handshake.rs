//! TLS handshakes: how many may be under way, how long one may take, and how one fails.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::server::Acceptor;
use rustls::{CertificateError, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;

/// A refused peer gets this long, and this many bytes, to have its last words read. Closing a socket with unread bytes
/// resets it, and the peer would lose the alert that says why.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 * 1024;

/// An honest peer needs a round trip or two; from here on a handshake may be ended for the sake of a newer one.
const STALLED: Duration = Duration::from_millis(500);
/// The same while it has not said hello, which comes right behind its connection.
const SILENT: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The bytes were not TLS: plain text or garbage.
    NotTls,
    NoCertificate,
    UntrustedCertificate,
    ExpiredCertificate,
    RevokedCertificate,
    /// No current revocation list speaks for the certificate's CA.
    UnknownRevocation,
    BadCertificate,
    /// No protocol version, cipher suite or application protocol in common.
    Incompatible,
    /// The peer refused our certificate or gave up with an alert.
    PeerAlert,
    Disconnected,
    TimedOut,
    /// Stalled, and made room for a newer handshake when all places were taken.
    Evicted,
    Other,
}

/// The handshakes under way. When their places are taken, those that have stalled make room, longest first; while none
/// has, the next connection waits. So silent peers cannot keep others out, and a crowd of honest ones, all reconnecting
/// after a restart, queues in the kernel instead of throwing each other out.
#[derive(Debug)]
pub(super) struct Handshakes {
    limit: usize,
    clock: SharedClock,
    pending: Mutex<BTreeMap<u64, Pending>>,
    freed: Notify,
}

#[derive(Debug)]
struct Pending {
    since: Instant,
    hello: Hello,
    evicted: CancellationToken,
}

#[derive(Clone, Copy, Debug)]
enum Hello {
    /// Not looked for yet: a busy broker is not the peer's fault.
    Unasked,
    Awaited(Instant),
    Heard,
}

#[derive(Debug)]
pub(super) struct HandshakeSlot {
    id: u64,
    evicted: CancellationToken,
    handshakes: Arc<Handshakes>,
}

impl HandshakeFailure {
    pub const ALL: [Self; 13] = [
        Self::NotTls,
        Self::NoCertificate,
        Self::UntrustedCertificate,
        Self::ExpiredCertificate,
        Self::RevokedCertificate,
        Self::UnknownRevocation,
        Self::BadCertificate,
        Self::Incompatible,
        Self::PeerAlert,
        Self::Disconnected,
        Self::TimedOut,
        Self::Evicted,
        Self::Other,
    ];

    /// The name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::NoCertificate => "no_certificate",
            Self::UntrustedCertificate => "untrusted_certificate",
            Self::ExpiredCertificate => "expired_certificate",
            Self::RevokedCertificate => "revoked_certificate",
            Self::UnknownRevocation => "unknown_revocation",
            Self::BadCertificate => "bad_certificate",
            Self::Incompatible => "incompatible",
            Self::PeerAlert => "peer_alert",
            Self::Disconnected => "disconnected",
            Self::TimedOut => "timed_out",
            Self::Evicted => "evicted",
            Self::Other => "other",
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign error with many variants")]
    fn of(error: &io::Error) -> Self {
        let Some(tls) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) else {
            return Self::Disconnected;
        };
        match tls {
            rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. } => Self::NotTls,
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::InvalidCertificate(error) => Self::of_certificate(error),
            rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => Self::Incompatible,
            rustls::Error::AlertReceived(_) => Self::PeerAlert,
            _ => Self::Other,
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign error with many variants")]
    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::ExpiredCertificate,
            CertificateError::Revoked => Self::RevokedCertificate,
            CertificateError::UnknownRevocationStatus
            | CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => Self::UnknownRevocation,
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UntrustedCertificate,
            _ => Self::BadCertificate,
        }
    }
}

impl Handshakes {
    pub(super) fn new(limit: usize, clock: SharedClock) -> Arc<Self> {
        Arc::new(Self { limit: limit.max(1), clock, pending: Mutex::default(), freed: Notify::new() })
    }

    /// A place for handshake `id`; ids grow with time, so the smallest is the oldest.
    pub(super) async fn begin(self: &Arc<Self>, id: u64) -> HandshakeSlot {
        loop {
            match self.try_begin(id) {
                Ok(slot) => return slot,
                // A place that is freed in between leaves a permit, so it is not missed.
                Err(until_stalled) => drop(timeout(until_stalled, self.freed.notified()).await),
            }
        }
    }

    /// A place now, or how long until the first handshake counts as stalled.
    fn try_begin(self: &Arc<Self>, id: u64) -> Result<HandshakeSlot, Duration> {
        let now = self.clock.monotonic();
        let evicted = CancellationToken::new();
        let mut pending = self.lock();
        if pending.len() >= self.limit
            && let Some((stalls_at, first)) = pending.iter().map(|(id, pending)| (pending.stalls_at(), *id)).min()
        {
            if stalls_at > now {
                return Err(stalls_at - now);
            }
            if let Some(stalled) = pending.remove(&first) {
                stalled.evicted.cancel();
            }
        }
        pending.insert(id, Pending { since: now, hello: Hello::Unasked, evicted: evicted.clone() });
        Ok(HandshakeSlot { id, evicted, handshakes: Arc::clone(self) })
    }

    /// Gives back a descriptor, when the process has none left, by ending the handshake that has taken longest.
    pub(super) fn end_oldest(&self) {
        if let Some((_, oldest)) = self.lock().pop_first() {
            oldest.evicted.cancel();
            self.freed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn stalls_at(&self) -> Instant {
        let stalls_at = self.since + STALLED;
        match self.hello {
            Hello::Unasked | Hello::Heard => stalls_at,
            Hello::Awaited(since) => stalls_at.min(since + SILENT),
        }
    }
}

impl HandshakeSlot {
    /// Shakes hands within `deadline`; on failure the peer has been told why, where TLS can tell it.
    pub(super) async fn shake(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        config: Arc<ServerConfig>,
        deadline: Duration,
    ) -> Result<TlsStream<TcpStream>, HandshakeFailure> {
        let shaken = tokio::select! {
            () = self.evicted.cancelled() => return Err(HandshakeFailure::Evicted),
            shaken = timeout(deadline, self.accept(stream, config)) => shaken,
        };
        match shaken {
            Ok(Ok(stream)) => Ok(stream),
            Err(_) => Err(HandshakeFailure::TimedOut),
            Ok(Err((error, None))) => Err(HandshakeFailure::of(&error)),
            Ok(Err((error, Some(stream)))) => {
                let failure = HandshakeFailure::of(&error);
                tracing::debug!(%peer, kind = failure.name(), %error, "handshake failed");
                if !matches!(failure, HandshakeFailure::NotTls | HandshakeFailure::Disconnected) {
                    tokio::select! {
                        () = self.evicted.cancelled() => {}
                        _ = timeout(LINGER, linger(stream)) => {}
                    }
                }
                Err(failure)
            }
        }
    }

    /// In two steps, so that peers who have said hello are told from those who have not.
    async fn accept(
        &self,
        stream: TcpStream,
        config: Arc<ServerConfig>,
    ) -> Result<TlsStream<TcpStream>, (io::Error, Option<TcpStream>)> {
        let mut hello = pin!(LazyConfigAcceptor::new(Acceptor::default(), stream));
        let mut asked = false;
        let heard = poll_fn(|cx| {
            let heard = hello.as_mut().poll(cx);
            if heard.is_pending() && !asked {
                asked = true;
                self.now(Hello::Awaited(self.handshakes.clock.monotonic()));
            }
            heard
        });
        match heard.await {
            Ok(start) => {
                self.now(Hello::Heard);
                start.into_stream(config).into_fallible().await.map_err(|(error, stream)| (error, Some(stream)))
            }
            Err(error) => Err((error, hello.take_io())),
        }
    }

    fn now(&self, hello: Hello) {
        if let Some(pending) = self.handshakes.lock().get_mut(&self.id) {
            pending.hello = hello;
        }
    }
}

impl Drop for HandshakeSlot {
    fn drop(&mut self) {
        if self.handshakes.lock().remove(&self.id).is_some() {
            self.handshakes.freed.notify_one();
        }
    }
}

async fn linger(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut buffer = [0; 2048];
    let mut left = LINGER_BYTES;
    while left > 0 {
        match stream.read(&mut buffer).await? {
            0 => break,
            n => left = left.saturating_sub(n),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock, Timestamp};

    #[derive(Debug)]
    struct Stopwatch(Mutex<Instant>);

    impl Stopwatch {
        fn start() -> Arc<Self> {
            Arc::new(Self(Mutex::new(SystemClock.monotonic())))
        }

        fn advance(&self, span: Duration) {
            *self.0.lock().unwrap() += span;
        }
    }

    impl Clock for Stopwatch {
        fn now(&self) -> Timestamp {
            Timestamp::from_secs(0)
        }

        fn monotonic(&self) -> Instant {
            *self.0.lock().unwrap()
        }
    }

    #[test]
    fn the_oldest_stalled_handshake_makes_room_for_the_newest() {
        let clock = Stopwatch::start();
        let handshakes = Handshakes::new(2, clock.clone());
        let first = handshakes.try_begin(0).unwrap();
        clock.advance(Duration::from_millis(100));
        let second = handshakes.try_begin(1).unwrap();
        clock.advance(Duration::from_millis(400));
        let _third = handshakes.try_begin(2).unwrap();
        assert!(first.evicted.is_cancelled());
        assert!(!second.evicted.is_cancelled());
    }

    #[test]
    fn handshakes_that_make_progress_are_not_ended_for_newer_ones() {
        let clock = Stopwatch::start();
        let handshakes = Handshakes::new(1, clock.clone());
        let slot = handshakes.try_begin(0).unwrap();
        clock.advance(Duration::from_millis(200));
        assert_eq!(handshakes.try_begin(1).unwrap_err(), Duration::from_millis(300));
        assert!(!slot.evicted.is_cancelled());
    }

    #[test]
    fn who_has_not_said_hello_makes_room_sooner_than_who_has() {
        let clock = Stopwatch::start();
        let handshakes = Handshakes::new(3, clock.clone());
        let [heard, unasked, silent] = [0, 1, 2].map(|id| handshakes.try_begin(id).unwrap());
        heard.now(Hello::Heard);
        silent.now(Hello::Awaited(clock.monotonic()));
        assert_eq!(handshakes.try_begin(3).unwrap_err(), SILENT);
        clock.advance(SILENT);
        let _next = handshakes.try_begin(3).unwrap();
        let evicted = [&heard, &unasked, &silent].map(|slot| slot.evicted.is_cancelled());
        assert_eq!(evicted, [false, false, true]);
        assert_eq!(handshakes.try_begin(4).unwrap_err(), STALLED - SILENT);
    }

    #[test]
    fn the_oldest_handshake_is_ended_when_descriptors_run_out() {
        let handshakes = Handshakes::new(9, Stopwatch::start());
        let first = handshakes.try_begin(0).unwrap();
        let second = handshakes.try_begin(1).unwrap();
        handshakes.end_oldest();
        assert!(first.evicted.is_cancelled());
        assert!(!second.evicted.is_cancelled());
        assert_eq!(handshakes.lock().len(), 1);
    }

    #[tokio::test]
    async fn a_finished_handshake_frees_its_place() {
        let handshakes = Handshakes::new(1, Stopwatch::start());
        let first = handshakes.begin(0).await;
        let (second, ()) = tokio::join!(handshakes.begin(1), async { drop(first) });
        assert!(!second.evicted.is_cancelled());
        assert_eq!(handshakes.lock().len(), 1);
    }

    #[test]
    fn every_failure_is_counted_in_a_place_of_its_own() {
        for (at, kind) in HandshakeFailure::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at, "{}", kind.name());
        }
    }
}
