//! A resource as the configuration declares it.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::digest::Digest;
use crate::names::SecretName;

/// What Envoys ask for it by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName(Arc<str>);

#[derive(Debug, Error, PartialEq, Eq)]
#[error("is not made of 1 to 63 lower-case letters, digits and \"-\"")]
pub struct ResourceNameError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub kind: Kind,
    pub secret: SecretName,
    /// Of a certificate whose key is kept apart.
    pub key: Option<SecretName>,
}

/// What Envoy takes it for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    TlsCertificate,
    ValidationContext,
    Generic,
}

/// The versions that a resource is made of, in the order of [`Resource::secrets`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions(pub Vec<Arc<str>>);

impl ResourceName {
    pub fn parse(text: &str) -> Result<Self, ResourceNameError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=63).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.into()))
        } else {
            Err(ResourceNameError)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Resource {
    pub fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        [Some(&self.secret), self.key.as_ref()].into_iter().flatten()
    }

    /// What Envoys know the versions by. It changes with the resource's definition too, so that a reconnecting Envoy is
    /// not taken to have what now goes by the same name.
    pub fn version(&self, versions: &Versions) -> String {
        let key = self.key.as_ref().map_or("", SecretName::as_str);
        let definition = format!("{} {} {key}", self.kind.as_str(), self.secret);
        let definition = Digest::of(definition.as_bytes()).to_string();
        format!("{}@{}", versions.0.join("+"), definition.get(..8).unwrap_or_default())
    }
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::TlsCertificate, Self::ValidationContext, Self::Generic];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TlsCertificate => "tls-certificate",
            Self::ValidationContext => "validation-context",
            Self::Generic => "generic",
        }
    }
}

impl Borrow<str> for ResourceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_tells_what_is_published_and_by_which_definition() {
        let secret = |id: &str| SecretName::parse(&format!("stores/a/secrets/{id}")).unwrap();
        let web = Resource { kind: Kind::TlsCertificate, secret: secret("web"), key: Some(secret("web-key")) };
        let versions = |ids: [&str; 2]| Versions(ids.map(Arc::from).to_vec());
        let one = web.version(&versions(["3", "5"]));
        assert!(one.starts_with("3+5@"), "{one}");
        assert_ne!(one, web.version(&versions(["3", "6"])));
        let moved = Resource { secret: secret("www"), ..web.clone() };
        assert_ne!(one, moved.version(&versions(["3", "5"])), "the same versions of another secret");
    }
}
