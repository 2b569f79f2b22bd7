//! What an operator says about one issuer, checked before anything is fetched from it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use super::algorithm::Algorithm;

pub const MAX_LEEWAY: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerSettings {
    /// Stands in identities: `oidc/<name>/<sub>`. Lower-case letters, digits and hyphens, a letter first.
    pub name: String,
    /// Compared with `iss` byte by byte.
    pub url: String,
    /// A token has to be for at least one of these.
    pub audiences: Vec<String>,
    pub algorithms: Vec<Algorithm>,
    pub keys: KeySource,
    pub leeway: Duration,
    pub maximum_lifetime: Duration,
    /// The claim that identifies a caller within the issuer; `sub` nearly always.
    pub id_claim: String,
    /// How often keys are fetched: the time within which a withdrawn key goes out of force.
    pub refresh_interval: Duration,
    /// For how long the last good keys stand in when no newer ones can be had.
    pub maximum_key_age: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file with a JSON Web Key Set; read again at every refresh.
    Pinned(PathBuf),
    /// OpenID Connect discovery at the issuer's URL. `ca`: the only roots to trust for it, in PEM.
    Discovery { ca: Option<PathBuf> },
}

#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    #[error("issuer {name:?}: {problem}")]
    Setting { name: String, problem: &'static str },
    #[error("issuer {name:?}: the pinned keys cannot be used")]
    Pinned {
        name: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl IssuerSettings {
    pub(super) fn check_all(all: &[Self]) -> Result<(), IssuerError> {
        let mut names = HashSet::new();
        let mut urls = HashSet::new();
        for issuer in all {
            issuer.check().map_err(|problem| issuer.error(problem))?;
            if !names.insert(&issuer.name) {
                return Err(issuer.error("another issuer has this name; identities of the two would be the same"));
            }
            if !urls.insert(&issuer.url) {
                return Err(issuer.error("another issuer has this URL; list the audiences of both in one"));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), &'static str> {
        if !is_name(&self.name) {
            return Err("the name must match ^[a-z][a-z0-9-]{0,62}$");
        }
        if self.audiences.is_empty() || self.audiences.iter().any(String::is_empty) {
            return Err("audiences must name at least one audience, none of them empty");
        }
        if self.algorithms.is_empty() {
            return Err("algorithms must allow at least one algorithm");
        }
        if self.leeway > MAX_LEEWAY {
            return Err("leeway must not exceed 60 s");
        }
        if self.maximum_lifetime.as_secs() == 0 {
            return Err("maximum_lifetime must be at least 1 s");
        }
        if self.id_claim.is_empty() {
            return Err("id_claim must name a claim, such as \"sub\"");
        }
        if self.refresh_interval < Duration::from_secs(1) {
            return Err("refresh_interval must be at least 1 s");
        }
        if self.maximum_key_age < self.refresh_interval {
            return Err("maximum_key_age must not be shorter than refresh_interval");
        }
        match &self.keys {
            KeySource::Pinned(_) if self.url.is_empty() => Err("url must be what the tokens have as iss"),
            KeySource::Discovery { .. } if !is_https(&self.url) => {
                Err("url must be an https URL without user, query and fragment, because keys are discovered there")
            }
            KeySource::Pinned(_) | KeySource::Discovery { .. } => Ok(()),
        }
    }

    fn error(&self, problem: &'static str) -> IssuerError {
        IssuerError::Setting { name: self.name.clone(), problem }
    }
}

pub(super) fn is_https(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| {
        url.scheme() == "https"
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    })
}

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
