//! Keys: a record's kind, then segments, with `/` between them.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::record::Kind;

const MAX_BYTES: usize = 1024;

/// Names one record. Equal text means the same record, and no segment's text can pass for two.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// Whole leading segments: what begins with `leases/a/` never takes in `leases/ab`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Prefix(Arc<str>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    #[error("a segment of the key is empty; every segment needs at least one character")]
    Empty,
    #[error("the key is longer than {MAX_BYTES} bytes; shorten what it is made of")]
    TooLong,
    #[error("this is not a key: keys are KIND/SEGMENT/…, of letters, digits, `-`, `.`, `_`, `~`, `@`, `:` and `%`")]
    Grammar,
}

impl Key {
    /// Segments may hold any text; what the grammar lacks is written as `%XX`.
    pub fn new(kind: &Kind, segments: &[&str]) -> Result<Self, KeyError> {
        if segments.is_empty() {
            return Err(KeyError::Empty);
        }
        join(kind, segments).map(|text| Self(text.into()))
    }

    /// Takes what [`Key::as_str`] gave.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        check(text)?;
        if text.contains('/') { Ok(Self(text.into())) } else { Err(KeyError::Grammar) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its kind.
    pub fn kind(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// The text of its segments, as they were given.
    pub fn segments(&self) -> impl Iterator<Item = String> + '_ {
        self.0.split('/').skip(1).map(decoded)
    }
}

impl Prefix {
    /// Every record.
    pub fn all() -> Self {
        Self("".into())
    }

    pub fn new(kind: &Kind, segments: &[&str]) -> Result<Self, KeyError> {
        join(kind, segments).map(|text| Self(format!("{text}/").into()))
    }

    /// Takes `KIND` or `KIND/SEGMENT/…`, with or without a `/` at its end.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.is_empty() {
            return Ok(Self::all());
        }
        check(text)?;
        Ok(Self(format!("{text}/").into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn contains(&self, key: &Key) -> bool {
        key.0.starts_with(&*self.0)
    }
}

fn join(kind: &Kind, segments: &[&str]) -> Result<String, KeyError> {
    let mut text = kind.name.to_owned();
    for segment in segments {
        if segment.is_empty() {
            return Err(KeyError::Empty);
        }
        text.push('/');
        for byte in segment.bytes() {
            if is_plain(byte) {
                text.push(byte.into());
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    if text.len() > MAX_BYTES { Err(KeyError::TooLong) } else { Ok(text) }
}

fn check(text: &str) -> Result<(), KeyError> {
    if text.len() > MAX_BYTES {
        return Err(KeyError::TooLong);
    }
    if text.split('/').any(str::is_empty) {
        return Err(KeyError::Empty);
    }
    let allowed = |byte| is_plain(byte) || matches!(byte, b'/' | b'%');
    if text.bytes().all(allowed) { Ok(()) } else { Err(KeyError::Grammar) }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'@' | b':')
}

fn decoded(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [byte, tail @ ..] = rest {
        let escaped = tail.first_chunk::<2>().and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
        match (byte, escaped) {
            (b'%', Some(escaped)) => {
                bytes.push(escaped);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THING: Kind = Kind { name: "things", upgrades: &[] };

    #[test]
    fn any_text_makes_a_segment_of_its_own_and_comes_back() {
        let ids = ["a", "a/b", "a%2Fb", "%", "x509/spiffe://td/a", "ä\0\n ", "..", "A"];
        let keys: Vec<Key> = ids.iter().map(|id| Key::new(&THING, &[id, "end"]).unwrap()).collect();
        for (key, id) in keys.iter().zip(ids) {
            assert_eq!(key.segments().collect::<Vec<_>>(), [id, "end"]);
            assert_eq!(key.kind(), "things");
            assert_eq!(Key::parse(key.as_str()).as_ref(), Ok(key));
            assert_eq!(keys.iter().filter(|other| *other == key).count(), 1, "{key}");
        }
    }

    #[test]
    fn a_prefix_ends_where_a_segment_ends() {
        let prefix = Prefix::new(&THING, &["a"]).unwrap();
        assert!(prefix.contains(&Key::new(&THING, &["a", "b"]).unwrap()));
        assert!(!prefix.contains(&Key::new(&THING, &["ab"]).unwrap()));
        assert!(!prefix.contains(&Key::new(&THING, &["a"]).unwrap()));
        assert_eq!(Prefix::parse("things/a"), Ok(prefix));
        assert!(Prefix::all().contains(&Key::new(&THING, &["a"]).unwrap()));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!(Key::new(&THING, &[]), Err(KeyError::Empty));
        assert_eq!(Key::new(&THING, &["a", ""]), Err(KeyError::Empty));
        assert_eq!(Key::new(&THING, &["x".repeat(MAX_BYTES).as_str()]), Err(KeyError::TooLong));
        assert_eq!(Key::parse("things"), Err(KeyError::Grammar));
        assert_eq!(Key::parse("things//a"), Err(KeyError::Empty));
        assert_eq!(Key::parse("things/ä"), Err(KeyError::Grammar));
    }
}
