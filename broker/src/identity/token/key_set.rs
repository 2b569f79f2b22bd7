//! The keys that an issuer publishes (RFC 7517), as far as they can be used here.

use super::algorithm::Algorithm;
use super::json::{self, Json, JsonError};
use super::jwk::{Key, Unusable};
use super::rejection::Quoted;
use crate::digest::Digest;

const MAX_KEYS: usize = 64;
/// Keys of one name that are tried in turn.
const MAX_TRIED: usize = 4;

#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    unusable: Vec<String>,
    fingerprint: Digest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeySetError {
    #[error("the key set is unreadable")]
    Unreadable(#[source] JsonError),
    #[error("the key set has no array `keys`")]
    NoKeys,
    #[error("the key set has more than {MAX_KEYS} keys")]
    TooMany,
    #[error("the key set has no key that an allowed algorithm can use")]
    NoneUsable,
    #[error("the key set's first key is {0}, and none of the others is usable")]
    AllUnusable(Unusable),
}

/// Which keys a token may have been signed with.
pub(super) enum Candidates<'a> {
    Some(Vec<&'a Key>),
    /// No key has this name.
    Unknown,
    /// The algorithm fits none of the keys of this name; or of all, where the token names none.
    Unfit,
    /// The token names no key and several fit.
    Ambiguous(usize),
}

impl KeySet {
    pub(super) fn parse(document: &[u8], allowed: &[Algorithm]) -> Result<Self, KeySetError> {
        let document = json::read_object(document).map_err(KeySetError::Unreadable)?;
        let published = document.get("keys").and_then(Json::as_array).ok_or(KeySetError::NoKeys)?;
        if published.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let mut keys = Vec::new();
        let mut unusable = Vec::new();
        let mut first = None;
        for (index, jwk) in published.iter().enumerate() {
            match jwk.as_object().ok_or(Unusable::Shape).and_then(|jwk| Key::parse(jwk, allowed)) {
                Ok(key) => keys.push(key),
                Err(why) => {
                    first.get_or_insert(why);
                    unusable.push(format!("{}: {why}", name(jwk, index)));
                }
            }
        }
        if keys.is_empty() {
            return Err(first.map_or(KeySetError::NoneUsable, KeySetError::AllUnusable));
        }
        // The order in which an issuer lists its keys says nothing.
        let mut fingerprints: Vec<_> = keys.iter().map(|key| key.fingerprint().0).collect();
        fingerprints.sort_unstable();
        Ok(Self { keys, unusable, fingerprint: Digest::of(fingerprints.as_flattened()) })
    }

    pub(super) fn candidates(&self, id: Option<&str>, algorithm: Algorithm) -> Candidates<'_> {
        let Some(id) = id else {
            let fitting: Vec<_> = self.keys.iter().filter(|key| key.fits(algorithm)).collect();
            return match fitting.len() {
                0 => Candidates::Unfit,
                1 => Candidates::Some(fitting),
                several => Candidates::Ambiguous(several),
            };
        };
        let mut named = self.keys.iter().filter(|key| key.id() == Some(id)).peekable();
        if named.peek().is_none() {
            return Candidates::Unknown;
        }
        let fitting: Vec<_> = named.filter(|key| key.fits(algorithm)).take(MAX_TRIED).collect();
        if fitting.is_empty() { Candidates::Unfit } else { Candidates::Some(fitting) }
    }

    pub(super) fn contains(&self, fingerprint: &Digest) -> bool {
        self.keys.iter().any(|key| key.fingerprint() == *fingerprint)
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The published keys that were left aside, and why.
    pub(super) fn unusable(&self) -> &[String] {
        &self.unusable
    }

    pub(super) fn fingerprint(&self) -> Digest {
        self.fingerprint
    }
}

fn name(jwk: &Json, index: usize) -> String {
    let id = jwk.as_object().and_then(|jwk| jwk.get("kid")).and_then(Json::as_str);
    id.map_or_else(|| format!("key number {}", index + 1), |id| Quoted::new(id).to_string())
}
