//! Brokers that die while they mint and revoke: no user is orphaned, no lease without its user, none revoked early.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use keyferry_broker::clock::SystemClock;
use keyferry_broker::failpoints::{Failpoints, Point};
use keyferry_proto::v1::revoke_lease_request::Target;
use keyferry_proto::v1::token_service_client::TokenServiceClient;
use keyferry_proto::v1::{Lease, LeaseState, ListLeasesRequest, RenewLeaseRequest, RevokeLeaseRequest};
use keyferry_tests::broker::{TestBroker, endpoint, prepare};
use keyferry_tests::pki::{Ca, Issued};
use keyferry_tests::postgres::Cluster;
use keyferry_tests::process::Process;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::reload::eventually;
use crate::tokens::{POLICY, mint, mint_request};

/// CI takes fewer than a release does.
pub(crate) fn count(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |count| count.parse().unwrap())
}

const LEASES: &str = "[leases]\nlive_per_caller = 1000000\nsweep_interval = \"1s\"\n";

struct Scene {
    ca: Ca,
    client: Issued,
    cluster: Cluster,
    directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        let ca = Ca::new("test CA");
        let cluster = Cluster::start(&ca);
        let directory = TempDir::new().unwrap();
        // Longer than any run takes: what was promised must be there at its end.
        let long = "groups = [\"orders_read\"]\ndefault_ttl = \"12h\"\nmax_ttl = \"12h\"";
        let database = cluster.configuration().replace("groups = [\"orders_read\"]", long);
        prepare(directory.path(), &ca, &format!("{database}{LEASES}"));
        std::fs::write(directory.path().join("policy/mint.cedar"), POLICY).unwrap();
        Self { client: ca.client("client"), ca, cluster, directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    async fn client_of(&self, broker: &Process) -> TokenServiceClient<Channel> {
        let channel = endpoint(broker.grpc().port(), self.client.client_tls(&self.ca)).connect().await.unwrap();
        TokenServiceClient::new(channel)
    }

    /// A broker that recovers: in the end users and active leases are the same, and all that was promised is there.
    async fn settles(&self, promised: &BTreeSet<String>) {
        let broker = Process::serve(self.path());
        let client = self.client_of(&broker).await;
        eventually("users and leases agree", async || {
            let leases = leases(&mut client.clone()).await;
            let active = leases.iter().filter(|lease| lease.state() == LeaseState::Active);
            let users: BTreeSet<_> = self.cluster.users().into_iter().collect();
            active.map(|lease| lease.user.clone()).collect::<BTreeSet<_>>() == users
                && leases.iter().all(|lease| lease.state() == LeaseState::Active)
        })
        .await;
        let users: BTreeSet<_> = self.cluster.users().into_iter().collect();
        let early: Vec<_> = promised.difference(&users).collect();
        assert!(early.is_empty(), "revoked early: {early:?}");
        assert!(broker.terminate().0);
    }
}

pub(crate) async fn leases(client: &mut TokenServiceClient<Channel>) -> Vec<Lease> {
    let (mut leases, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListLeasesRequest { page_size: 1000, page_token, ..Default::default() };
        let page = client.list_leases(request).await.unwrap().into_inner();
        leases.extend(page.leases);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return leases;
        }
    }
}

