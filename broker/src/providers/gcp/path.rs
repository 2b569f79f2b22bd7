//! Google's names of what a request is about. The SDK splices them into URLs, so none is made of unchecked text.

use std::num::NonZeroU64;

use crate::error::{Failure, Reason};
use crate::names::{NameError, SecretName, VersionId};

const MAX_ID: usize = 255;

/// `projects/{project}`, or `projects/{project}/locations/{location}`.
pub(super) struct Parent(String);

/// The path of one secret.
pub(super) struct SecretPath(String);

impl Parent {
    pub(super) fn new(project: &str, location: Option<&str>) -> Self {
        Self(match location {
            None => format!("projects/{project}"),
            Some(location) => format!("projects/{project}/locations/{location}"),
        })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn secret(&self, secret: &SecretName) -> Result<SecretPath, Failure> {
        check_id(secret.id()).map_err(|error| Failure::bad_field(Reason::InvalidName, "name", error.to_string()))?;
        Ok(SecretPath(format!("{}/secrets/{}", self.0, secret.id())))
    }
}

impl SecretPath {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Nothing where Google cannot have such a version.
    pub(super) fn version(&self, version: &VersionId) -> Option<String> {
        let id = match version {
            VersionId::Latest => "latest",
            VersionId::Exact(id) => version_number(id).map(|_| &**id)?,
        };
        Some(format!("{}/versions/{id}", self.0))
    }
}

/// Secret Manager's grammar, whatever the broker's own may come to admit.
pub(super) fn check_id(id: &str) -> Result<(), NameError> {
    const ALLOWED: &str = "letters, digits, hyphens and underscores";
    if let Some(found) = id.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '-' || *c == '_')) {
        return Err(NameError::Character { part: "secret", found, allowed: ALLOWED });
    }
    match id.len() {
        1..=MAX_ID => Ok(()),
        length => Err(NameError::Length { part: "secret", length, max: MAX_ID }),
    }
}

/// Only as Google writes them: `01` would be a second name of `1`.
pub(super) fn version_number(id: &str) -> Option<NonZeroU64> {
    id.parse().ok().filter(|number: &NonZeroU64| number.to_string() == id)
}

/// The ids of secret and version in a version's full name. What comes before them may name the project by its number.
pub(super) fn told_version(name: &str) -> Option<(&str, &str)> {
    let (rest, version) = name.rsplit_once("/versions/")?;
    let (_, secret) = rest.rsplit_once("/secrets/")?;
    version_number(version).map(|_| (secret, version))
}

/// The id in a secret's full name.
pub(super) fn told_secret(name: &str) -> Option<&str> {
    name.rsplit_once("/secrets/").map(|(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_nothing_that_could_become_another_url() {
        for bad in ["", "..", ".", "a/b", "a%2fb", "%2f..%2fx", "a\0", "a b", "пароль", "a?x", "a#x", "a:access", "é"]
        {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
        assert!(check_id(&"x".repeat(256)).is_err() && check_id(&"x".repeat(10_000)).is_err());
        assert!(check_id(&"x".repeat(255)).is_ok() && check_id("Db_password-1").is_ok());
    }

    #[test]
    fn knows_a_version_by_one_name_only() {
        for bad in ["", "0", "01", "+1", "1e0", "a", "latest", "18446744073709551616", "0123456789abcdef"] {
            assert_eq!(version_number(bad), None, "{bad:?}");
        }
        assert!(version_number("1").is_some() && version_number("4000000").is_some());
    }

    #[test]
    fn reads_names_with_the_project_as_id_or_number_and_with_a_location() {
        for parent in ["projects/my-project", "projects/123456789", "projects/1/locations/europe-west3"] {
            let secret = format!("{parent}/secrets/db");
            assert_eq!(told_secret(&secret), Some("db"));
            assert_eq!(told_version(&format!("{secret}/versions/42")), Some(("db", "42")));
        }
        for garbage in ["", "db", "projects/p/secrets/db", "projects/p/secrets/db/versions/latest", "/versions/1"] {
            assert_eq!(told_version(garbage), None, "{garbage:?}");
        }
    }
}
