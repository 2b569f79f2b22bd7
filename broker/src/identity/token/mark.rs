//! A token's name within this process: what verified tokens are looked up by.
//!
//! SHA-256 of a token of 1.5 KiB takes 0.9 µs, which would be nearly all of a warm call, and grows with the token; this
//! takes 0.16 µs. It is AES-GCM's authenticator over the token, under a key that is drawn at the start. Neither key nor
//! marks leave the process, so nobody can aim for a mark: two tokens share one by chance of less than 2^-118. That is
//! also why one nonce may serve for all: what a repeated nonce gives away, it gives to those who see the marks.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

const LENGTH: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Mark(pub(super) [u8; LENGTH]);

/// Without a key, where no random bytes could be had, nothing has a mark and each call is verified anew.
pub(super) struct Marker(Option<LessSafeKey>);

impl Marker {
    pub(super) fn new() -> Self {
        let mut key = Zeroizing::new([0; LENGTH]);
        let drawn = rand::fill(&mut *key);
        Self(drawn.and_then(|()| UnboundKey::new(&AES_128_GCM, &*key)).ok().map(LessSafeKey::new))
    }

    pub(super) fn mark(&self, token: &str) -> Option<Mark> {
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let tag = self.0.as_ref()?.seal_in_place_separate_tag(nonce, Aad::from(token), &mut []).ok()?;
        tag.as_ref().try_into().ok().map(Mark)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_mark_is_of_one_text_and_one_process() {
        let (marker, other) = (Marker::new(), Marker::new());
        let texts: HashSet<_> = (0..8192).map(|length| "a".repeat(length)).chain(["b".to_owned()]).collect();
        let marks: HashSet<_> = texts.iter().map(|text| marker.mark(text).unwrap()).collect();
        assert_eq!(marks.len(), texts.len());
        assert!(marker.mark("a.b.c") == marker.mark("a.b.c"));
        assert!(marker.mark("a.b.c") != other.mark("a.b.c"));
    }
}
