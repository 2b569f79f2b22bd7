//! A watch of etcd. It follows all records, so that what concerns others still tells how far it came.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Event, EventType, WatchOptions, WatchResponse, WatchStream};
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::cluster::Cluster;
use super::epoch::EpochKey;
use super::layout::Layout;
use super::{number, revision};
use crate::state::failure::StateError;
use crate::state::key::Prefix;
use crate::state::store::Revision;
use crate::state::watch::{Batch, Change, Source, WatchEnd, Watched};

/// For a member to begin a watch.
const BEGINNING: Duration = Duration::from_secs(3);

pub(super) struct EtcdWatch {
    cluster: Arc<Cluster>,
    layout: Arc<Layout>,
    epoch: Arc<EpochKey>,
    prefix: Prefix,
    /// The first revision that has not been heard.
    next: Revision,
    stream: Option<WatchStream>,
    heard: VecDeque<Watched>,
}

impl EtcdWatch {
    pub(super) fn new(
        cluster: Arc<Cluster>,
        layout: Arc<Layout>,
        epoch: Arc<EpochKey>,
        prefix: Prefix,
        from: Revision,
    ) -> Self {
        // Zero would mean "from now on", and there is no such revision.
        let next = from.max(Revision::new(1));
        Self { cluster, layout, epoch, prefix, next, stream: None, heard: VecDeque::new() }
    }

    /// The stream, or a new one from another member where it broke.
    async fn stream(&mut self) -> Result<&mut WatchStream, WatchEnd> {
        if self.stream.is_none() {
            let options = WatchOptions::new().with_prefix().with_start_revision(number(self.next));
            for client in self.cluster.clients().await {
                let mut watches = client.watch_client();
                let begun = timeout(BEGINNING, watches.watch(self.layout.records(), Some(options.clone()))).await;
                if let Ok(Ok(stream)) = begun {
                    // While nobody followed, a backup may have been restored and written on, even to beyond where this
                    // watch begins: its revisions are not those that follow what was heard.
                    self.epoch.confirm(&self.cluster).await?;
                    self.stream = Some(stream);
                    break;
                }
            }
        }
        self.stream.as_mut().ok_or(StateError::Unavailable("no member of etcd began a watch", None).into())
    }

    fn hear(&mut self, response: &WatchResponse) -> Result<(), WatchEnd> {
        if response.compact_revision() > 0 {
            return Err(WatchEnd::Compacted { oldest: revision(response.compact_revision()) });
        }
        if response.canceled() {
            self.stream = None;
            return Ok(());
        }
        for event in response.events() {
            let Some(found) = event.kv() else { continue };
            let at = revision(found.mod_revision());
            self.next = at.next();
            let change = self.change(event)?;
            match (self.heard.back_mut(), change) {
                (Some(Watched::Batch(batch)), Some(change)) if batch.revision == at => batch.changes.push(change),
                (Some(Watched::Batch(batch)), None) if batch.revision == at => {}
                (last, Some(change)) => {
                    // Of this revision's changes, those before concerned others.
                    if last.is_some_and(|last| *last == Watched::Progress(at)) {
                        self.heard.pop_back();
                    }
                    self.heard.push_back(Watched::Batch(Batch { revision: at, changes: vec![change] }));
                }
                (Some(last @ Watched::Progress(_)), None) => *last = Watched::Progress(at),
                (_, None) => self.heard.push_back(Watched::Progress(at)),
            }
        }
        Ok(())
    }

    fn change(&self, event: &Event) -> Result<Option<Change>, StateError> {
        let Some(found) = event.kv() else { return Ok(None) };
        let key = self.layout.key(found.key())?;
        let value = match event.event_type() {
            EventType::Put => Some(Bytes::copy_from_slice(found.value())),
            EventType::Delete => None,
        };
        Ok(self.prefix.contains(&key).then_some(Change { key, value }))
    }
}

impl Source for EtcdWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<Watched, WatchEnd>> {
        Box::pin(async move {
            loop {
                if let Some(watched) = self.heard.pop_front() {
                    return Ok(watched);
                }
                match self.stream().await?.message().await {
                    Ok(Some(response)) => self.hear(&response)?,
                    Ok(None) | Err(_) => self.stream = None,
                }
            }
        })
    }
}
