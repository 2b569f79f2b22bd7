//! Names, parsed once and never taken for one another. What a provider allows in an id is for the broker to say.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::{Error, Read};

macro_rules! names {
    ($($name:ident $form:literal)*) => {$(
        #[doc = concat!("`", $form, "`")]
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                if has_form(&name, $form) { Ok(Self(name)) } else { Err(NameError { name, form: $form }) }
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;

            fn try_from(name: &str) -> Result<Self, NameError> {
                name.to_owned().try_into()
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                name.try_into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

names! {
    SecretName "stores/{store}/secrets/{secret}"
    VersionName "stores/{store}/secrets/{secret}/versions/{version}"
    RoleName "databases/{database}/roles/{role}"
    SubscriberName "{subscriber}"
}

/// A text that is no name of the kind that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{name:?} is no name here; write it like {form}")]
pub struct NameError {
    name: String,
    form: &'static str,
}

/// Segment by segment: those in braces are anything that can be seen.
fn has_form(name: &str, form: &str) -> bool {
    let id = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    let mut segments = form.split('/');
    let fits = name.split('/').all(|text| match segments.next() {
        Some(segment) if segment.starts_with('{') => id(text),
        segment => segment == Some(text),
    });
    fits && segments.next().is_none()
}

impl From<SecretName> for Read {
    fn from(name: SecretName) -> Self {
        Self::of(name.0)
    }
}

impl From<&SecretName> for Read {
    fn from(name: &SecretName) -> Self {
        Self::of(name.as_str())
    }
}

impl From<VersionName> for Read {
    fn from(name: VersionName) -> Self {
        Self::of(name.0)
    }
}

impl From<&VersionName> for Read {
    fn from(name: &VersionName) -> Self {
        Self::of(name.as_str())
    }
}

/// A name that was parsed before needs no parsing.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_of_one_kind() {
        let names = ["stores/a/secrets/b", "stores/a/secrets/b/versions/1", "databases/a/roles/b", "orders-1"];
        let kinds: [fn(&str) -> bool; 4] = [
            |text| SecretName::try_from(text).is_ok(),
            |text| VersionName::try_from(text).is_ok(),
            |text| RoleName::try_from(text).is_ok(),
            |text| SubscriberName::try_from(text).is_ok(),
        ];
        for (at, name) in names.into_iter().enumerate() {
            for (kind, is_one) in kinds.iter().enumerate() {
                assert_eq!(is_one(name), at == kind, "{name}");
            }
        }
        for nonsense in ["", "stores/a/secrets/", "stores//secrets/b", "stores/a/secrets/b\n", "/stores/a/secrets/b"] {
            assert!(kinds.iter().all(|is_one| !is_one(nonsense)), "{nonsense:?}");
        }
        let error = "stores/a".parse::<SecretName>().unwrap_err().to_string();
        assert!(error.contains("stores/{store}/secrets/{secret}"), "{error}");
    }
}
