//! Azure Key Vault, through Microsoft's own client.
//!
//! The client splices names into URLs as they are, so nothing reaches it that the vault's grammar does not allow. Key
//! Vault does not tell names apart by case and policy does: a name counts only in the spelling that the vault answers.

mod answer;
mod bearer;
mod failure;
#[cfg(test)]
mod fuzz;
mod listing;
mod vault;
mod wire;

use std::sync::Arc;

use futures_util::future::BoxFuture;

use self::answer::Described;
pub use self::failure::OpenError;
use self::failure::{bad_payload, bad_version, no_secret, no_version};
use self::listing::{newest_first, page_of_versions};
use self::vault::Vault;
use crate::clock::SharedClock;
use crate::config;
use crate::error::{Failure, Reason};
use crate::names::{NameError, SecretName, StoreName, VersionId};
use crate::providers::catalogue::Catalogue;
use crate::providers::credential::Credential;
use crate::providers::guard::Guard;
use crate::secrets::{
    Fetched, Labels, Listing, Page, Provider, SecretBytes, SecretInfo, Switched, VersionInfo, VersionState,
};

const MAX_NAME: usize = 127;
const VERSION_LENGTH: usize = 32;
/// What Azure calls 25k.
const MAX_PAYLOAD: usize = 25_600;

/// One vault's secrets. `latest` is the newest version even when it is disabled, as Key Vault has it.
#[allow(missing_debug_implementations, reason = "holds a credential")]
pub struct AzureStore {
    name: StoreName,
    vault: Vault,
    clock: SharedClock,
    catalogue: Catalogue,
}

impl AzureStore {
    /// Reads the vault's CAs, where it has its own, and asks the vault nothing.
    pub fn open(
        name: StoreName,
        settings: &config::AzureStore,
        credential: Arc<Credential>,
        guard: Arc<Guard>,
        clock: SharedClock,
    ) -> Result<Self, OpenError> {
        let vault = Vault::open(settings, credential, guard)?;
        Ok(Self { name, vault, clock, catalogue: Catalogue::default() })
    }

    /// The newest first, and never none: a secret exists as long as it has a version.
    async fn all_versions(&self, secret: &SecretName) -> Result<Vec<Version>, Failure> {
        let found = self.vault.versions(secret).await?;
        let versions: Result<Vec<_>, _> = found.into_iter().map(|described| self.version(secret, described)).collect();
        let mut versions = versions?;
        if versions.is_empty() {
            return Err(no_secret(secret));
        }
        versions.sort_by(|a, b| newest_first(&a.info, &b.info));
        Ok(versions)
    }

    /// Of what the vault answered about `secret`.
    fn version(&self, secret: &SecretName, described: Described) -> Result<Version, Failure> {
        let (name, id) = described.identity().ok_or_else(|| self.vault.garbage())?;
        if name != secret.id() {
            return Err(no_secret(secret));
        }
        let id = id.filter(|id| is_version(id)).ok_or_else(|| self.vault.garbage())?.into();
        let Described { attributes, content_type, tags, .. } = described;
        let state = if attributes.enabled { VersionState::Enabled } else { VersionState::Disabled };
        let info = VersionInfo {
            id,
            state,
            created: attributes.created(),
            not_before: attributes.not_before(),
            expires: attributes.expires(),
            content_type: content_type.map(Into::into),
        };
        Ok(Version { info, labels: Labels::new(tags) })
    }

    /// Key Vault hands out what is not valid yet or no more, and leaves it to its clients to look at the times.
    fn check_validity(&self, secret: &SecretName, version: &VersionInfo) -> Result<(), Failure> {
        let now = self.clock.now();
        let refusal = match (version.not_before, version.expires) {
            (Some(begin), _) if now < begin => {
                format!("is not valid before {begin}; wait, or change its activation date in the vault")
            }
            (_, Some(end)) if end <= now => {
                format!("expired at {end}; add a new version, or change its expiration date in the vault")
            }
            _ => return Ok(()),
        };
        Err(Failure::new(Reason::VersionDisabled, format!("{secret}/versions/{} {refusal}", version.id)))
    }

    async fn all_secrets(&self) -> Result<Vec<SecretInfo>, Failure> {
        let secrets = self.vault.secrets().await?.into_iter().map(|described| {
            let name = described.identity().and_then(|(name, _)| self.name.secret(name).ok());
            let name = name.ok_or_else(|| self.vault.garbage())?;
            // The times that a list tells are those of the newest version.
            Ok(SecretInfo { name, labels: Labels::new(described.tags), created: None })
        });
        secrets.collect()
    }
}

/// A version, with the tags that Azure keeps with each.
struct Version {
    info: VersionInfo,
    labels: Labels,
}

