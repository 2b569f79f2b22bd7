//! The seam to whatever keeps the secrets: Google, Azure, or the embedded store.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::SecretBytes;
use crate::clock::Timestamp;
use crate::error::Failure;
use crate::names::{NameError, SecretName, VersionId};

/// One configured store. Failures carry our reasons and never an upstream's text.
pub trait Provider: Send + Sync {
    /// The provider's own grammar, checked before anything is sent: SDKs splice names into URLs.
    fn check_name(&self, secret: &SecretName) -> Result<(), NameError>;

    /// Whether a version could be called so.
    fn check_version(&self, secret: &SecretName, version: &VersionId) -> Result<(), Failure>;

    /// Whether a payload like this could be kept.
    fn check_payload(&self, payload: &[u8]) -> Result<(), Failure>;

    /// Whether a secret that does not exist could be created here.
    fn check_creation(&self, secret: &SecretName) -> Result<(), Failure>;

    fn fetch<'a>(&'a self, secret: &'a SecretName, version: &'a VersionId) -> BoxFuture<'a, Result<Fetched, Failure>>;

    fn describe<'a>(&'a self, secret: &'a SecretName) -> BoxFuture<'a, Result<SecretInfo, Failure>>;

    /// Secrets in order of their names.
    fn list(&self, page: Page) -> BoxFuture<'_, Result<Listing<SecretInfo>, Failure>>;

    /// Versions of one secret, the newest first.
    fn versions<'a>(
        &'a self,
        secret: &'a SecretName,
        page: Page,
    ) -> BoxFuture<'a, Result<Listing<VersionInfo>, Failure>>;

    /// With `creation`, a secret that does not exist is created with these labels, where the store can. Of one that
    /// exists, nothing but the versions changes.
    fn add<'a>(
        &'a self,
        secret: &'a SecretName,
        payload: SecretBytes,
        creation: Option<Labels>,
    ) -> BoxFuture<'a, Result<VersionInfo, Failure>>;

    /// Enabling what is enabled, or disabling what is disabled, succeeds and changes nothing.
    fn set_enabled<'a>(
        &'a self,
        secret: &'a SecretName,
        version: &'a VersionId,
        enabled: bool,
    ) -> BoxFuture<'a, Result<Switched, Failure>>;
}

/// A version as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switched {
    pub version: VersionInfo,
    /// False where it was so already; true, too, where the provider does not tell.
    pub changed: bool,
}

/// A payload with the version it really is.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "holds a secret")]
pub struct Fetched {
    pub version: VersionInfo,
    pub payload: SecretBytes,
    pub crc32c: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretInfo {
    pub name: SecretName,
    pub labels: Labels,
    pub created: Option<Timestamp>,
}

/// A provider's labels or tags: attributes for policy, never the place for a secret.
pub type Labels = Arc<BTreeMap<String, String>>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionInfo {
    /// The provider's own id of the version.
    pub id: Arc<str>,
    pub state: VersionState,
    /// Google does not tell it with a value.
    pub created: Option<Timestamp>,
    /// From when the provider hands it out.
    pub not_before: Option<Timestamp>,
    /// When the provider stops handing it out.
    pub expires: Option<Timestamp>,
    /// As Azure keeps it with the version.
    pub content_type: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionState {
    Enabled,
    Disabled,
    Destroyed,
}

/// Which part of a list is wanted. The token is the provider's own and travels sealed (see `rpc`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub size: usize,
    pub token: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing<T> {
    pub items: Vec<T>,
    /// Absent on the last page.
    pub next: Option<String>,
}
