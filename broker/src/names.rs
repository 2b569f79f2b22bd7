//! Resource names (AIP-122), parsed once at the edge. Nothing deeper in takes a `String` that means a resource.

// In a log or an assertion a name reads as itself.
macro_rules! shown_as_text {
    ($($name:ty),*) => {$(
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}

// Records hold names as text, and are parsed like anything else that comes from outside.
macro_rules! recorded_as_text {
    ($($name:ty),*) => {$(
        impl TryFrom<String> for $name {
            type Error = $crate::names::NameError;

            fn try_from(text: String) -> Result<Self, $crate::names::NameError> {
                Self::parse(&text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }
    )*};
}

mod database;
#[cfg(test)]
mod fuzz;
mod rotation;

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use database::{DatabaseName, LeaseName, RoleName};
pub use rotation::RotationName;

const MAX_NAME: usize = 512;

/// `stores/{store}`
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreName(Arc<str>);

/// `stores/{store}/secrets/{secret}`
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName {
    full: Arc<str>,
    store_end: u16,
}

/// `stores/{store}/secrets/{secret}/versions/{version}`
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct VersionName {
    pub secret: SecretName,
    pub version: VersionId,
}

/// `latest`, or the provider's own id of a version.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum VersionId {
    Latest,
    Exact(Arc<str>),
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    #[error("is empty; expected {0}")]
    Empty(&'static str),
    #[error("is {0} bytes long; at most {MAX_NAME} are accepted")]
    TooLong(usize),
    #[error("does not have the form {0}")]
    Form(&'static str),
    #[error("has {found:?} in its {part}; {part}s are made of {allowed}")]
    Character { part: &'static str, found: char, allowed: &'static str },
    #[error("has a {part} of {length} characters; it takes 1 to {max}")]
    Length { part: &'static str, length: usize, max: usize },
}

const STORE_FORM: &str = "stores/{store}";
const SECRET_FORM: &str = "stores/{store}/secrets/{secret}";
const VERSION_FORM: &str = "stores/{store}/secrets/{secret}/versions/{version}";
const STORE_PREFIX: &str = "stores/";
const SECRET_PREFIX: &str = "secrets/";

impl StoreName {
    pub fn parse(name: &str) -> Result<Self, NameError> {
        bounded(name, STORE_FORM)?;
        let store = name.strip_prefix(STORE_PREFIX).ok_or(NameError::Form(STORE_FORM))?;
        if store.contains('/') {
            return Err(NameError::Form(STORE_FORM));
        }
        check_store(store)?;
        Ok(Self(name.into()))
    }

    /// From the bare id under which a configuration file declares the store.
    pub fn from_id(id: &str) -> Result<Self, NameError> {
        check_store(id)?;
        Ok(Self(format!("{STORE_PREFIX}{id}").into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn id(&self) -> &str {
        &self.0[STORE_PREFIX.len()..]
    }

    pub fn secret(&self, id: &str) -> Result<SecretName, NameError> {
        check_secret(id)?;
        Ok(SecretName {
            full: format!("{}/{SECRET_PREFIX}{id}", self.0).into(),
            store_end: u16::try_from(self.0.len()).map_err(|_| NameError::TooLong(self.0.len()))?,
        })
    }
}

impl SecretName {
    pub fn parse(name: &str) -> Result<Self, NameError> {
        bounded(name, SECRET_FORM)?;
        let (secret, rest) = Self::split(name, SECRET_FORM)?;
        if rest.is_some() { Err(NameError::Form(SECRET_FORM)) } else { Ok(secret) }
    }

    /// The secret, and whatever follows `/versions/`.
    fn split<'a>(name: &'a str, form: &'static str) -> Result<(Self, Option<&'a str>), NameError> {
        let mut parts = name.split('/');
        let mut part = || parts.next().ok_or(NameError::Form(form));
        let (stores, store, secrets, secret) = (part()?, part()?, part()?, part()?);
        if stores != "stores" || secrets != "secrets" {
            return Err(NameError::Form(form));
        }
        check_store(store)?;
        check_secret(secret)?;
        let version = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => None,
            (Some("versions"), Some(version), None) => Some(version),
            _ => return Err(NameError::Form(form)),
        };
        let store_end = STORE_PREFIX.len() + store.len();
        let full_end = store_end + 1 + SECRET_PREFIX.len() + secret.len();
        let name = Self {
            full: name[..full_end].into(),
            store_end: u16::try_from(store_end).map_err(|_| NameError::TooLong(name.len()))?,
        };
        Ok((name, version))
    }

    pub fn as_str(&self) -> &str {
        &self.full
    }

    /// The text without a copy.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.full)
    }

    /// The full name of the store: `stores/{store}`.
    pub fn store(&self) -> &str {
        &self.full[..usize::from(self.store_end)]
    }

    pub fn store_id(&self) -> &str {
        &self.store()[STORE_PREFIX.len()..]
    }

    /// The bare id that the provider knows.
    pub fn id(&self) -> &str {
        &self.full[usize::from(self.store_end) + 1 + SECRET_PREFIX.len()..]
    }

    pub fn version(&self, version: VersionId) -> VersionName {
        VersionName { secret: self.clone(), version }
    }
}

impl VersionName {
    pub fn parse(name: &str) -> Result<Self, NameError> {
        match Self::parse_or_latest(name)? {
            (name, true) => Ok(name),
            (_, false) => Err(NameError::Form(VERSION_FORM)),
        }
    }

    /// A secret's own name means its latest version; tells whether a version was written out.
    pub fn parse_or_latest(name: &str) -> Result<(Self, bool), NameError> {
        bounded(name, VERSION_FORM)?;
        let (secret, version) = SecretName::split(name, VERSION_FORM)?;
        let written = version.is_some();
        let version = match version {
            None | Some("latest") => VersionId::Latest,
            Some(version) => VersionId::exact(version)?,
        };
        Ok((Self { secret, version }, written))
    }
}

impl VersionId {
    pub fn exact(version: &str) -> Result<Self, NameError> {
        check("version", version, 127, ALNUM, |c| c.is_ascii_alphanumeric())?;
        Ok(Self::Exact(version.into()))
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Latest => "latest",
            Self::Exact(version) => version,
        }
    }
}

const ALNUM: &str = "letters and digits";

fn bounded(name: &str, form: &'static str) -> Result<(), NameError> {
    match name.len() {
        0 => Err(NameError::Empty(form)),
        length if length > MAX_NAME => Err(NameError::TooLong(length)),
        _ => Ok(()),
    }
}

fn check_store(store: &str) -> Result<(), NameError> {
    check("store", store, 63, "lower-case letters, digits and hyphens", |c| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
    })
}

fn check_secret(secret: &str) -> Result<(), NameError> {
    check("secret", secret, 255, "letters, digits, hyphens and underscores", |c| {
        c.is_ascii_alphanumeric() || c == '-' || c == '_'
    })
}

fn check(
    part: &'static str,
    text: &str,
    max: usize,
    allowed: &'static str,
    is_allowed: impl Fn(char) -> bool,
) -> Result<(), NameError> {
    if let Some(found) = text.chars().find(|&c| !is_allowed(c)) {
        return Err(NameError::Character { part, found, allowed });
    }
    match text.len() {
        length if (1..=max).contains(&length) => Ok(()),
        length => Err(NameError::Length { part, length, max }),
    }
}

/// Stores are looked up by the part of a secret's name that is theirs.
impl Borrow<str> for StoreName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

impl fmt::Display for VersionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/versions/{}", self.secret.full, self.version.as_str())
    }
}

// In a log or an assertion a name reads as itself.
macro_rules! debug_as_display {
    ($($name:ty),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

debug_as_display!(StoreName, SecretName, VersionName);

recorded_as_text!(SecretName);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_its_own_text_back() {
        let name = VersionName::parse("stores/gcp-prod/secrets/db_Password-1/versions/42").unwrap();
        assert_eq!(name.to_string(), "stores/gcp-prod/secrets/db_Password-1/versions/42");
        assert_eq!(name.secret.store(), "stores/gcp-prod");
        assert_eq!(name.secret.store_id(), "gcp-prod");
        assert_eq!(name.secret.id(), "db_Password-1");
        assert_eq!(StoreName::from_id("gcp-prod").unwrap().secret("db_Password-1").unwrap(), name.secret);
    }

    #[test]
    fn takes_a_secret_for_its_latest_version() {
        let (name, written) = VersionName::parse_or_latest("stores/a/secrets/b").unwrap();
        assert_eq!((name.version, written), (VersionId::Latest, false));
    }

    #[test]
    fn refuses_what_could_become_another_url() {
        for bad in [
            "",
            "stores/a/secrets/",
            "stores//secrets/b",
            "stores/a/secrets/..",
            "stores/a/secrets/b/versions/",
            "stores/a/secrets/b/versions/..",
            "stores/a/secrets/b/versions/1/2",
            "stores/a/secrets/b%2f..%2fc",
            "stores/a/secrets/b\0",
            "stores/a/secrets/b c",
            "stores/a/secrets/пароль",
            "stores/A/secrets/b",
            "/stores/a/secrets/b",
            "stores/a/secrets/b/",
            "stores/a/secrets/b?x=1",
            "stores/a/keys/b",
        ] {
            assert!(VersionName::parse_or_latest(bad).is_err(), "{bad:?}");
        }
        assert_eq!(SecretName::parse(&"x".repeat(10_000)), Err(NameError::TooLong(10_000)));
    }
}