impl Provider for AzureStore {
    fn check_name(&self, secret: &SecretName) -> Result<(), NameError> {
        let id = secret.id();
        let allowed = "letters, digits and hyphens in a key vault";
        match id.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '-')) {
            Some(found) => Err(NameError::Character { part: "secret", found, allowed }),
            None if id.len() > MAX_NAME => Err(NameError::Length { part: "secret", length: id.len(), max: MAX_NAME }),
            None => Ok(()),
        }
    }

    fn check_version(&self, secret: &SecretName, version: &VersionId) -> Result<(), Failure> {
        match version {
            VersionId::Exact(id) if !is_version(id) => Err(bad_version(secret, id)),
            VersionId::Exact(_) | VersionId::Latest => Ok(()),
        }
    }

    fn check_payload(&self, payload: &[u8]) -> Result<(), Failure> {
        text(payload).map(drop)
    }

    fn check_creation(&self, secret: &SecretName) -> Result<(), Failure> {
        let message = format!("{secret} does not exist; create it in the vault, then add versions here");
        Err(Failure::new(Reason::UnsupportedByStore, message))
    }

    fn fetch<'a>(&'a self, secret: &'a SecretName, version: &'a VersionId) -> BoxFuture<'a, Result<Fetched, Failure>> {
        Box::pin(async move {
            self.check(secret, Some(version))?;
            let bundle = match self.vault.get(secret, version).await {
                // The vault says the same of an absent secret and an absent version. Where the list does not tell which,
                // the refusal stands: the version must not be served because the next question got no answer.
                Err(failure) if failure.reason() == Reason::VersionNotFound => {
                    let absent = self.all_versions(secret).await.err();
                    return Err(absent.filter(|second| second.reason() == Reason::SecretNotFound).unwrap_or(failure));
                }
                answer => answer?,
            };
            let version = self.version(secret, bundle.described)?.info;
            self.check_validity(secret, &version)?;
            let crc32c = crc32c::crc32c(bundle.payload.expose());
            Ok(Fetched { version, payload: bundle.payload, crc32c })
        })
    }

    /// From the list of versions, because a secret's own description comes with its value.
    fn describe<'a>(&'a self, secret: &'a SecretName) -> BoxFuture<'a, Result<SecretInfo, Failure>> {
        Box::pin(async move {
            self.check(secret, None)?;
            let mut versions = self.all_versions(secret).await?;
            let created = versions.last().and_then(|oldest| oldest.info.created);
            Ok(SecretInfo { name: secret.clone(), labels: versions.swap_remove(0).labels, created })
        })
    }

    /// Key Vault promises no order, so all names are read before the first page is answered.
    fn list(&self, page: Page) -> BoxFuture<'_, Result<Listing<SecretInfo>, Failure>> {
        Box::pin(self.catalogue.page(&self.name, page, self.all_secrets()))
    }

    /// The token is the last version of the page before.
    fn versions<'a>(
        &'a self,
        secret: &'a SecretName,
        page: Page,
    ) -> BoxFuture<'a, Result<Listing<VersionInfo>, Failure>> {
        Box::pin(async move {
            self.check(secret, None)?;
            let versions = self.all_versions(secret).await?.into_iter().map(|version| version.info);
            page_of_versions(versions.collect(), &page)
        })
    }

    /// Key Vault would create a secret that is missing, so the secret is looked for first; one that is deleted between
    /// the two requests is not created by the second, as long as soft delete keeps its name.
    fn add<'a>(
        &'a self,
        secret: &'a SecretName,
        payload: SecretBytes,
        creation: Option<Labels>,
    ) -> BoxFuture<'a, Result<VersionInfo, Failure>> {
        Box::pin(async move {
            self.check(secret, None)?;
            let text = text(payload.expose())?;
            let newest = match self.all_versions(secret).await {
                Ok(mut versions) => versions.swap_remove(0),
                Err(failure) if failure.reason() == Reason::SecretNotFound && creation.is_some() => {
                    return Err(self.check_creation(secret).err().unwrap_or(failure));
                }
                Err(failure) => return Err(failure),
            };
            // Azure keeps them with each version, and a caller of the broker cannot say them.
            let kept = (newest.info.content_type.as_deref(), &*newest.labels);
            let added = self.vault.set(secret, text, kept.0, kept.1).await?;
            Ok(self.version(secret, added)?.info)
        })
    }

    fn set_enabled<'a>(
        &'a self,
        secret: &'a SecretName,
        version: &'a VersionId,
        enabled: bool,
    ) -> BoxFuture<'a, Result<Switched, Failure>> {
        Box::pin(async move {
            self.check(secret, Some(version))?;
            // Looked at first: what is so already stays untouched, and absent secrets are told from absent versions.
            let mut versions = self.all_versions(secret).await?.into_iter().map(|version| version.info);
            let current = match version {
                VersionId::Latest => versions.next(),
                VersionId::Exact(id) => versions.find(|info| info.id == *id),
            };
            let current = current.ok_or_else(|| no_version(secret, version))?;
            if (current.state == VersionState::Enabled) == enabled {
                return Ok(Switched { version: current, changed: false });
            }
            let now = self.vault.switch(secret, &current.id, enabled).await?;
            Ok(Switched { version: self.version(secret, now)?.info, changed: true })
        })
    }
}

impl AzureStore {
    /// Before anything is sent.
    fn check(&self, secret: &SecretName, version: Option<&VersionId>) -> Result<(), Failure> {
        self.check_name(secret).map_err(|error| Failure::bad_field(Reason::InvalidName, "name", error.to_string()))?;
        version.map_or(Ok(()), |version| self.check_version(secret, version))
    }
}

fn text(payload: &[u8]) -> Result<&str, Failure> {
    if payload.len() > MAX_PAYLOAD {
        let length = payload.len();
        return Err(bad_payload(format!("has {length} bytes; a key vault takes {MAX_PAYLOAD}")));
    }
    std::str::from_utf8(payload)
        .map_err(|_| bad_payload(format!("is not UTF-8; a key vault takes up to {MAX_PAYLOAD} bytes of text")))
}

fn is_version(id: &str) -> bool {
    id.len() == VERSION_LENGTH && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
