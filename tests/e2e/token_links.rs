//! What a mint needs fails in the middle of it: the way to the database, the audit log, the memory of what was minted.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use keyferry_broker::clock::{SharedClock, SystemClock};
use keyferry_broker::failpoints::{Failpoints, Point};
use keyferry_proto::v1::revoke_lease_request::Target;
use keyferry_proto::v1::token_service_client::TokenServiceClient;
use keyferry_proto::v1::{Lease, LeaseFilter, LeaseRevokeCause, LeaseState, ListLeasesRequest, RevokeLeaseRequest};
use keyferry_tests::broker::{TestBroker, get, prepare};
use keyferry_tests::pki::Ca;
use keyferry_tests::postgres::Cluster;
use keyferry_tests::proxy::{Mood, Proxy};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::audit::{SmallDisk, fill};
use crate::reload::eventually;
use crate::status::{reason, refused};
use crate::token_faults::{count, leases};
use crate::tokens::{POLICY, mint, mint_request};

type Tokens = TokenServiceClient<Channel>;

/// Does something, once, when a step is reached.
pub(crate) struct When<F>(Point, Mutex<Option<F>>);

impl<F> When<F> {
    pub(crate) fn reached(point: Point, act: F) -> Arc<Self> {
        Arc::new(Self(point, Mutex::new(Some(act))))
    }
}

impl<F: FnOnce() + Send> Failpoints for When<F> {
    fn reach(&self, point: Point) {
        let act = if point == self.0 { self.1.lock().unwrap().take() } else { None };
        if let Some(act) = act {
            act();
        }
    }
}

impl<F> fmt::Debug for When<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "When({:?})", self.0)
    }
}

fn clock() -> SharedClock {
    Arc::new(SystemClock)
}

fn prepared(ca: &Ca, more: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    prepare(directory.path(), ca, more);
    std::fs::write(directory.path().join("policy/mint.cedar"), POLICY).unwrap();
    directory
}

/// The causes of all leases that are over; `None` while one is not.
async fn ends(broker: &TestBroker) -> Option<Vec<LeaseRevokeCause>> {
    let states = [LeaseState::Pending, LeaseState::Active, LeaseState::Revoking, LeaseState::Revoked];
    let filter = LeaseFilter { states: states.map(Into::into).to_vec(), ..Default::default() };
    let request = ListLeasesRequest { filter: Some(filter), ..Default::default() };
    let leases = broker.tokens(&broker.operator).await.list_leases(request).await.unwrap().into_inner().leases;
    let over = leases.iter().all(|lease| lease.state() == LeaseState::Revoked);
    over.then(|| leases.iter().map(Lease::revoke_cause).collect())
}

