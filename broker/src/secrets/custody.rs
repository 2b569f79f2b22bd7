//! Secrets in the hands of whoever replaces them. What a version holds is told to no caller.

use std::time::Duration;

use super::cache::Demand;
use super::service::Secrets;
use super::{Page, SecretBytes, VersionInfo};
use crate::error::{Failure, Reason};
use crate::names::{SecretName, VersionId};

/// Looks at newer versions only so far: whoever adds more within one rotation is not waited for.
const MOST_VERSIONS: usize = 100;

/// Needs no permit: the caller who asked had one, or the configuration says so.
#[derive(Clone, Debug)]
pub struct Custody(Secrets);

impl Custody {
    pub fn new(secrets: Secrets) -> Self {
        Self(secrets)
    }

    /// What `latest` means to readers now, in whatever state it is: whoever replaces a version may do so because it was
    /// disabled. `None`: the secret has no version yet.
    pub(crate) async fn newest(&self, secret: &SecretName) -> Result<Option<VersionInfo>, Failure> {
        let demand = Demand { max_age: Some(Duration::ZERO), ..Demand::default() };
        match self.0.read(secret, &VersionId::Latest, demand).await {
            Ok(read) => Ok(Some(read.fetched.version.clone())),
            Err(failure) if failure.reason() == Reason::VersionNotFound => Ok(None),
            Err(failure) if matches!(failure.reason(), Reason::VersionDisabled | Reason::VersionDestroyed) => {
                let word = self.0.word(secret);
                let is_latest = |version: &VersionInfo| !word.withholds || word.current.as_ref() == Some(&version.id);
                Ok(self.since(secret, None).await?.into_iter().find(is_latest))
            }
            Err(failure) => Err(failure),
        }
    }

    pub(crate) async fn value(&self, secret: &SecretName, version: &str) -> Result<SecretBytes, Failure> {
        let fetched = self.0.provider(secret)?.fetch(secret, &VersionId::Exact(version.into())).await?;
        Ok(fetched.payload)
    }

    /// The versions above `previous`, the newest first.
    pub(crate) async fn since(&self, secret: &SecretName, previous: Option<&str>) -> Result<Vec<VersionInfo>, Failure> {
        let (mut found, mut page) = (Vec::new(), Page { size: MOST_VERSIONS, token: None });
        loop {
            let listing = self.0.provider(secret)?.versions(secret, page).await?;
            for version in listing.items {
                if Some(&*version.id) == previous || found.len() == MOST_VERSIONS {
                    return Ok(found);
                }
                found.push(version);
            }
            let Some(next) = listing.next else { return Ok(found) };
            page = Page { size: MOST_VERSIONS, token: Some(next) };
        }
    }

    pub(crate) async fn add(&self, secret: &SecretName, value: SecretBytes) -> Result<VersionInfo, Failure> {
        let provider = self.0.provider(secret)?;
        provider.check_payload(value.expose())?;
        provider.add(secret, value, None).await
    }

    /// One that is gone is disabled enough.
    pub(crate) async fn disable(&self, secret: &SecretName, version: &str) -> Result<(), Failure> {
        let disabled = self.0.provider(secret)?.set_enabled(secret, &VersionId::Exact(version.into()), false).await;
        match disabled {
            Err(failure) if !is_gone(failure.reason()) => Err(failure),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

fn is_gone(reason: Reason) -> bool {
    matches!(reason, Reason::SecretNotFound | Reason::VersionNotFound | Reason::VersionDestroyed)
}
