//! A watch that knows of which history it is: revisions of another one mean nothing to whoever follows this one.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::store::{Epoch, Store};
use super::watch::{Source, Watch, WatchEnd, Watched};

/// How often one that hears nothing looks: it may be waiting for a revision that the new history is far from.
const LOOK: Duration = Duration::from_secs(1);

pub(super) struct SameHistory {
    pub(super) store: Arc<dyn Store>,
    pub(super) epoch: Epoch,
    pub(super) watch: Watch,
}

impl Source for SameHistory {
    fn next(&mut self) -> BoxFuture<'_, Result<Watched, WatchEnd>> {
        Box::pin(async move {
            loop {
                let watched = timeout(LOOK, self.watch.next()).await;
                // After a break the watch goes on at whatever is there then.
                if self.store.status().epoch != Some(self.epoch) {
                    return Err(WatchEnd::Replaced);
                }
                if let Ok(watched) = watched {
                    return watched;
                }
            }
        })
    }
}
