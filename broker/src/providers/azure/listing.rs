//! Order and pages, neither of which Key Vault promises.

use std::cmp::Ordering;
use std::sync::atomic::{self, AtomicU64};

use crate::error::{Failure, Reason};
use crate::names::SecretName;
use crate::secrets::{Listing, Page, SecretInfo, VersionInfo};

const MAX_PAGE: usize = 1_000;

/// All secrets of the vault at one moment, by name.
pub(super) struct Snapshot {
    id: u64,
    secrets: Vec<SecretInfo>,
}

static TAKEN: AtomicU64 = AtomicU64::new(1);

impl Snapshot {
    pub(super) fn new(mut secrets: Vec<SecretInfo>) -> Self {
        secrets.sort_by(|a, b| a.name.cmp(&b.name));
        // What is created while the vault's pages are read may come in two of them.
        secrets.dedup_by(|a, b| a.name == b.name);
        Self { id: TAKEN.fetch_add(1, atomic::Ordering::Relaxed), secrets }
    }

    pub(super) fn is(&self, id: u64) -> bool {
        self.id == id
    }

    /// What follows `after`, which need not exist any more.
    pub(super) fn page(&self, after: Option<&SecretName>, size: usize) -> Listing<SecretInfo> {
        let begin = after.map_or(0, |after| self.secrets.partition_point(|info| info.name <= *after));
        let rest = &self.secrets[begin..];
        let items = rest[..rest.len().min(size.clamp(1, MAX_PAGE))].to_vec();
        let more = items.len() < rest.len();
        let next = items.last().filter(|_| more).map(|last| format!("{}:{}", self.id, last.name.id()));
        Listing { items, next }
    }

    /// The snapshot that a page came from, and its last secret.
    pub(super) fn read_token(token: &str) -> Result<(u64, &str), Failure> {
        let (id, last) = token.split_once(':').ok_or_else(bad_token)?;
        Ok((id.parse().map_err(|_| bad_token())?, last))
    }
}

/// Of two versions from one second, which is as exact as the vault tells it, the order is that of their ids.
pub(super) fn newest_first(a: &VersionInfo, b: &VersionInfo) -> Ordering {
    (b.created, &b.id).cmp(&(a.created, &a.id))
}

pub(super) fn page_of_versions(mut versions: Vec<VersionInfo>, page: &Page) -> Result<Listing<VersionInfo>, Failure> {
    if let Some(token) = &page.token {
        let last = versions.iter().position(|version| *version.id == **token).ok_or_else(bad_token)?;
        versions.drain(..=last);
    }
    let size = page.size.clamp(1, MAX_PAGE);
    let more = versions.len() > size;
    versions.truncate(size);
    let next = versions.last().filter(|_| more).map(|last| last.id.to_string());
    Ok(Listing { items: versions, next })
}

pub(super) fn bad_token() -> Failure {
    Failure::bad_field(Reason::InvalidPageToken, "page_token", "is not one of this list; start again without it")
}
