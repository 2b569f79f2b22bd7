//! State in etcd, for many replicas.
//!
//! Under the configured prefix: `records/…`, what [`Store`] is about; `epoch`; `leader` and `nodes/…`, bound to their
//! replicas' leases. Every transaction also wants the epoch that this replica knows, so that none is made on a history
//! that was replaced. Etcd's own compaction bounds the history: see `--auto-compaction-retention`.

mod cluster;
mod epoch;
mod history;
mod layout;
mod session;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use etcd_client::{Compare, CompareOp, GetOptions, GetResponse, KeyValue, Txn as EtcdTxn, TxnOp, TxnOpResponse};
use futures_util::future::BoxFuture;
use thiserror::Error;

use self::cluster::{Cluster, Sent};
use self::epoch::EpochKey;
use self::history::EtcdWatch;
use self::layout::Layout;
use self::session::Session;
use super::failure::StateError;
use super::key::{Key, Prefix};
use super::leadership::{Fence, Held, Leadership};
use super::settings::EtcdSettings;
use super::store::{Entry, ListPage, Listing, Revision, Status, Store};
use super::txn::{Condition, Conflict, Outcome, Txn, Write};
use super::watch::Watch;
use crate::clock::SharedClock;

const TWIN: &str = "etcd: another replica has this node's name; give each its own under [node] name";

#[derive(Debug)]
pub struct Etcd {
    cluster: Arc<Cluster>,
    layout: Arc<Layout>,
    epoch: Arc<EpochKey>,
    session: Session,
}

/// Why etcd cannot even be tried.
#[derive(Debug, Error)]
pub enum EtcdError {
    #[error("cannot read {0}; check that it exists and that Keyferry may read it")]
    File(PathBuf, #[source] std::io::Error),
    #[error("the endpoint {0} cannot be used")]
    Endpoint(String, #[source] tonic::transport::Error),
}

impl Etcd {
    /// Returns without waiting for etcd: what needs it fails until it is there.
    pub fn open(settings: &EtcdSettings, node: &str, clock: SharedClock) -> Result<Self, EtcdError> {
        let (cluster, layout, epoch) = parts(settings)?;
        let session = Session::start(
            Arc::clone(&cluster),
            Arc::clone(&layout),
            Arc::clone(&epoch),
            node.to_owned(),
            settings.session_ttl,
            clock,
        );
        Ok(Self { cluster, layout, epoch, session })
    }

    /// Takes part in nothing: for looking.
    pub async fn inspect(settings: &EtcdSettings) -> Result<Self, EtcdError> {
        let (cluster, layout, epoch) = parts(settings)?;
        let session = Session::none();
        // What it could not learn, the status leaves out.
        let _ = epoch.look(&cluster).await;
        Ok(Self { cluster, layout, epoch, session })
    }

    async fn get_one(&self, key: Key) -> Result<Option<Entry>, StateError> {
        let name = self.layout.record(&key);
        let response = self.cluster.ask(|client| {
            let name = name.clone();
            async move { client.kv_client().get(name, None).await }
        });
        let response = self.epoch.same_history(&self.cluster, response, GetResponse::header).await?;
        let found = response.kvs().first();
        Ok(found.map(|found| Entry {
            key,
            value: Bytes::copy_from_slice(found.value()),
            revision: revision(found.mod_revision()),
        }))
    }

    async fn list_page(&self, prefix: &Prefix, page: ListPage) -> Result<Listing, StateError> {
        let (from, end) = self.layout.range(prefix, page.after.as_ref());
        let options = GetOptions::new().with_range(end).with_limit(i64::try_from(page.size()).unwrap_or(i64::MAX));
        let response = self.cluster.ask(|client| {
            let (from, options) = (from.clone(), options.clone());
            async move { client.kv_client().max_decoding_message_size(LARGEST_ANSWER).get(from, Some(options)).await }
        });
        let response = self.epoch.same_history(&self.cluster, response, GetResponse::header).await?;
        let entries = response.kvs().iter().map(|found| self.entry(found)).collect::<Result<_, _>>()?;
        let now = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(Listing { entries, more: response.more(), revision: revision(now) })
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StateError> {
        txn.check()?;
        let (key, epoch) = self.epoch.known(&self.cluster).await?;
        let mut compares = vec![Compare::mod_revision(key.clone(), CompareOp::Equal, epoch)];
        let mut found = vec![TxnOp::get(key, None)];
        for condition in txn.conditions() {
            let (name, compare) = self.compare(condition);
            compares.push(compare);
            found.push(TxnOp::get(name, Some(GetOptions::new().with_keys_only())));
        }
        let writes: Vec<TxnOp> = txn.writes().iter().map(|write| self.write(write)).collect();
        let request = EtcdTxn::new().when(compares).and_then(writes).or_else(found);
        let sent = self.cluster.send(|client| {
            let request = request.clone();
            async move { client.kv_client().txn(request).await }
        });
        let response = match self.epoch.same_history(&self.cluster, sent, |sent| sent.answer()?.header()).await? {
            Sent::Answered(response) => response,
            Sent::Unanswered => return Ok(Outcome::Unknown),
        };
        if response.succeeded() {
            let now = response.header().map_or(0, etcd_client::ResponseHeader::revision);
            return Ok(Outcome::Committed(revision(now)));
        }
        let mut found = response.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(response) => response.kvs().first().map(|kv| (kv.mod_revision(), kv.create_revision())),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
        });
        if found.next().flatten().map(|(modified, _)| modified) != Some(epoch) {
            return Err(self.epoch.replaced());
        }
        for (condition, found) in txn.conditions().iter().zip(found) {
            match condition {
                Condition::Leads(fence) => {
                    if found.map(|(_, created)| created) != since(*fence) {
                        return Ok(Outcome::Conflict(Conflict::Deposed));
                    }
                }
                Condition::Absent(key)
                | Condition::Present(key)
                | Condition::Unchanged(key, _)
                | Condition::WrittenBefore(key, _) => {
                    let found = found.map(|(modified, _)| revision(modified));
                    if !condition.holds(found) {
                        return Ok(Outcome::Conflict(Conflict::Key { key: key.clone(), found }));
                    }
                }
            }
        }
        Err(StateError::Unavailable("etcd refused a transaction all of whose conditions hold", None))
    }

    fn compare(&self, condition: &Condition) -> (Vec<u8>, Compare) {
        let name = match condition {
            Condition::Leads(_) => self.layout.leader(),
            Condition::Absent(key)
            | Condition::Present(key)
            | Condition::Unchanged(key, _)
            | Condition::WrittenBefore(key, _) => self.layout.record(key),
        };
        let compare = match condition {
            Condition::Absent(_) => Compare::mod_revision(name.clone(), CompareOp::Equal, 0),
            Condition::Present(_) => Compare::mod_revision(name.clone(), CompareOp::Greater, 0),
            Condition::Unchanged(_, at) => Compare::mod_revision(name.clone(), CompareOp::Equal, number(*at)),
            Condition::WrittenBefore(_, at) => Compare::mod_revision(name.clone(), CompareOp::Less, number(*at)),
            // A fence of another backend was never created.
            Condition::Leads(fence) => {
                Compare::create_revision(name.clone(), CompareOp::Equal, since(*fence).unwrap_or(i64::MAX))
            }
        };
        (name, compare)
    }

    fn write(&self, write: &Write) -> TxnOp {
        match write {
            Write::Put(key, value) => TxnOp::put(self.layout.record(key), value.to_vec(), None),
            Write::Delete(key) => TxnOp::delete(self.layout.record(key), None),
        }
    }

    fn entry(&self, found: &KeyValue) -> Result<Entry, StateError> {
        let key = self.layout.key(found.key())?;
        Ok(Entry { key, value: Bytes::copy_from_slice(found.value()), revision: revision(found.mod_revision()) })
    }
}

impl Store for Etcd {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, StateError>> {
        Box::pin(self.get_one(key.clone()))
    }

