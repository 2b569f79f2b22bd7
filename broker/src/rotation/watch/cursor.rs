//! Where a watch resumes, as text that only the broker reads.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::digest::Digest;
use crate::state::Revision;

const FORM: u8 = 1;
const BYTES: usize = 1 + 8 + 8 + 8;
const CHECK: usize = 6;

/// A place in the log, and what held when it was told. Every replica reads every other's, and nothing in it is secret
/// or trusted: a forged one resumes where its maker likes, and each event is authorised all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub epoch: Mark,
    /// The policies that decided what was told up to here.
    pub policies: Mark,
    pub revision: Revision,
}

/// Tells one of its kind from another, in less than its full text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark([u8; 8]);

impl Mark {
    pub fn of(text: &str) -> Self {
        Self::from(Digest::of(text.as_bytes()))
    }
}

impl From<Digest> for Mark {
    fn from(digest: Digest) -> Self {
        let mut mark = [0; 8];
        mark.copy_from_slice(&digest.0[..8]);
        Self(mark)
    }
}

impl Cursor {
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(BYTES + CHECK);
        bytes.push(FORM);
        bytes.extend_from_slice(&self.epoch.0);
        bytes.extend_from_slice(&self.policies.0);
        bytes.extend_from_slice(&self.revision.get().to_be_bytes());
        bytes.extend_from_slice(&check(&bytes));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `None` for whatever [`Self::encode`] did not make.
    pub fn decode(text: &str) -> Option<Self> {
        let mut bytes = [0; BYTES + CHECK];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let (body, told) = bytes.split_at(BYTES);
        if length != bytes.len() || body[0] != FORM || told != check(body) {
            return None;
        }
        let part = |from: usize| body[from..from + 8].try_into().ok();
        Some(Self {
            epoch: Mark(part(1)?),
            policies: Mark(part(9)?),
            revision: Revision::new(u64::from_be_bytes(part(17)?)),
        })
    }
}

/// Against what was cut short, mistyped or made up.
fn check(body: &[u8]) -> [u8; CHECK] {
    let mut check = [0; CHECK];
    check.copy_from_slice(&Digest::of_parts(&[b"keyferry watch cursor", body]).0[..CHECK]);
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor() -> Cursor {
        Cursor { epoch: Mark::of("epoch"), policies: Mark::of("policies"), revision: Revision::new(u64::MAX - 7) }
    }

    #[test]
    fn a_cursor_comes_back_from_its_text() {
        let text = cursor().encode();
        assert_eq!(Cursor::decode(&text), Some(cursor()));
        assert_eq!(text, cursor().encode(), "every subscriber gets the same text");
    }

    #[test]
    fn whatever_differs_from_it_in_a_character_is_none() {
        let text = cursor().encode();
        for at in 0..text.len() {
            let swapped = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
            let changed = format!("{}{swapped}{}", &text[..at], &text[at + 1..]);
            assert_eq!(Cursor::decode(&changed), None, "character {at}");
            assert_eq!(Cursor::decode(&text[..at]), None, "cut at {at}");
        }
        for garbage in
            ["", "0", "not a cursor", &"A".repeat(41), &"A".repeat(42), &"A".repeat(100_000), &format!("{text}A")]
        {
            assert_eq!(Cursor::decode(garbage), None);
        }
    }
}