/// Mints while the way to the database turns bad between the record and the user; says how many users that left.
async fn mint_with(mood: Mood) -> usize {
    let ca = Ca::new("test CA");
    let cluster = Cluster::start(&ca);
    let proxy = Proxy::start("127.0.0.1", cluster.port()).await;
    let [direct, by_way] = [cluster.port(), proxy.port()].map(|port| format!("port = {port}\n"));
    let directory = prepared(&ca, &cluster.configuration().replace(&direct, &by_way));
    let moods = proxy.mood();
    let spoil = When::reached(Point::MintPending, move || {
        moods.send_replace(mood);
    });
    let broker = TestBroker::start_failing(directory, ca, clock(), spoil).await;
    let mut client = broker.tokens(&broker.client).await;
    assert_eq!(refused(client.mint_database_token(mint_request()).await), "DATABASE_UNAVAILABLE");
    let left = || cluster.users().len();
    eventually("the server is done with it", async || {
        cluster.admin("postgres", "SELECT count(*) FROM pg_stat_activity WHERE usename = 'keyferry'") == "0"
    })
    .await;
    let stranded = left();

    proxy.mood().send_replace(Mood::Passing);
    eventually("nothing is left", async || {
        left() == 0 && ends(&broker).await.is_some_and(|ends| ends == [LeaseRevokeCause::MintIncomplete])
    })
    .await;
    mint(&mut client).await;
    stranded
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mint_whose_connection_is_cut_leaves_nothing() {
    assert_eq!(mint_with(Mood::Cutting).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_whose_creation_was_never_answered_is_removed() {
    assert_eq!(mint_with(Mood::SwallowingAnswers).await, 1);
}

/// What happens between a broker and its callers, until it is told to stop.
struct Load {
    tokens: Tokens,
    minted: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    granted: Arc<Mutex<BTreeSet<String>>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Mints, and revokes all but every fourth.
    async fn run(mut self) {
        let mut turn = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let token = match self.tokens.mint_database_token(mint_request()).await {
                Ok(token) => token.into_inner(),
                Err(status) => {
                    assert_eq!(reason(&status), "DATABASE_UNAVAILABLE", "{status:?}");
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            };
            self.minted.fetch_add(1, Ordering::Relaxed);
            turn += 1;
            if turn % 4 == 0 {
                self.granted.lock().unwrap().insert(token.user);
            } else {
                let target = Some(Target::Name(token.lease.unwrap().name));
                self.tokens.revoke_lease(RevokeLeaseRequest { target, ..Default::default() }).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_cut_and_answers_lost_under_mints_and_users_and_leases_agree() {
    let ca = Ca::new("test CA");
    let cluster = Cluster::start(&ca);
    let proxy = Proxy::start("127.0.0.1", cluster.port()).await;
    let [direct, by_way] = [cluster.port(), proxy.port()].map(|port| format!("port = {port}\n"));
    let leases_table = "[leases]\nlive_per_caller = 1000000\nsweep_interval = \"1s\"\n";
    let configuration = cluster.configuration().replace(&direct, &by_way) + leases_table;
    let broker = TestBroker::start_in(prepared(&ca, &configuration), ca, clock()).await;
    let tokens = broker.tokens(&broker.client).await;
    let [minted, failed] = [(); 2].map(|()| Arc::<AtomicUsize>::default());
    let (granted, stop) = (Arc::<Mutex<BTreeSet<_>>>::default(), Arc::<AtomicBool>::default());
    let load: Vec<_> = (0..6)
        .map(|_| Load {
            tokens: tokens.clone(),
            minted: Arc::clone(&minted),
            failed: Arc::clone(&failed),
            granted: Arc::clone(&granted),
            stop: Arc::clone(&stop),
        })
        .map(|load| tokio::spawn(load.run()))
        .collect();
    let cuts = count("KF_TEST_CUTS", 6);
    for cut in 0..cuts {
        let enough = minted.load(Ordering::Relaxed) + 20;
        eventually("tokens are minted", async || minted.load(Ordering::Relaxed) >= enough).await;
        let before = failed.load(Ordering::Relaxed);
        proxy.mood().send_replace(if cut % 2 == 0 { Mood::Cutting } else { Mood::SwallowingAnswers });
        eventually("a mint fails", async || failed.load(Ordering::Relaxed) > before).await;
        proxy.mood().send_replace(Mood::Passing);
    }
    stop.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await.unwrap();
    }
    let granted = granted.lock().unwrap().clone();
    eventually("users, leases and what callers hold are the same", async || {
        let leases = leases(&mut tokens.clone()).await;
        let active = leases.iter().all(|lease| lease.state() == LeaseState::Active);
        let held: BTreeSet<_> = leases.into_iter().map(|lease| lease.user).collect();
        active && held == granted && cluster.users().into_iter().collect::<BTreeSet<_>>() == granted
    })
    .await;
    let [minted, failed] = [minted, failed].map(|count| count.load(Ordering::Relaxed));
    println!("{minted} mints and {failed} failures over {cuts} cuts, {} users granted and there", granted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_mint_that_cannot_be_put_on_record_is_revoked() {
    let ca = Ca::new("test CA");
    let cluster = Cluster::start(&ca);
    let disk = SmallDisk::mount("3m");
    let audit = format!(
        "[audit]\ndirectory = {:?}\nsigning_key = \"signing.key\"\n{}",
        disk.0.path().join("audit"),
        cluster.configuration()
    );
    let directory = prepared(&ca, &audit);
    let ((reached, made), (go_on, told)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    let wait = When::reached(Point::MintActive, move || {
        reached.send(()).unwrap();
        told.recv().unwrap();
    });
    let broker = TestBroker::start_failing(directory, ca, clock(), wait).await;
    broker.put("db", b"one", &[]).await;
    let mut client = broker.tokens(&broker.client).await;
    let call = tokio::spawn(async move { client.mint_database_token(mint_request()).await });
    tokio::task::spawn_blocking(move || made.recv().unwrap()).await.unwrap();
    assert_eq!(cluster.users().len(), 1);

    let ballast = disk.0.path().join("ballast");
    fill(&ballast);
    let mut reader = broker.secrets(&broker.client).await;
    let failure = loop {
        if let Err(status) = get(&mut reader, "db").await {
            break status;
        }
    };
    assert_eq!(reason(&failure), "AUDIT_UNAVAILABLE");
    go_on.send(()).unwrap();
    assert_eq!(refused(call.await.unwrap()), "AUDIT_UNAVAILABLE");
    eventually("its user is gone", async || cluster.users().is_empty()).await;

    std::fs::remove_file(&ballast).unwrap();
    eventually("records are written again", async || get(&mut reader.clone(), "db").await.is_ok()).await;
    assert_eq!(ends(&broker).await.unwrap(), [LeaseRevokeCause::MintIncomplete]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_the_state_brings_no_right_back() {
    let ca = Ca::new("test CA");
    let cluster = Cluster::start(&ca);
    let directory = prepared(&ca, &format!("{}[leases]\nsweep_interval = \"1s\"\n", cluster.configuration()));
    let (state, copy) = (directory.path().join("state.redb"), directory.path().join("copy.redb"));

    let broker = TestBroker::start_in(directory, ca, clock()).await;
    let revoked_later = mint(&mut broker.tokens(&broker.client).await).await;
    let TestBroker { ca, broker, directory, .. } = broker;
    broker.stop().await;
    std::fs::copy(&state, &copy).unwrap();

    let broker = TestBroker::start_in(directory, ca, clock()).await;
    let mut client = broker.tokens(&broker.client).await;
    let target = Some(Target::Name(revoked_later.lease.unwrap().name));
    client.revoke_lease(RevokeLeaseRequest { target, ..Default::default() }).await.unwrap();
    let minted_later = mint(&mut client).await;
    eventually("only the later user is there", async || cluster.users() == [minted_later.user.clone()]).await;
    drop(client);
    let TestBroker { ca, broker, directory, .. } = broker;
    broker.stop().await;
    std::fs::copy(&copy, &state).unwrap();

    let broker = TestBroker::start_in(directory, ca, clock()).await;
    eventually("what the copy does not know is removed, and what is gone stays gone", async || {
        cluster.users().is_empty() && ends(&broker).await.is_some_and(|ends| ends == [LeaseRevokeCause::Reconciled; 2])
    })
    .await;
}