    fn list<'a>(&'a self, prefix: &'a Prefix, page: ListPage) -> BoxFuture<'a, Result<Listing, StateError>> {
        Box::pin(self.list_page(prefix, page))
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StateError>> {
        Box::pin(self.commit(txn))
    }

    fn watch(&self, prefix: Prefix, from: Revision) -> Watch {
        Watch::new(EtcdWatch::new(
            Arc::clone(&self.cluster),
            Arc::clone(&self.layout),
            Arc::clone(&self.epoch),
            prefix,
            from,
        ))
    }

    fn leadership(&self) -> Leadership {
        self.session.leadership()
    }

    fn status(&self) -> Status {
        let (leader, nodes) = self.session.seen();
        Status {
            backend: "etcd",
            epoch: self.epoch.current(),
            revision: self.epoch.newest(),
            oldest: None,
            nodes,
            leader,
            failing: self.cluster.failing().or_else(|| self.session.has_twin().then(|| TWIN.to_owned())),
        }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.session.end())
    }
}

/// Beyond what a page of records of ordinary size has; etcd itself would send more.
const LARGEST_ANSWER: usize = 64 << 20;

type Parts = (Arc<Cluster>, Arc<Layout>, Arc<EpochKey>);

fn parts(settings: &EtcdSettings) -> Result<Parts, EtcdError> {
    let cluster = Arc::new(Cluster::new(settings)?);
    let layout = Arc::new(Layout::new(&settings.prefix));
    let epoch = Arc::new(EpochKey::new(layout.epoch()));
    Ok((cluster, layout, epoch))
}

fn since(fence: Fence) -> Option<i64> {
    match fence.0 {
        Held::Since(created) => Some(created),
        Held::Alone => None,
    }
}

fn revision(number: i64) -> Revision {
    Revision::new(u64::try_from(number).unwrap_or_default())
}

fn number(revision: Revision) -> i64 {
    i64::try_from(revision.get()).unwrap_or(i64::MAX)
}
