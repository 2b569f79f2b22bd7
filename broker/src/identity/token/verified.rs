//! A verified token: who holds it, what it says, until when, and by which key it stands.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::claims::Claims;
use super::registered::Registered;
use super::rejection::Rejection;
use super::settings::IssuerSettings;
use crate::clock::Timestamp;
use crate::digest::Digest;

/// Made by [`super::TokenVerifier`] alone.
pub struct Token {
    id: Arc<str>,
    issuer: Arc<IssuerSettings>,
    subject_at: usize,
    audiences: Box<[Box<str>]>,
    expires: Timestamp,
    issued: Option<Timestamp>,
    not_before: Option<Timestamp>,
    digest: Digest,
    facts: Digest,
    certificate_thumbprint: Option<Digest>,
    claims: Claims,
    pub(super) signer: Signer,
}

/// The key that a token stands by.
pub(super) struct Signer {
    pub(super) issuer: usize,
    pub(super) key: Digest,
    /// The generation of the issuer's keys in which the key was last seen.
    confirmed: AtomicU64,
}

impl Signer {
    pub(super) fn new(issuer: usize, key: Digest, generation: u64) -> Self {
        Self { issuer, key, confirmed: AtomicU64::new(generation) }
    }

    pub(super) fn is_confirmed(&self, generation: u64) -> bool {
        self.confirmed.load(Ordering::Relaxed) == generation
    }

    pub(super) fn confirm(&self, generation: u64) {
        self.confirmed.store(generation, Ordering::Relaxed);
    }
}

impl Token {
    pub(super) fn new(
        issuer: &Arc<IssuerSettings>,
        registered: Registered,
        claims: Claims,
        digest: Digest,
        signer: Signer,
    ) -> Self {
        let prefix = format!("oidc/{}/", issuer.name);
        let subject_at = prefix.len();
        // An issuer's name has no slash, so whatever the subject is, no two callers share an id.
        let id = prefix + &registered.subject;
        let facts = facts(&id, &registered.audiences, &claims);
        Self {
            id: id.into(),
            issuer: Arc::clone(issuer),
            subject_at,
            audiences: registered.audiences.into_iter().map(String::into_boxed_str).collect(),
            expires: registered.expires,
            issued: registered.issued,
            not_before: registered.not_before,
            digest,
            facts,
            certificate_thumbprint: registered.certificate_thumbprint,
            claims,
            signer,
        }
    }

    /// The caller that it identifies: `oidc/<issuer name>/<subject>`.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    pub fn issuer_name(&self) -> &str {
        &self.issuer.name
    }

    /// Its `iss`.
    pub fn issuer_url(&self) -> &str {
        &self.issuer.url
    }

    /// The value of the claim that identifies callers of this issuer, mostly `sub`.
    pub fn subject(&self) -> &str {
        &self.id[self.subject_at..]
    }

    pub fn audiences(&self) -> impl ExactSizeIterator<Item = &str> {
        self.audiences.iter().map(|audience| &**audience)
    }

    /// Its `exp`.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// When the rights that it gives end: `exp` and the issuer's leeway.
    pub fn ends(&self) -> Timestamp {
        self.expires.plus(self.issuer.leeway)
    }

    pub fn issued(&self) -> Option<Timestamp> {
        self.issued
    }

    pub fn not_before(&self) -> Option<Timestamp> {
        self.not_before
    }

    /// SHA-256 of the whole token: names it in an audit record without giving it away.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Names all that policy sees of it. A caller's next token mostly says the same, and is decided as this one was.
    pub fn facts(&self) -> Digest {
        self.facts
    }

    /// The certificate that it is bound to (RFC 8705).
    pub fn certificate_thumbprint(&self) -> Option<Digest> {
        self.certificate_thumbprint
    }

    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Whether it may be used on a connection with this client certificate.
    pub fn check_binding(&self, presented: Option<Digest>) -> Result<(), Rejection> {
        match (self.certificate_thumbprint, presented) {
            (None, _) => Ok(()),
            (Some(bound), Some(presented)) if bound == presented => Ok(()),
            (Some(_), Some(_)) => Err(Rejection::Binding(
                "the connection's is another one; call with the certificate that the token was requested with",
            )),
            (Some(_), None) => Err(Rejection::Binding(
                "the connection has none; call with the certificate that the token was requested with",
            )),
        }
    }

    /// The memory that keeping it takes.
    pub(super) fn weight(&self) -> usize {
        let audiences: usize = self.audiences.iter().map(|audience| size_of::<Box<str>>() + audience.len()).sum();
        size_of::<Self>() + self.id.len() + audiences + self.claims.heap_size()
    }
}

fn facts(id: &str, audiences: &[String], claims: &Claims) -> Digest {
    let mut told = Vec::new();
    let mut tell = |text: &str| {
        told.extend_from_slice(&text.len().to_be_bytes());
        told.extend_from_slice(text.as_bytes());
    };
    tell(id);
    tell(&audiences.len().to_string());
    audiences.iter().for_each(|audience| tell(audience));
    for (path, value) in claims.iter() {
        tell(path);
        tell(value);
    }
    Digest::of(&told)
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).field("expires", &self.expires).finish_non_exhaustive()
    }
}