/// Mints, and revokes all but every fourth, until the broker is gone.
async fn mint_until_cut(
    mut client: TokenServiceClient<Channel>,
    minted: Arc<AtomicUsize>,
    promised: Arc<Mutex<BTreeSet<String>>>,
) {
    for turn in 0.. {
        let Ok(token) = client.mint_database_token(mint_request()).await else { return };
        let token = token.into_inner();
        minted.fetch_add(1, Ordering::Relaxed);
        if turn % 4 == 0 {
            promised.lock().unwrap().insert(token.user);
            continue;
        }
        let target = Some(Target::Name(token.lease.unwrap().name));
        if client.revoke_lease(RevokeLeaseRequest { target, ..Default::default() }).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_mints_leaves_users_and_leases_that_agree() {
    let (kills, mints) = (count("KF_TEST_KILLS", 12), count("KF_TEST_MINTS", 240));
    let scene = Scene::new();
    let (minted, promised) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(BTreeSet::new())));
    for kill in 0..kills {
        let broker = Process::serve(scene.path());
        let client = scene.client_of(&broker).await;
        // Not a round number, so that kills fall on other moments than the ends of mints.
        let enough = mints * (kill + 1) / kills;
        let load: Vec<_> = (0..8)
            .map(|_| tokio::spawn(mint_until_cut(client.clone(), Arc::clone(&minted), Arc::clone(&promised))))
            .collect();
        while minted.load(Ordering::Relaxed) < enough {
            tokio::task::yield_now().await;
        }
        broker.kill();
        for worker in load {
            worker.await.unwrap();
        }
    }
    let promised = promised.lock().unwrap().clone();
    scene.settles(&promised).await;
    println!(
        "{} mints over {kills} kills, {} users promised and there",
        minted.load(Ordering::Relaxed),
        promised.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_between_any_two_steps_of_a_lease_recovers() {
    let scene = Scene::new();
    let mut promised = BTreeSet::new();
    for round in 0..count("KF_TEST_DEATHS", 1) {
        for point in Point::OF_LEASES {
            let mut program = Command::new(env!("CARGO_BIN_EXE_failing"));
            let mut broker = Process::start(program.arg(scene.path()).arg(format!("{point:?}")));
            let mut client = scene.client_of(&broker).await;
            // One lease through all of its life, as far as the broker gets.
            if let Ok(token) = client.mint_database_token(mint_request()).await {
                let name = token.into_inner().lease.unwrap().name;
                let renewal = RenewLeaseRequest { name: name.clone(), ..Default::default() };
                if client.renew_lease(renewal).await.is_ok() {
                    let target = Some(Target::Name(name));
                    let _ = client.revoke_lease(RevokeLeaseRequest { target, ..Default::default() }).await;
                }
            }
            eventually(&format!("it dies at {point:?} in round {round}"), || std::future::ready(broker.has_ended()))
                .await;
            let kept = Process::serve(scene.path());
            promised.insert(mint(&mut scene.client_of(&kept).await).await.user);
            kept.kill();
        }
    }
    // The renewed lease of whoever died while renewing lives on, as it should.
    scene.settles(&promised).await;
}

/// Stops each mint where its user was just made, until told to go on.
#[derive(Debug)]
struct Gate {
    reached: SyncSender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Failpoints for Gate {
    fn reach(&self, point: Point) {
        if point == Point::MintCreated {
            self.reached.send(()).unwrap();
            self.go_on.lock().unwrap().recv().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_caller_that_goes_away_leaves_no_user() {
    let scene = Scene::new();
    let ((reached, made), (go_on, told)) = (sync_channel(1), sync_channel(1));
    let gate = Arc::new(Gate { reached, go_on: Mutex::new(told) });
    let Scene { ca, cluster, directory, .. } = scene;
    let broker = TestBroker::start_failing(directory, ca, Arc::new(SystemClock), gate).await;
    let mut client = broker.tokens(&broker.client).await;
    let call = tokio::spawn(async move { client.mint_database_token(mint_request()).await });
    let made = tokio::task::spawn_blocking(move || made.recv().map(|()| made)).await.unwrap().unwrap();
    assert_eq!(cluster.users().len(), 1);
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    cancelled_on_record(broker.path()).await;
    go_on.send(()).unwrap();
    eventually("the user is gone", async || cluster.users().is_empty()).await;
    drop(made);
}

pub(crate) async fn cancelled_on_record(directory: &Path) {
    eventually("the call is on record as cancelled", async || {
        crate::audit::records(&directory.join("audit")).iter().any(|record| record["outcome"] == "CANCELLED")
    })
    .await;
}
