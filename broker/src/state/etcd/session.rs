//! This replica among the others: alive while its lease lives, leader while the leader's key hangs on that lease.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::{
    Compare, CompareOp, Error, GetOptions, GetResponse, KeyValue, LeaseGrantOptions, PutOptions, Txn, TxnOp,
    TxnOpResponse,
};
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use super::epoch::EpochKey;
use super::layout::Layout;
use crate::clock::SharedClock;
use crate::state::failure::StateError;
use crate::state::leadership::{Fence, Held, Leadership, Term};

/// Beats in the time to live of a lease: some may be lost before it is.
const BEATS: u32 = 4;

#[derive(Debug)]
pub(super) struct Session {
    terms: watch::Receiver<Term>,
    nodes: Arc<Mutex<Vec<String>>>,
    /// Another replica has this one's name.
    twin: Arc<AtomicBool>,
    stop: CancellationToken,
    beating: Mutex<Option<JoinHandle<()>>>,
}

impl Session {
    pub(super) fn start(
        cluster: Arc<Cluster>,
        layout: Arc<Layout>,
        epoch: Arc<EpochKey>,
        node: String,
        ttl: Duration,
        clock: SharedClock,
    ) -> Self {
        let (sender, terms) = watch::channel(Term::default());
        let (nodes, stop) = (Arc::<Mutex<Vec<String>>>::default(), CancellationToken::new());
        let (kept, twin) = (clock.monotonic(), Arc::<AtomicBool>::default());
        let heart = Heart {
            cluster,
            layout,
            epoch,
            node,
            ttl,
            clock,
            terms: sender,
            nodes: Arc::clone(&nodes),
            lease: None,
            kept,
            twin: Arc::clone(&twin),
        };
        let beating = tokio::spawn(heart.beat_until(stop.clone()));
        Self { terms, nodes, twin, stop, beating: Mutex::new(Some(beating)) }
    }

    pub(super) fn none() -> Self {
        let (_, terms) = watch::channel(Term::default());
        Self {
            terms,
            nodes: Arc::default(),
            twin: Arc::default(),
            stop: CancellationToken::new(),
            beating: Mutex::default(),
        }
    }

    pub(super) fn leadership(&self) -> Leadership {
        Leadership::new(self.terms.clone())
    }

