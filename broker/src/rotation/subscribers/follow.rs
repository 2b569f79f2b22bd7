//! Following the records of all replicas, and forgetting who has been gone for long.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use super::book::{Book, Held};
use super::record::Subscriber;
use super::{Inner, place_of};
use crate::state::{Change, Epoch, ListPage, Revision, StateError, WatchEnd, Watched};

/// For how long somebody who is gone is remembered.
const RETENTION: Duration = Duration::from_secs(24 * 3600);
const FORGET_INTERVAL: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(250);

impl Inner {
    /// Keeps up with what is on record, and begins with all of it: at first, after a gap, and where another history
    /// has taken the place of the one that was followed.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut followed = None;
        loop {
            let Some(epoch) = self.state.status().epoch else {
                // It has not been reached.
                sleep(PAUSE).await;
                continue;
            };
            if followed.replace(epoch).is_some_and(|before| before != epoch) {
                // Revisions of the two histories do not compare.
                self.is_read.store(false, Ordering::Release);
                *self.book() = Book::default();
            }
            let end = match self.read_all().await {
                Ok(revision) => self.follow_from(revision, epoch).await,
                Err(error) => WatchEnd::Unavailable(error),
            };
            tracing::debug!(error = %end, "subscribers are read anew");
            sleep(PAUSE).await;
        }
    }

    async fn read_all(&self) -> Result<Revision, StateError> {
        let (mut after, mut first, mut there) = (None, None, HashSet::new());
        loop {
            let page =
                self.state.list::<Subscriber>(&self.prefix, ListPage { after, size: ListPage::MAX_SIZE }).await?;
            for stored in page.records {
                self.end_if_ours_of_before(&stored.record);
                there.insert(place_of(&stored.record));
                self.book().put(stored.record, stored.revision);
            }
            let first = *first.get_or_insert(page.revision);
            after = page.next;
            if after.is_none() {
                self.book().retain(|place, revision| revision > first || there.contains(place));
                self.is_read.store(true, Ordering::Release);
                self.changes.send_modify(|count| *count += 1);
                return Ok(first);
            }
        }
    }

    /// Until there is a gap, or another history.
    async fn follow_from(&self, mut revision: Revision, epoch: Epoch) -> WatchEnd {
        loop {
            let mut watch = self.state.watch(epoch, self.prefix.clone(), revision.next());
            let end = loop {
                match watch.next().await {
                    Ok(Watched::Progress(seen)) => revision = seen,
                    Ok(Watched::Batch(batch)) => {
                        revision = batch.revision;
                        batch.changes.iter().for_each(|change| self.changed_elsewhere(change, batch.revision));
                        self.changes.send_modify(|count| *count += 1);
                    }
                    Err(end) => break end,
                }
            };
            match end {
                WatchEnd::Compacted { .. } | WatchEnd::Replaced => return end,
                WatchEnd::Unavailable(_) => sleep(PAUSE).await,
            }
        }
    }

    fn changed_elsewhere(&self, change: &Change, revision: Revision) {
        match self.state.changed::<Subscriber>(change) {
            Some(subscriber) => {
                self.end_if_replaced(&subscriber, revision);
                self.book().put(subscriber, revision);
            }
            None if change.value.is_none() => {
                let mut segments = change.key.segments();
                let mut book = self.book();
                let place = segments.next().zip(segments.next()).and_then(|(caller, name)| book.place(&caller, &name));
                if let Some(place) = place {
                    book.remove(&place, revision);
                }
            }
            None => {}
        }
    }

    pub(super) async fn forget(self: Arc<Self>) {
        loop {
            sleep(FORGET_INTERVAL).await;
            let now = self.clock.now();
            let known: Vec<Held> = self.book().after(None).cloned().collect();
            for held in known {
                let gone = self.gone_since(&held.subscriber);
                if gone.is_some_and(|since| now.since(since) > RETENTION)
                    && let Err(failure) = self.expel(&held).await
                {
                    tracing::debug!(%failure, "who was gone for long is forgotten later");
                    break;
                }
            }
        }
    }
}
