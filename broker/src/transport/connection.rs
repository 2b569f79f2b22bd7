//! One connection as the calls on it see it: who is at the other end, and whether their certificate still holds.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::pki_types::CertificateDer;
use rustls::{ProtocolVersion, ServerConnection};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use x509_parser::parse_x509_certificate;

use super::material::Material;
use super::patience::Answers;
use super::settings::TlsVersion;
use super::tls::Tls;
use crate::clock::Timestamp;
use crate::error::{Failure, Reason};
use crate::identity::{Certificate, CertificateError};

/// Travels in every request's extensions as `Arc<Connection>`.
#[derive(Debug)]
pub struct Connection {
    id: u64,
    peer: SocketAddr,
    local: SocketAddr,
    protocol: Protocol,
    tls_version: TlsVersion,
    client: Option<Client>,
    tls: Arc<Tls>,
    answers: Answers,
    retired: CancellationToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// Why a certificate that was good at the handshake is good no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRefusal {
    #[error("the client certificate, or one above it, has expired")]
    Expired,
    #[error("the client certificate is not valid yet")]
    NotYetValid,
    #[error("the client certificate has been revoked")]
    Revoked,
    #[error("no current revocation list covers the client certificate")]
    UnknownRevocation,
    #[error("no trusted client CA vouches for the client certificate")]
    Untrusted,
    #[error("the client certificate's SPIFFE trust domain is not among [tls] trust_domains")]
    UnknownTrustDomain,
    #[error("the client certificate was issued by a CA that does not speak for its SPIFFE trust domain")]
    ForeignTrustDomain,
    #[error("the client certificate is not acceptable")]
    Invalid,
}

#[derive(Debug)]
struct Client {
    certificate: Arc<Certificate>,
    chain: Vec<CertificateDer<'static>>,
    name: OnceLock<Option<Arc<str>>>,
    /// The last verdict in two words, so that a call pays two loads while nothing changes. `good_until` is written first
    /// and `judged_in` last: who sees the new generation sees its end too.
    judged_in: AtomicU64,
    good_until: AtomicU64,
    verdict: Mutex<Verdict>,
}

#[derive(Clone, Copy, Debug)]
struct Verdict {
    generation: u64,
    good_until: Timestamp,
    refusal: Option<CertificateRefusal>,
}

impl Connection {
    /// `material` is what the handshake was held with: whatever replaced it since, the first call is judged by.
    pub(super) fn new(
        id: u64,
        (local, peer): (SocketAddr, SocketAddr),
        session: &ServerConnection,
        tls: Arc<Tls>,
        material: &Material,
        answers: Answers,
    ) -> Result<Self, CertificateError> {
        let now = tls.now();
        let client = match session.peer_certificates() {
            Some(chain) if !chain.is_empty() => Some(Client::new(chain, material, now)?),
            _ => None,
        };
        Ok(Self {
            id,
            peer,
            local,
            protocol: match session.alpn_protocol() {
                Some(b"h2") => Protocol::Http2,
                _ => Protocol::Http1,
            },
            tls_version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => TlsVersion::V1_3,
                _ => TlsVersion::V1_2,
            },
            client,
            tls,
            answers,
            retired: CancellationToken::new(),
        })
    }

    /// Unique in this process, growing with time.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn answers(&self) -> &Answers {
        &self.answers
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub fn local(&self) -> SocketAddr {
        self.local
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub fn tls_version(&self) -> TlsVersion {
        self.tls_version
    }

    /// The client certificate as things stand now, under the client CAs and revocation lists in use; `None` if the client
    /// presented none.
    ///
    /// Cheap enough for every call and every event of a stream: the chain is verified again only after a reload or when
    /// one of its times has passed. A certificate that is refused also ends the connection once its calls are answered,
    /// so that a client with a newer one comes back with it.
    pub fn certificate(&self) -> Result<Option<Arc<Certificate>>, CertificateRefusal> {
        let Some(client) = &self.client else { return Ok(None) };
        match client.refusal(&self.tls) {
            None => Ok(Some(Arc::clone(&client.certificate))),
            Some(refusal) => {
                self.retired.cancel();
                Err(refusal)
            }
        }
    }

    /// The name that the certificate gives its holder, worked out by the first call and kept for the others.
    pub fn name_once<E>(&self, name: impl FnOnce() -> Result<Option<Arc<str>>, E>) -> Result<Option<Arc<str>>, E> {
        let Some(client) = &self.client else { return Ok(None) };
        if let Some(known) = client.name.get() {
            return Ok(known.clone());
        }
        Ok(client
            .name
            .get_or_init({
                let name = name()?;
                || name
            })
            .clone())
    }

    /// What the client certificate says, in force or not; for records and logs, never for a decision.
    pub fn presented(&self) -> Option<&Certificate> {
        self.client.as_ref().map(|client| &*client.certificate)
    }

    /// Resolves once the client certificate has been refused.
    pub(super) fn retired(&self) -> WaitForCancellationFuture<'_> {
        self.retired.cancelled()
    }
}

