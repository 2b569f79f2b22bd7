//! Page tokens: a provider's own place marker, sealed so that it tells its holder nothing and fits no other request.

use aws_lc_rs::aead::{AES_256_GCM, Aad, MAX_TAG_LEN, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::digest::Digest;
use crate::error::{Failure, Reason};

const DEFAULT_SIZE: usize = 50;
const MAX_SIZE: i32 = 1000;
/// Longer than any secret's id.
const PLACE: usize = 256;
/// A provider's own marker may be longer.
const MAX_PLACE: usize = 4096;
/// In base64, what `seal` makes of the longest place.
const MAX_TOKEN: usize = (NONCE_LEN + MAX_PLACE + MAX_TAG_LEN).div_ceil(3) * 4;

/// Seals tokens with a key that lives as long as the process: a token from before a restart starts over.
pub struct PageTokens(RandomizedNonceKey);

/// What a token is bound to: the caller, and every part of the request that shapes the list.
#[derive(Clone, Copy, Debug)]
pub struct Binding(Digest);

impl Binding {
    pub fn of(parts: &[&str]) -> Self {
        let parts: Vec<Digest> = parts.iter().map(|part| Digest::of(part.as_bytes())).collect();
        Self(Digest::of_parts(&parts.iter().map(|part| part.0.as_slice()).collect::<Vec<_>>()))
    }
}

impl PageTokens {
    pub fn new() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key)?;
        RandomizedNonceKey::new(&AES_256_GCM, &key).map(Self)
    }

    pub fn seal(&self, place: &str, binding: Binding) -> Result<String, Failure> {
        if place.len() > MAX_PLACE {
            let message = "the store marks its pages in a way that is too long to be passed on; report this";
            return Err(Failure::new(Reason::Internal, message));
        }
        // All of one length: the place is a name, and not always one that the caller may see.
        let mut sealed = vec![0; PLACE.max(place.len())];
        sealed[..place.len()].copy_from_slice(place.as_bytes());
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(binding.0.0), &mut sealed)
            .map_err(|error| Failure::new(Reason::Internal, "a page token could not be sealed").caused_by(error))?;
        let mut token = nonce.as_ref().to_vec();
        token.append(&mut sealed);
        Ok(URL_SAFE_NO_PAD.encode(token))
    }

    pub fn open(&self, token: &str, binding: Binding) -> Result<Option<String>, Failure> {
        if token.is_empty() {
            return Ok(None);
        }
        self.try_open(token, binding).map(Some).ok_or_else(|| {
            let advice = "is not from an earlier page of this same request; begin again without it";
            Failure::bad_field(Reason::InvalidPageToken, "page_token", advice)
        })
    }

    fn try_open(&self, token: &str, binding: Binding) -> Option<String> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let place = self.0.open_in_place(nonce, Aad::from(binding.0.0), &mut sealed).ok()?;
        let place = std::str::from_utf8(place).ok()?;
        Some(place.trim_end_matches('\0').to_owned())
    }
}

impl std::fmt::Debug for PageTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageTokens")
    }
}

/// `page_size`, where zero leaves it to us.
pub(super) fn page_size(asked: i32) -> Result<usize, Failure> {
    match asked {
        0 => Ok(DEFAULT_SIZE),
        1..=MAX_SIZE => Ok(usize::try_from(asked).unwrap_or(DEFAULT_SIZE)),
        _ => {
            Err(Failure::bad_field(Reason::InvalidArgument, "page_size", format!("is {asked}; write 0 to {MAX_SIZE}")))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_opens_for_its_own_request_only() {
        let tokens = PageTokens::new().unwrap();
        let (mine, yours) = (Binding::of(&["me", "stores/a"]), Binding::of(&["mestores/", "a"]));
        let token = tokens.seal("last-name", mine).unwrap();
        assert_eq!(token.len(), tokens.seal("a-much-longer-last-name", mine).unwrap().len());
        assert_eq!(tokens.open(&token, mine).unwrap().as_deref(), Some("last-name"));
        for (token, binding) in [(token.as_str(), yours), ("AAAA", mine), ("%%%", mine), (&token[1..], mine)] {
            assert_eq!(tokens.open(token, binding).unwrap_err().reason(), Reason::InvalidPageToken);
        }
        assert_eq!(PageTokens::new().unwrap().open(&token, mine).unwrap_err().reason(), Reason::InvalidPageToken);
        assert_eq!(tokens.open("", mine).unwrap(), None);
    }

    #[test]
    fn whatever_is_sealed_opens() {
        let (tokens, binding) = (PageTokens::new().unwrap(), Binding::of(&["me"]));
        for length in [0, PLACE, PLACE + 1, 2048, MAX_PLACE] {
            let place = "x".repeat(length);
            let token = tokens.seal(&place, binding).unwrap();
            assert_eq!(tokens.open(&token, binding).unwrap(), Some(place), "{length}");
        }
        assert!(tokens.seal(&"x".repeat(MAX_PLACE + 1), binding).is_err());
    }

    #[test]
    fn a_page_size_out_of_bounds_is_refused() {
        assert_eq!(page_size(0).unwrap(), 50);
        assert_eq!(page_size(1000).unwrap(), 1000);
        assert!(page_size(-1).is_err() && page_size(1001).is_err());
    }
}
