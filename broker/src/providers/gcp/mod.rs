//! Google Cloud Secret Manager, global or regional, through Google's own crate.
//!
//! The crate sends the requests and reads the answers. When to send, with which token, and what a refusal means is
//! decided here and in [`Guard`]. The crate's buffers hold payloads in base64 for as long as a request lasts and are
//! not zeroed; its types print payloads, so none of them is ever formatted.

mod method;
mod path;
mod refusal;
mod requests;
mod token;
mod told;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use google_cloud_gax::client_builder;
use thiserror::Error;

use self::path::{Parent, SecretPath};
use self::requests::Requests;
use crate::config::GcpStore as Settings;
use crate::error::{Failure, Reason};
use crate::names::{NameError, SecretName, StoreName, VersionId};
use crate::providers::catalogue::{Catalogue, bad_token};
use crate::providers::credential::Credential;
use crate::providers::guard::Guard;
use crate::secrets::{
    Fetched, Labels, Listing, Page, Provider, SecretBytes, SecretInfo, Switched, VersionInfo, VersionState,
};

const MAX_PAYLOAD: usize = 64 << 10;
const MAX_PAGE: usize = 1_000;

#[allow(missing_debug_implementations, reason = "reaches tokens")]
pub struct GcpStore {
    name: StoreName,
    parent: Parent,
    requests: Requests,
    catalogue: Catalogue,
}

#[derive(Debug, Error)]
#[error("the client of Secret Manager cannot be made; check the store's endpoint and the system's CA certificates")]
pub struct OpenError(#[from] client_builder::Error);

impl GcpStore {
    /// Sends nothing to Secret Manager yet.
    pub async fn open(
        name: StoreName,
        settings: &Settings,
        credential: Arc<Credential>,
        guard: Arc<Guard>,
    ) -> Result<Self, OpenError> {
        // If no token can be kept, the first call says why.
        let _ = credential.keep(token::SCOPE);
        let location = settings.location.as_deref();
        let endpoint = settings.endpoint.clone().or_else(|| location.map(regional_endpoint));
        let requests = Requests::new(endpoint, credential, guard).await?;
        Ok(Self { name, parent: Parent::new(&settings.project, location), requests, catalogue: Catalogue::default() })
    }

    async fn read(&self, secret: &SecretName, version: &VersionId) -> Result<Fetched, Failure> {
        let (path, version_path) = self.version_path(secret, version)?;
        let access = || self.requests.access(&version_path, secret);
        let mut read = access().await;
        if read.as_ref().is_err_and(|failure| failure.reason() == Reason::PayloadCorrupt) {
            read = access().await;
        }
        match read {
            Ok(fetched) => is_asked(version, &fetched.version, secret).map(|()| fetched),
            Err(failure) => Err(self.explained(failure, secret, (&path, &version_path), version).await),
        }
    }

    async fn set(&self, secret: &SecretName, version: &VersionId, enabled: bool) -> Result<Switched, Failure> {
        let (path, version_path) = self.version_path(secret, version)?;
        let changed = match version {
            VersionId::Exact(_) => self.requests.set_enabled(&version_path, secret, enabled).await,
            // Google changes numbered versions only.
            VersionId::Latest => match self.requests.version(&version_path, secret).await {
                Ok(latest) => {
                    let numbered = format!("{}/versions/{}", path.as_str(), latest.id);
                    self.requests.set_enabled(&numbered, secret, enabled).await
                }
                Err(failure) => Err(failure),
            },
        };
        match changed {
            // Google does not tell whether it was so already, and what a look before would tell may lag.
            Ok(info) => is_asked(version, &info, secret).map(|()| Switched { version: info, changed: true }),
            Err(failure) => Err(self.explained(failure, secret, (&path, &version_path), version).await),
        }
    }

    /// Both paths, or why no request is worth its while.
    fn version_path(&self, secret: &SecretName, version: &VersionId) -> Result<(SecretPath, String), Failure> {
        let path = self.parent.secret(secret)?;
        let version_path = path.version(version).ok_or_else(|| no_version(secret, version))?;
        Ok((path, version_path))
    }

    /// Google says `NOT_FOUND` for secrets and versions alike, and `FAILED_PRECONDITION` for disabled and destroyed
    /// ones: a second look tells which it is, where the broker may look. Without it the refusal stands, of this version
    /// and no other: what was refused must not be served because the next question got no answer.
    async fn explained(
        &self,
        failure: Failure,
        secret: &SecretName,
        (path, version_path): (&SecretPath, &str),
        version: &VersionId,
    ) -> Failure {
        let looked = if failure.reason() == Reason::SecretNotFound {
            self.requests.secret(path, secret).await.map(|_| no_version(secret, version))
        } else if failure.reason() == Reason::VersionDisabled {
            let info = self.requests.version(version_path, secret).await;
            info.map(|info| wrong_state(&info, secret))
        } else {
            return failure;
        };
        match (looked, version) {
            (Ok(precise), _) => precise,
            (Err(second), _) if second.reason() == Reason::SecretNotFound => second,
            (Err(_), VersionId::Exact(_)) if failure.reason() == Reason::SecretNotFound => no_version(secret, version),
            (Err(_), _) => failure,
        }
    }
}

impl Provider for GcpStore {
    fn check_name(&self, secret: &SecretName) -> Result<(), NameError> {
        path::check_id(secret.id())
    }

    fn check_version(&self, secret: &SecretName, version: &VersionId) -> Result<(), Failure> {
        self.version_path(secret, version).map(drop)
    }

    fn check_payload(&self, payload: &[u8]) -> Result<(), Failure> {
        if (1..=MAX_PAYLOAD).contains(&payload.len()) { Ok(()) } else { Err(bad_payload(payload.len())) }
    }

    fn check_creation(&self, secret: &SecretName) -> Result<(), Failure> {
        let message = format!("{secret} does not exist; create it in Google Cloud, then add versions here");
        Err(Failure::new(Reason::UnsupportedByStore, message))
    }

    /// `latest` is Google's to resolve and may lag after an add; a version's number never does.
    fn fetch<'a>(&'a self, secret: &'a SecretName, version: &'a VersionId) -> BoxFuture<'a, Result<Fetched, Failure>> {
        Box::pin(self.read(secret, version))
    }

    fn describe<'a>(&'a self, secret: &'a SecretName) -> BoxFuture<'a, Result<SecretInfo, Failure>> {
        Box::pin(async move {
            let path = self.parent.secret(secret)?;
            self.requests.secret(&path, secret).await
        })
    }

    fn list(&self, page: Page) -> BoxFuture<'_, Result<Listing<SecretInfo>, Failure>> {
        Box::pin(self.catalogue.page(&self.name, page, self.requests.secrets(&self.parent, &self.name)))
    }

    /// In Google's order, which is the newest first.
    fn versions<'a>(
        &'a self,
        secret: &'a SecretName,
        page: Page,
    ) -> BoxFuture<'a, Result<Listing<VersionInfo>, Failure>> {
        Box::pin(async move {
            let paged = page.token.is_some();
            let path = self.parent.secret(secret)?;
            let listed = self.requests.versions(&path, bounded(page), secret).await;
            listed.map_err(|failure| blame_token(failure, paged))
        })
    }

    fn add<'a>(
        &'a self,
        secret: &'a SecretName,
        payload: SecretBytes,
        creation: Option<Labels>,
    ) -> BoxFuture<'a, Result<VersionInfo, Failure>> {
        Box::pin(async move {
            let path = self.parent.secret(secret)?;
            self.check_payload(payload.expose())?;
            let size = payload.len();
            match self.requests.add(&path, payload, secret).await {
                Err(failure) if creation.is_some() && failure.reason() == Reason::SecretNotFound => {
                    Err(self.check_creation(secret).err().unwrap_or(failure))
                }
                Err(failure) if is_invalid(&failure) => Err(bad_payload(size)),
                added => added,
            }
        })
    }

    fn set_enabled<'a>(
        &'a self,
        secret: &'a SecretName,
        version: &'a VersionId,
        enabled: bool,
    ) -> BoxFuture<'a, Result<Switched, Failure>> {
        Box::pin(self.set(secret, version, enabled))
    }
}

