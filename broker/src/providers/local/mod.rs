//! The embedded store: versioned secrets in one file, encrypted at rest under a key file.
//!
//! Payloads are sealed. Names, labels, states and times are plain, so the file's directory is as private as they are.

mod file;
mod key;
mod records;
mod seal;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

pub use self::file::OpenError;
use self::file::StoreFile;
pub use self::key::{KeyError, LocalKey};
use self::records::{RecordError, Records, SecretRow, VersionRow, Wanted};
use crate::clock::{SharedClock, Timestamp};
use crate::error::{Failure, Reason};
use crate::names::{NameError, SecretName, StoreName, VersionId};
use crate::secrets::{
    Fetched, Labels, Listing, Page, Provider, SecretBytes, SecretInfo, Switched, VersionInfo, VersionState,
};

const MAX_PAYLOAD: usize = 64 << 10;
const MAX_PAGE: usize = 1_000;
const MAX_LABELS: usize = 64;
const MAX_LABEL_TEXT: usize = 63;

/// Versions are numbered from 1 and no number is used twice. `latest` is the newest version even when it is disabled,
/// as it is with the clouds: falling back to an older value would bring back what somebody took out of use.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "holds a key")]
pub struct LocalStore {
    name: StoreName,
    clock: SharedClock,
    records: Arc<Records>,
    /// One writer at a time, and those that wait hold no thread.
    writer: Arc<Semaphore>,
}

impl LocalStore {
    /// Opens the store's file, or creates it where there is none. Blocks: for start-up.
    pub fn open(name: StoreName, path: &Path, key: &LocalKey, clock: SharedClock) -> Result<Self, OpenError> {
        let (file, sealer) = StoreFile::open(path, key)?;
        Ok(Self { name, clock, records: Arc::new(Records { file, sealer }), writer: Arc::new(Semaphore::new(1)) })
    }

    /// Replaces all labels of a secret.
    pub async fn label(&self, secret: &SecretName, labels: BTreeMap<String, String>) -> Result<SecretInfo, Failure> {
        check_labels(&labels)?;
        let id = secret.id().to_owned();
        let row = self.write(move |records| records.label(&id, labels)).await;
        Ok(secret_info(secret.clone(), row.map_err(|error| failure(secret, None, error))?))
    }

    /// A read that misses the kernel's cache waits for the disk, which the runtime's own threads must not.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Records) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, RecordError> {
        let records = Arc::clone(&self.records);
        spawn_blocking(move || work(&records)).await.map_err(|_| RecordError::Stopped)?
    }

    /// Goes through even when its caller no longer waits.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Records) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, RecordError> {
        let turn = Arc::clone(&self.writer).acquire_owned().await.map_err(|_| RecordError::Stopped)?;
        let records = Arc::clone(&self.records);
        let work = move || {
            let _turn = turn;
            work(&records)
        };
        spawn_blocking(work).await.map_err(|_| RecordError::Stopped)?
    }
}

impl Provider for LocalStore {
    /// The names of the contract are this store's names: `SecretName` admits nothing that it would refuse.
    fn check_name(&self, _secret: &SecretName) -> Result<(), NameError> {
        Ok(())
    }

    fn check_version(&self, secret: &SecretName, version: &VersionId) -> Result<(), Failure> {
        wanted(version).map(drop).map_err(|error| failure(secret, Some(version), error))
    }

    fn check_payload(&self, payload: &[u8]) -> Result<(), Failure> {
        if payload.len() <= MAX_PAYLOAD {
            return Ok(());
        }
        let description = format!("has {} bytes; at most {MAX_PAYLOAD} are accepted", payload.len());
        Err(Failure::bad_field(Reason::InvalidArgument, "payload", description))
    }

    fn check_creation(&self, _secret: &SecretName) -> Result<(), Failure> {
        Ok(())
    }