    /// The leader and the replicas alive, as of the last beat.
    pub(super) fn seen(&self) -> (Option<String>, Vec<String>) {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.terms.borrow().leader.clone(), nodes)
    }

    /// Whether another replica that lives has this one's name.
    pub(super) fn has_twin(&self) -> bool {
        self.twin.load(Ordering::Relaxed)
    }

    /// Resigns, so that nobody has to wait for the lease to run out.
    pub(super) fn end(&self) -> BoxFuture<'_, ()> {
        self.stop.cancel();
        let beating = self.beating.lock().unwrap_or_else(PoisonError::into_inner).take();
        Box::pin(async move {
            if let Some(beating) = beating
                && beating.await.is_err()
            {
                tracing::error!("the state's session did not end in order; report this as a bug");
            }
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Heart {
    cluster: Arc<Cluster>,
    layout: Arc<Layout>,
    epoch: Arc<EpochKey>,
    node: String,
    ttl: Duration,
    clock: SharedClock,
    terms: watch::Sender<Term>,
    nodes: Arc<Mutex<Vec<String>>>,
    lease: Option<i64>,
    /// When the last request was sent that prolonged the lease, and before there is one, when all began.
    kept: Instant,
    twin: Arc<AtomicBool>,
}

impl Heart {
    async fn beat_until(mut self, stop: CancellationToken) {
        let interval = self.ttl / BEATS;
        loop {
            match stop.run_until_cancelled(self.beat()).await {
                Some(Ok(term)) => self.publish(term),
                // The lease may have run out: whoever leads by it stops before another begins.
                Some(Err(_)) if self.clock.monotonic() - self.kept >= self.ttl => self.publish(Term::default()),
                Some(Err(_)) => {}
                None => break,
            }
            if stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_none() {
                break;
            }
        }
        self.publish(Term::default());
        if let Some(lease) = self.lease {
            let revoke = |client: etcd_client::Client| async move { client.lease_client().revoke(lease).await };
            if let Err(error) = self.cluster.ask(revoke).await {
                tracing::warn!(%error, "could not resign; others wait until the lease runs out");
            }
        }
    }

    fn publish(&self, term: Term) {
        self.terms.send_if_modified(|current| {
            if *current == term {
                return false;
            }
            if current.fence.is_some() != term.fence.is_some() {
                tracing::info!(leads = term.fence.is_some(), leader = term.leader, "leadership changed");
            }
            *current = term;
            true
        });
    }

    async fn beat(&mut self) -> Result<Term, StateError> {
        // From the first beat on, a status says which history it is about.
        self.epoch.known(&self.cluster).await?;
        if let Some(lease) = self.lease {
            if self.prolong(lease).await? {
                return self.stand(lease).await;
            }
            self.lease = None;
            self.publish(Term::default());
        }
        let lease = self.join().await?;
        self.stand(lease).await
    }

    /// Whether the lease still lived.
    async fn prolong(&mut self, lease: i64) -> Result<bool, StateError> {
        let sent = self.clock.monotonic();
        let left = self
            .cluster
            .ask(|client| async move {
                let (mut keeper, mut answers) = client.lease_client().keep_alive(lease).await?;
                keeper.keep_alive().await?;
                Ok(answers.message().await?.map_or(0, |answer| answer.ttl()))
            })
            .await;
        match left {
            Ok(left) if left > 0 => {
                self.kept = sent;
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A lease of its own, with this replica's name on it.
    async fn join(&mut self) -> Result<i64, StateError> {
        let sent = self.clock.monotonic();
        let ttl = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        let grant = |client: etcd_client::Client| async move {
            client.lease_client().grant(ttl, None::<LeaseGrantOptions>).await
        };
        let lease = self.cluster.ask(grant).await?.id();
        self.take_place(lease).await?;
        self.twin.store(false, Ordering::Relaxed);
        (self.lease, self.kept) = (Some(lease), sent);
        Ok(lease)
    }

    /// Puts this replica's name on record while the lease lives.
    async fn take_place(&mut self, lease: i64) -> Result<(), StateError> {
        let (name, node) = (self.layout.node(&self.node), self.node.clone());
        let txn = Txn::new()
            .when([Compare::create_revision(name.clone(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(name.clone(), node, Some(PutOptions::new().with_lease(lease)))])
            .or_else([TxnOp::get(name, None)]);
        let put = |client: etcd_client::Client| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        };
        let answer = self.cluster.ask(put).await?;
        let holder = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(response) => response.kvs().first().map(KeyValue::lease),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
        });
        // Ours is one whose first answer was lost.
        if holder.is_some_and(|holder| holder != lease) {
            self.lease = None;
            self.publish(Term::default());
            self.meet_twin();
            return Err(StateError::Unavailable("another replica has this node's name", None));
        }
        Ok(())
    }

    /// Before a lease has run out, it may be that of this node's process before.
    fn meet_twin(&self) {
        let lasting = self.clock.monotonic() - self.kept > self.ttl * 2;
        if lasting && !self.twin.swap(true, Ordering::Relaxed) {
            tracing::error!(
                node = self.node,
                "another replica has the same name; give each its own under [node] name, or one takes the other's \
                 mints for dead"
            );
        }
    }

    /// Leads if nobody does, and looks who is there.
    async fn stand(&mut self, lease: i64) -> Result<Term, StateError> {
        let (leader, nodes) = (self.layout.leader(), self.layout.nodes());
        let look = [TxnOp::get(leader.clone(), None), TxnOp::get(nodes, Some(GetOptions::new().with_prefix()))];
        let take = TxnOp::put(leader.clone(), self.node.clone(), Some(PutOptions::new().with_lease(lease)));
        let txn = Txn::new()
            .when([Compare::create_revision(leader, CompareOp::Equal, 0)])
            .and_then([vec![take], look.to_vec()].concat())
            .or_else(look);
        let ask = |client: etcd_client::Client| {
            let txn = txn.clone();
            async move { Ok::<_, Error>(client.kv_client().txn(txn).await?.op_responses()) }
        };
        let mut looked = self.cluster.ask(ask).await?.into_iter().filter_map(|response| match response {
            TxnOpResponse::Get(response) => Some(response),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
        });
        let leader = looked.next().and_then(|leader| leader.kvs().first().cloned());
        let there = looked.next();
        let there = there.as_ref().map_or(&[][..], GetResponse::kvs);
        if !there.iter().any(|node| node.lease() == lease) {
            // A backup has the lease and not the name where it was made between the two.
            self.take_place(lease).await?;
        }
        let mut nodes: Vec<String> = there.iter().map(text).chain([self.node.clone()]).collect();
        nodes.sort_unstable();
        nodes.dedup();
        *self.nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
        let ours = leader.as_ref().filter(|leader| leader.lease() == lease);
        Ok(Term {
            fence: ours.map(|leader| Fence(Held::Since(leader.create_revision()))),
            leader: leader.as_ref().map(text),
        })
    }
}

fn text(found: &KeyValue) -> String {
    String::from_utf8_lossy(found.value()).into_owned()
}