fn regional_endpoint(location: &str) -> String {
    format!("https://secretmanager.{location}.rep.googleapis.com")
}

fn bounded(page: Page) -> Page {
    Page { size: page.size.clamp(1, MAX_PAGE), ..page }
}

/// An answer about another version than the one that was asked for is none.
fn is_asked(asked: &VersionId, told: &VersionInfo, secret: &SecretName) -> Result<(), Failure> {
    match asked {
        VersionId::Exact(id) if *id != told.id => Err(refusal::garbage(secret.as_str())),
        VersionId::Exact(_) | VersionId::Latest => Ok(()),
    }
}

fn no_version(secret: &SecretName, version: &VersionId) -> Failure {
    let message = match version {
        VersionId::Latest => format!("{secret} has no versions yet; add one"),
        VersionId::Exact(id) => format!("{secret} has no version {id}; list its versions"),
    };
    Failure::new(Reason::VersionNotFound, message)
}

fn wrong_state(version: &VersionInfo, secret: &SecretName) -> Failure {
    let id = &version.id;
    match version.state {
        VersionState::Disabled => Failure::new(
            Reason::VersionDisabled,
            format!("{secret}/versions/{id} is disabled; enable it, or name another version"),
        ),
        VersionState::Destroyed => Failure::new(
            Reason::VersionDestroyed,
            format!("{secret}/versions/{id} is destroyed for good; name another version"),
        ),
        VersionState::Enabled => refusal::unusable(secret.as_str()),
    }
}

/// A first page cannot be refused for its token.
fn blame_token(failure: Failure, paged: bool) -> Failure {
    if !(paged && is_invalid(&failure)) {
        return failure;
    }
    bad_token()
}

fn is_invalid(failure: &Failure) -> bool {
    failure.reason() == Reason::InvalidArgument
}

fn bad_payload(size: usize) -> Failure {
    let description = format!("has {size} bytes; Secret Manager takes 1 to {MAX_PAYLOAD}");
    Failure::bad_field(Reason::InvalidArgument, "payload", description)
}
