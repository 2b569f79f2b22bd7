//! A store's secrets in the order of their names, in pages: the contract's order, and no cloud's.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::error::{Failure, Reason};
use crate::names::{SecretName, StoreName};
use crate::secrets::{Listing, Page, SecretInfo};

const MAX_PAGE: usize = 1_000;
/// For a reader that asks for the next page at once, and no longer than the memory is worth.
const KEPT_FOR: Duration = Duration::from_mins(2);

/// What was read last is kept for further pages, whosever list they are of; without it, each of them would read the
/// whole store.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    kept: Arc<Mutex<Option<Kept>>>,
    /// One at a time, since each holds the whole store.
    reading: tokio::sync::Mutex<()>,
    /// How many reads were begun.
    begun: AtomicU64,
}

#[derive(Debug)]
struct Kept {
    snapshot: Arc<Snapshot>,
    _forgotten: AbortOnDropHandle<()>,
}

/// All secrets of a store at one moment.
#[derive(Debug)]
struct Snapshot {
    /// How many reads were begun before this one.
    place: u64,
    secrets: Vec<SecretInfo>,
}

impl Catalogue {
    /// `read` reads all secrets of the store, in any order.
    pub(super) async fn page(
        &self,
        store: &StoreName,
        page: Page,
        read: impl Future<Output = Result<Vec<SecretInfo>, Failure>>,
    ) -> Result<Listing<SecretInfo>, Failure> {
        let after = page.token.map(|token| read_token(store, &token).ok_or_else(bad_token)).transpose()?;
        // A list begins with what is there when it is asked for, and goes on over whatever is at hand.
        let first = if after.is_some() { 0 } else { self.begun.load(Ordering::Relaxed) };
        let snapshot = match self.kept(first) {
            Some(snapshot) => snapshot,
            None => self.read(first, read).await?,
        };
        Ok(snapshot.page(after.as_ref(), page.size))
    }

    async fn read(
        &self,
        first: u64,
        read: impl Future<Output = Result<Vec<SecretInfo>, Failure>>,
    ) -> Result<Arc<Snapshot>, Failure> {
        let _reading = self.reading.lock().await;
        // Another's read that began since is as good.
        if let Some(snapshot) = self.kept(first) {
            return Ok(snapshot);
        }
        let place = self.begun.fetch_add(1, Ordering::Relaxed);
        let mut secrets = read.await?;
        secrets.sort_by(|a, b| a.name.cmp(&b.name));
        // What is created while the cloud's pages are read may come in two of them.
        secrets.dedup_by(|a, b| a.name == b.name);
        let snapshot = Arc::new(Snapshot { place, secrets });
        let kept = Arc::downgrade(&self.kept);
        let forget = tokio::spawn(async move {
            tokio::time::sleep(KEPT_FOR).await;
            if let Some(kept) = kept.upgrade() {
                *lock(&kept) = None;
            }
        });
        let _forgotten = AbortOnDropHandle::new(forget);
        *lock(&self.kept) = Some(Kept { snapshot: Arc::clone(&snapshot), _forgotten });
        Ok(snapshot)
    }

    /// Where it was begun as this one or later.
    fn kept(&self, first: u64) -> Option<Arc<Snapshot>> {
        let kept = lock(&self.kept);
        kept.as_ref().map(|kept| Arc::clone(&kept.snapshot)).filter(|snapshot| snapshot.place >= first)
    }
}

fn lock(kept: &Mutex<Option<Kept>>) -> MutexGuard<'_, Option<Kept>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Snapshot {
    /// What follows `after`, which need not exist any more.
    fn page(&self, after: Option<&SecretName>, size: usize) -> Listing<SecretInfo> {
        let begin = after.map_or(0, |after| self.secrets.partition_point(|info| info.name <= *after));
        let rest = &self.secrets[begin..];
        let items = rest[..rest.len().min(size.clamp(1, MAX_PAGE))].to_vec();
        let more = items.len() < rest.len();
        let next = items.last().filter(|_| more).map(|last| format!("{AFTER}{}", last.name.id()));
        Listing { items, next }
    }
}

/// Before the last secret of the page before.
const AFTER: &str = "after:";

fn read_token(store: &StoreName, token: &str) -> Option<SecretName> {
    store.secret(token.strip_prefix(AFTER)?).ok()
}

pub(super) fn bad_token() -> Failure {
    Failure::bad_field(Reason::InvalidPageToken, "page_token", "is not one of this list; start again without it")
}

pub(super) fn too_many(what: &str, bound: usize) -> Failure {
    let message = format!("{what} holds more than {bound} items to list; ask for what you need by name");
    Failure::new(Reason::UnsupportedByStore, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::future::join_all;

    use super::*;
    use crate::secrets::Labels;

    struct World {
        store: StoreName,
        catalogue: Catalogue,
        reads: AtomicUsize,
    }

    impl World {
        fn new() -> Self {
            let store = StoreName::from_id("cloud").unwrap();
            Self { store, catalogue: Catalogue::default(), reads: AtomicUsize::new(0) }
        }

        /// Of a store with the secrets `a`, `b` and `c`, one a page.
        async fn page(&self, token: Option<String>) -> Listing<SecretInfo> {
            let read = async {
                self.reads.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(1)).await;
                let info =
                    |id| SecretInfo { name: self.store.secret(id).unwrap(), labels: Labels::default(), created: None };
                Ok(["c", "a", "b"].map(info).to_vec())
            };
            self.catalogue.page(&self.store, Page { size: 1, token }, read).await.unwrap()
        }

        fn reads(&self) -> usize {
            self.reads.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lists_that_are_read_in_turns_do_not_cost_a_read_for_each_page() {
        let world = World::new();
        let mut tokens = [world.page(None).await.next, world.page(None).await.next];
        assert_eq!(world.reads(), 2, "a list begins with what is there");
        for expected in ["b", "c"] {
            for token in &mut tokens {
                let listing = world.page(token.take()).await;
                assert_eq!(listing.items[0].name.id(), expected);
                *token = listing.next;
            }
        }
        assert_eq!((world.reads(), tokens), (2, [None, None]));
    }

    #[tokio::test(start_paused = true)]
    async fn lists_that_are_begun_together_share_the_read_that_begins_after_them() {
        let world = World::new();
        join_all((0..100).map(|_| world.page(None))).await;
        assert_eq!(world.reads(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_is_not_held_for_long() {
        let world = World::new();
        let next = world.page(None).await.next;
        let snapshot = Arc::downgrade(&world.catalogue.kept(0).unwrap());
        tokio::time::sleep(KEPT_FOR + Duration::from_secs(1)).await;
        assert!(snapshot.upgrade().is_none());
        assert_eq!(world.page(next).await.items[0].name.id(), "b");
        assert_eq!(world.reads(), 2);
    }
}
