//! The epoch's key, and how a replaced history is noticed.
//!
//! Etcd never goes back, so an answer from before what was known when it was asked for comes from a restored backup:
//! the epoch is renewed then. A wiped etcd has no epoch, and gets one. What is restored while no replica runs cannot be
//! seen here; it shows when a watcher asks for a revision that was never reached.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use etcd_client::{Compare, CompareOp, GetResponse, ResponseHeader, Txn, TxnOp, TxnOpResponse};

use super::cluster::Cluster;
use super::revision;
use crate::state::failure::StateError;
use crate::state::store::{Epoch, Revision};

#[derive(Debug)]
pub(super) struct EpochKey {
    name: Vec<u8>,
    known: Mutex<Option<Known>>,
    newest: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    epoch: Epoch,
    modified: i64,
}

impl EpochKey {
    pub(super) fn new(name: Vec<u8>) -> Self {
        Self { name, known: Mutex::default(), newest: AtomicU64::new(0) }
    }

    pub(super) fn current(&self) -> Option<Epoch> {
        self.get().map(|known| known.epoch)
    }

    pub(super) fn newest(&self) -> Revision {
        Revision::new(self.newest.load(Ordering::Relaxed))
    }

    /// The key, and the revision it must still have. Made where there is none.
    pub(super) async fn known(&self, cluster: &Cluster) -> Result<(Vec<u8>, i64), StateError> {
        if let Some(known) = self.get() {
            return Ok((self.name.clone(), known.modified));
        }
        let known = self.write_where(cluster, Compare::create_revision(self.name.clone(), CompareOp::Equal, 0)).await?;
        Ok((self.name.clone(), known.modified))
    }

    /// Takes what is there, and makes nothing: whoever looks may have no right to write.
    pub(super) async fn look(&self, cluster: &Cluster) -> Result<(), StateError> {
        self.learn(cluster, Txn::new().and_then([TxnOp::get(self.name.clone(), None)])).await?;
        Ok(())
    }

    /// Asks, and fails where the answer is of another history than what was known before.
    pub(super) async fn same_history<T>(
        &self,
        cluster: &Cluster,
        asked: impl Future<Output = Result<T, StateError>>,
        header: impl Fn(&T) -> Option<&ResponseHeader>,
    ) -> Result<T, StateError> {
        let before = self.newest.load(Ordering::Relaxed);
        let answer = asked.await?;
        let Some(found) = header(&answer).map(|header| revision(header.revision()).get()) else {
            return Ok(answer);
        };
        if found >= before {
            self.newest.fetch_max(found, Ordering::Relaxed);
            return Ok(answer);
        }
        if let Some(known) = self.get() {
            let unchanged = Compare::mod_revision(self.name.clone(), CompareOp::Equal, known.modified);
            let renewed = self.write_where(cluster, unchanged).await?;
            tracing::error!(
                found, known = before, epoch = %renewed.epoch,
                "etcd went back: a backup was restored under running replicas; watchers are told to begin anew"
            );
        }
        self.newest.store(found, Ordering::Relaxed);
        Err(self.replaced())
    }

    /// Fails where the history may be another one than was known, and learns which it is.
    pub(super) async fn confirm(&self, cluster: &Cluster) -> Result<(), StateError> {
        if let Some(known) = self.get() {
            let asked = cluster.ask(|client| {
                let name = self.name.clone();
                async move { client.kv_client().get(name, None).await }
            });
            let answer = self.same_history(cluster, asked, GetResponse::header).await?;
            if answer.kvs().first().is_some_and(|found| found.mod_revision() == known.modified) {
                return Ok(());
            }
        }
        let replaced = self.replaced();
        self.look(cluster).await?;
        Err(replaced)
    }

    /// The next transaction learns the epoch anew.
    pub(super) fn replaced(&self) -> StateError {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
        StateError::Unavailable("its history was replaced by another", None)
    }

    /// Writes a new epoch where the comparison holds, and takes the one that is there where it does not.
    async fn write_where(&self, cluster: &Cluster, compare: Compare) -> Result<Known, StateError> {
        let new = Epoch::random().map_err(|error| StateError::unavailable("no random bytes for an epoch", error))?;
        let txn = Txn::new()
            .when([compare])
            .and_then([TxnOp::put(self.name.clone(), new.to_string(), None), TxnOp::get(self.name.clone(), None)])
            .or_else([TxnOp::get(self.name.clone(), None)]);
        self.learn(cluster, txn).await
    }

    async fn learn(&self, cluster: &Cluster, txn: Txn) -> Result<Known, StateError> {
        let response = cluster
            .ask(|client| {
                let txn = txn.clone();
                async move { client.kv_client().txn(txn).await }
            })
            .await?;
        let found = response.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(response) => {
                let found = response.kvs().first()?;
                Some(Known { epoch: Epoch::parse(found.value_str().ok()?)?, modified: found.mod_revision() })
            }
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
        });
        let known = found.ok_or(StateError::Unavailable("it has no epoch yet, or one that is not ours", None))?;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        let now = response.header().map_or(0, |header| revision(header.revision()).get());
        self.newest.fetch_max(now, Ordering::Relaxed);
        Ok(known)
    }

    fn get(&self) -> Option<Known> {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
