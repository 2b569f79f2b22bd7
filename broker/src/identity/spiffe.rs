//! The grammar of SPIFFE ids, strict: an id that two readers could understand differently is no id.

use std::fmt;

/// The specification's bounds.
const MAX_ID_BYTES: usize = 2048;
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

const SCHEME: &str = "spiffe://";

/// `spiffe://trust-domain/path`, with a path: the id of a trust domain itself names no workload.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    id: String,
    path_at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    #[error("a SPIFFE id must start with `spiffe://` in lower case")]
    Scheme,
    #[error("a SPIFFE id may have at most {MAX_ID_BYTES} bytes")]
    TooLong,
    #[error("a SPIFFE trust domain has 1 to {MAX_TRUST_DOMAIN_BYTES} of `a-z 0-9 . - _`, and neither port nor user")]
    TrustDomain,
    #[error("a workload's SPIFFE id must have a path after its trust domain")]
    NoPath,
    #[error(
        "a SPIFFE path has segments of `a-z A-Z 0-9 . - _`, none of them empty, `.` or `..`, and no slash at its end"
    )]
    Path,
}

impl SpiffeId {
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (trust_domain, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let domain_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
        if trust_domain.is_empty()
            || trust_domain.len() > MAX_TRUST_DOMAIN_BYTES
            || !trust_domain.bytes().all(domain_byte)
        {
            return Err(SpiffeIdError::TrustDomain);
        }
        let segments = path.strip_prefix('/').ok_or(SpiffeIdError::NoPath)?;
        if segments.is_empty() {
            return Err(SpiffeIdError::NoPath);
        }
        if !segments.split('/').all(is_segment) {
            return Err(SpiffeIdError::Path);
        }
        Ok(Self { id: text.to_owned(), path_at: SCHEME.len() + trust_domain.len() })
    }

    /// Whether `uri` claims to be a SPIFFE id, well formed or not.
    pub fn is_claimed_by(uri: &str) -> bool {
        uri.as_bytes().get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"spiffe:"))
    }

    pub fn as_str(&self) -> &str {
        &self.id
    }

    pub fn trust_domain(&self) -> &str {
        &self.id[SCHEME.len()..self.path_at]
    }

    /// The path with its leading slash.
    pub fn path(&self) -> &str {
        &self.id[self.path_at..]
    }
}

fn is_segment(segment: &str) -> bool {
    let byte = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    !matches!(segment, "" | "." | "..") && segment.bytes().all(byte)
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_an_id_apart() {
        let id = SpiffeId::parse("spiffe://prod.example/ns/shop/sa/Cart_1").unwrap();
        assert_eq!(id.trust_domain(), "prod.example");
        assert_eq!(id.path(), "/ns/shop/sa/Cart_1");
        assert_eq!(id.to_string(), "spiffe://prod.example/ns/shop/sa/Cart_1");
    }

    #[test]
    fn refuses_whatever_two_readers_could_understand_differently() {
        use SpiffeIdError::{NoPath, Path, Scheme, TooLong, TrustDomain};
        let long = format!("spiffe://a/{}", "x".repeat(2048));
        let wide = format!("spiffe://{}/x", "a".repeat(256));
        for (text, expected) in [
            ("", Scheme),
            ("SPIFFE://a/b", Scheme),
            ("https://a/b", Scheme),
            ("spiffe:/a/b", Scheme),
            ("spiffe:///b", TrustDomain),
            ("spiffe://A/b", TrustDomain),
            ("spiffe://a:443/b", TrustDomain),
            ("spiffe://u@a/b", TrustDomain),
            ("spiffe://a%2e/b", TrustDomain),
            ("spiffe://a?q/b", TrustDomain),
            (&wide, TrustDomain),
            ("spiffe://a", NoPath),
            ("spiffe://a/", NoPath),
            ("spiffe://a//b", Path),
            ("spiffe://a/b/", Path),
            ("spiffe://a/./b", Path),
            ("spiffe://a/b/..", Path),
            ("spiffe://a/b%2f", Path),
            ("spiffe://a/b?c", Path),
            ("spiffe://a/b#c", Path),
            ("spiffe://a/b\0", Path),
            ("spiffe://a/\u{e9}", Path),
            (&long, TooLong),
        ] {
            assert_eq!(SpiffeId::parse(text), Err(expected), "{text:?}");
        }
    }
}
