//! A store's secrets in the order of their names, in pages: the contract's order, and no cloud's.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Failure, Reason};
use crate::names::{SecretName, StoreName};
use crate::secrets::{Listing, Page, SecretInfo};

const MAX_PAGE: usize = 1_000;

/// The list that was begun last is kept for its further pages; without it, each of them would read the whole store.
#[derive(Debug, Default)]
pub(super) struct Catalogue(Mutex<Option<Arc<Snapshot>>>);

/// All secrets of a store at one moment.
#[derive(Debug)]
struct Snapshot {
    id: u64,
    secrets: Vec<SecretInfo>,
}

static TAKEN: AtomicU64 = AtomicU64::new(1);

impl Catalogue {
    /// `read` reads all secrets of the store, in any order.
    pub(super) async fn page(
        &self,
        store: &StoreName,
        page: Page,
        read: impl Future<Output = Result<Vec<SecretInfo>, Failure>>,
    ) -> Result<Listing<SecretInfo>, Failure> {
        let Some(token) = page.token else {
            return Ok(self.keep(read.await?).page(None, page.size));
        };
        let (taken, after) = read_token(&token).ok_or_else(bad_token)?;
        let after = store.secret(after).map_err(|_| bad_token())?;
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let snapshot = match kept.filter(|snapshot| snapshot.id == taken) {
            Some(snapshot) => snapshot,
            None => self.keep(read.await?),
        };
        Ok(snapshot.page(Some(&after), page.size))
    }

    fn keep(&self, mut secrets: Vec<SecretInfo>) -> Arc<Snapshot> {
        secrets.sort_by(|a, b| a.name.cmp(&b.name));
        // What is created while the cloud's pages are read may come in two of them.
        secrets.dedup_by(|a, b| a.name == b.name);
        let snapshot = Arc::new(Snapshot { id: TAKEN.fetch_add(1, Ordering::Relaxed), secrets });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&snapshot));
        snapshot
    }
}

impl Snapshot {
    /// What follows `after`, which need not exist any more.
    fn page(&self, after: Option<&SecretName>, size: usize) -> Listing<SecretInfo> {
        let begin = after.map_or(0, |after| self.secrets.partition_point(|info| info.name <= *after));
        let rest = &self.secrets[begin..];
        let items = rest[..rest.len().min(size.clamp(1, MAX_PAGE))].to_vec();
        let more = items.len() < rest.len();
        let next = items.last().filter(|_| more).map(|last| format!("{}:{}", self.id, last.name.id()));
        Listing { items, next }
    }
}

/// The snapshot that a page came from, and its last secret.
fn read_token(token: &str) -> Option<(u64, &str)> {
    let (id, last) = token.split_once(':')?;
    Some((id.parse().ok()?, last))
}

pub(super) fn bad_token() -> Failure {
    Failure::bad_field(Reason::InvalidPageToken, "page_token", "is not one of this list; start again without it")
}

pub(super) fn too_many(what: &str, bound: usize) -> Failure {
    let message = format!("{what} holds more than {bound} items to list; ask for what you need by name");
    Failure::new(Reason::UnsupportedByStore, message)
}