    fn fetch<'a>(&'a self, secret: &'a SecretName, version: &'a VersionId) -> BoxFuture<'a, Result<Fetched, Failure>> {
        Box::pin(async move {
            let fail = |error| failure(secret, Some(version), error);
            let (id, wanted) = (secret.id().to_owned(), wanted(version).map_err(fail)?);
            let (row, opened) = self.read(move |records| records.fetch(&id, wanted)).await.map_err(fail)?;
            Ok(Fetched { version: version_info(row), payload: opened.payload, crc32c: opened.crc32c })
        })
    }

    fn describe<'a>(&'a self, secret: &'a SecretName) -> BoxFuture<'a, Result<SecretInfo, Failure>> {
        Box::pin(async move {
            let id = secret.id().to_owned();
            let row = self.read(move |records| records.describe(&id)).await;
            Ok(secret_info(secret.clone(), row.map_err(|error| failure(secret, None, error))?))
        })
    }

    /// The token is the last name of the page before.
    fn list(&self, page: Page) -> BoxFuture<'_, Result<Listing<SecretInfo>, Failure>> {
        Box::pin(async move {
            let size = page.size.clamp(1, MAX_PAGE);
            let rows = self.read(move |records| records.list(page.token.as_deref(), size)).await;
            let (rows, more) = rows.map_err(|error| store_failure(self.name.as_str(), error))?;
            let next = rows.last().filter(|_| more).map(|row| row.id.clone());
            let named = |row: SecretRow| match self.name.secret(&row.id) {
                Ok(name) => Ok(secret_info(name, row)),
                Err(error) => Err(store_failure(self.name.as_str(), RecordError::Corrupt).caused_by(error)),
            };
            Ok(Listing { items: rows.into_iter().map(named).collect::<Result<_, _>>()?, next })
        })
    }

    /// The token is the last version of the page before.
    fn versions<'a>(
        &'a self,
        secret: &'a SecretName,
        page: Page,
    ) -> BoxFuture<'a, Result<Listing<VersionInfo>, Failure>> {
        Box::pin(async move {
            let (id, size) = (secret.id().to_owned(), page.size.clamp(1, MAX_PAGE));
            let before = page.token.as_deref().map(|token| version_number(token).ok_or_else(bad_token)).transpose()?;
            let rows = self.read(move |records| records.versions(&id, before, size)).await;
            let (rows, more) = rows.map_err(|error| failure(secret, None, error))?;
            let next = rows.last().filter(|_| more).map(|row| row.number.to_string());
            Ok(Listing { items: rows.into_iter().map(version_info).collect(), next })
        })
    }

    fn add<'a>(
        &'a self,
        secret: &'a SecretName,
        payload: SecretBytes,
        creation: Option<Labels>,
    ) -> BoxFuture<'a, Result<VersionInfo, Failure>> {
        Box::pin(async move {
            self.check_payload(payload.expose())?;
            creation.as_deref().map(check_labels).transpose()?;
            let (id, clock) = (secret.id().to_owned(), Arc::clone(&self.clock));
            // Told inside the writer's turn, so that versions and times run in one order.
            let row = self
                .write(move |records| records.add(&id, &payload, creation.as_deref(), clock.now().as_micros()))
                .await;
            row.map(version_info).map_err(|error| failure(secret, None, error))
        })
    }

    fn set_enabled<'a>(
        &'a self,
        secret: &'a SecretName,
        version: &'a VersionId,
        enabled: bool,
    ) -> BoxFuture<'a, Result<Switched, Failure>> {
        Box::pin(async move {
            let fail = |error| failure(secret, Some(version), error);
            let (id, wanted) = (secret.id().to_owned(), wanted(version).map_err(fail)?);
            let set = self.write(move |records| records.set_enabled(&id, wanted, enabled)).await;
            set.map(|(row, changed)| Switched { version: version_info(row), changed }).map_err(fail)
        })
    }
}

fn wanted(version: &VersionId) -> Result<Wanted, RecordError> {
    match version {
        VersionId::Latest => Ok(Wanted::Newest),
        VersionId::Exact(number) => version_number(number).map(Wanted::Number).ok_or(RecordError::NoVersion),
    }
}

/// Only as this store writes them: `01` would be a second name of `1`.
fn version_number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

fn version_info(row: VersionRow) -> VersionInfo {
    let state = if row.enabled { VersionState::Enabled } else { VersionState::Disabled };
    VersionInfo {
        id: row.number.to_string().into(),
        state,
        created: Some(Timestamp::from_micros(row.created)),
        not_before: None,
        expires: None,
        content_type: None,
    }
}

fn secret_info(name: SecretName, row: SecretRow) -> SecretInfo {
    SecretInfo { name, labels: Labels::new(row.labels), created: Some(Timestamp::from_micros(row.created)) }
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Failure> {
    let bad = |description| Err(Failure::bad_field(Reason::InvalidArgument, "labels", description));
    if labels.len() > MAX_LABELS {
        return bad(format!("has {} labels; at most {MAX_LABELS} are accepted", labels.len()));
    }
    let fits = |text: &str| text.chars().count() <= MAX_LABEL_TEXT;
    match labels.iter().find(|(key, value)| key.is_empty() || !fits(key) || !fits(value)) {
        Some(_) => bad(format!("has a key that is empty, or a key or value of over {MAX_LABEL_TEXT} characters")),
        None => Ok(()),
    }
}

fn bad_token() -> Failure {
    Failure::bad_field(Reason::InvalidPageToken, "page_token", "is not one of this list; start again without it")
}

fn failure(secret: &SecretName, version: Option<&VersionId>, error: RecordError) -> Failure {
    let version = version.map_or("latest", VersionId::as_str);
    match error {
        RecordError::NoSecret => Failure::new(Reason::SecretNotFound, format!("{secret} does not exist")),
        RecordError::NoVersion => {
            Failure::new(Reason::VersionNotFound, format!("{secret} has no version {version}; list its versions"))
        }
        RecordError::Disabled(number) => Failure::new(
            Reason::VersionDisabled,
            format!("{secret}/versions/{number} is disabled; enable it, or name another version"),
        ),
        RecordError::Corrupt | RecordError::Random | RecordError::Stopped | RecordError::File(_) => {
            store_failure(secret.as_str(), error)
        }
    }
}

fn store_failure(resource: &str, error: RecordError) -> Failure {
    match error {
        RecordError::Corrupt => Failure::new(
            Reason::PayloadCorrupt,
            format!("{resource} fails its integrity check in the store's file; restore the file, or add a new version"),
        ),
        RecordError::File(_) => Failure::new(
            Reason::ProviderUnavailable,
            format!("{resource} cannot be reached, as the local store's disk fails; try again"),
        )
        .caused_by(error),
        RecordError::NoSecret
        | RecordError::NoVersion
        | RecordError::Disabled(_)
        | RecordError::Random
        | RecordError::Stopped => {
            Failure::new(Reason::Internal, "the local store failed; see the broker's log").caused_by(error)
        }
    }
}