impl Client {
    fn new(chain: &[CertificateDer<'static>], material: &Material, now: Timestamp) -> Result<Self, CertificateError> {
        let client = Self {
            certificate: Arc::new(Certificate::parse(&chain[0])?),
            chain: chain.to_vec(),
            name: OnceLock::new(),
            judged_in: AtomicU64::new(0),
            good_until: AtomicU64::new(0),
            verdict: Mutex::new(Verdict { generation: 0, good_until: Timestamp::from_micros(0), refusal: None }),
        };
        client.judge(material, now);
        Ok(client)
    }

    fn refusal(&self, tls: &Tls) -> Option<CertificateRefusal> {
        let now = tls.now();
        let judged_now = self.judged_in.load(Ordering::Acquire) == tls.generation();
        if judged_now && now.as_micros() < self.good_until.load(Ordering::Acquire) {
            return None;
        }
        self.judge(&tls.current(), now)
    }

    #[cold]
    fn judge(&self, material: &Material, now: Timestamp) -> Option<CertificateRefusal> {
        let mut verdict = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        let stands = verdict.refusal.is_some() || now < verdict.good_until;
        if verdict.generation != material.generation() || !stands {
            let refusal = self.verify(material, now).err();
            let good_until = match refusal {
                None => next_change(&self.chain, material, now),
                Some(_) => Timestamp::from_micros(0),
            };
            *verdict = Verdict { generation: material.generation(), good_until, refusal };
            self.good_until.store(verdict.good_until.as_micros(), Ordering::Release);
            self.judged_in.store(verdict.generation, Ordering::Release);
        }
        verdict.refusal
    }

    fn verify(&self, material: &Material, now: Timestamp) -> Result<(), CertificateRefusal> {
        material.verify(&self.chain, now).map_err(|error| CertificateRefusal::of(&error))?;
        // A SPIFFE id that is malformed is refused where identities are made, with the rule that it breaks.
        let Ok(Some(id)) = self.certificate.spiffe_id() else { return Ok(()) };
        match material.speaks_for(id.trust_domain(), &self.chain, now) {
            Some(true) => Ok(()),
            Some(false) => Err(CertificateRefusal::ForeignTrustDomain),
            None => Err(CertificateRefusal::UnknownTrustDomain),
        }
    }
}

impl CertificateRefusal {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign error with many variants")]
    fn of(error: &rustls::Error) -> Self {
        use rustls::CertificateError as E;
        let rustls::Error::InvalidCertificate(error) = error else {
            return Self::Invalid;
        };
        match error {
            E::Expired | E::ExpiredContext { .. } => Self::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => Self::NotYetValid,
            E::Revoked => Self::Revoked,
            E::UnknownRevocationStatus | E::ExpiredRevocationList | E::ExpiredRevocationListContext { .. } => {
                Self::UnknownRevocation
            }
            E::UnknownIssuer | E::BadSignature => Self::Untrusted,
            _ => Self::Invalid,
        }
    }
}

impl From<CertificateRefusal> for Failure {
    fn from(refusal: CertificateRefusal) -> Self {
        let reason = match refusal {
            CertificateRefusal::Expired => Reason::CertificateExpired,
            CertificateRefusal::NotYetValid
            | CertificateRefusal::Revoked
            | CertificateRefusal::UnknownRevocation
            | CertificateRefusal::Untrusted
            | CertificateRefusal::UnknownTrustDomain
            | CertificateRefusal::ForeignTrustDomain
            | CertificateRefusal::Invalid => Reason::CertificateRejected,
        };
        Self::new(reason, format!("{refusal}; connect again with one that is accepted"))
    }
}

/// The first moment after `now` at which the verdict could turn by time alone.
fn next_change(chain: &[CertificateDer<'_>], material: &Material, now: Timestamp) -> Timestamp {
    let expiries = chain.iter().filter_map(|der| {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        let last_second = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
        Some(Timestamp::from_secs(last_second.saturating_add(1)))
    });
    expiries
        .chain(material.crl_updates().iter().copied())
        .filter(|moment| *moment > now)
        .min()
        .unwrap_or(Timestamp::from_micros(u64::MAX))
}
