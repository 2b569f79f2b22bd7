//! Tokens of several brokers on one etcd: members and brokers die under them, and nothing is lost or granted twice.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyferry_broker::clock::{Clock as _, SystemClock};
use keyferry_broker::failpoints::{Failpoints, Point};
use keyferry_proto::v1::revoke_lease_request::Target;
use keyferry_proto::v1::token_service_client::TokenServiceClient;
use keyferry_proto::v1::{
    GetStatusRequest, LeaseState, ListLeasesRequest, MintDatabaseTokenRequest, MintDatabaseTokenResponse,
    RevokeLeaseRequest,
};
use keyferry_tests::broker::{TestBroker, endpoint, get, prepare};
use keyferry_tests::etcd::EtcdCluster;
use keyferry_tests::pki::{Ca, Issued};
use keyferry_tests::postgres::Cluster;
use keyferry_tests::process::Process;
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::Channel;

use crate::reload::eventually;
use crate::status::{reason, refused};
use crate::token_faults::{cancelled_on_record, count, leases};
use crate::token_links::When;
use crate::tokens::{POLICY, mint, mint_request};

type Tokens = TokenServiceClient<Channel>;

/// What the brokers share. All of them have certificates of the same CA.
struct Shared {
    ca: Ca,
    database: Cluster,
    etcd: EtcdCluster,
}

impl Shared {
    fn start(members: usize) -> Self {
        let ca = Ca::new("test CA");
        let database = Cluster::start(&ca);
        Self { ca, database, etcd: EtcdCluster::start(members) }
    }

    fn directory(&self, node: &str) -> TempDir {
        let directory = TempDir::new().unwrap();
        let leases = "[leases]\nlive_per_caller = 1000000\nsweep_interval = \"1s\"\n";
        let (database, state) = (self.database.configuration(), self.etcd.configuration());
        prepare(directory.path(), &self.ca, &format!("{database}{state}{leases}[node]\nname = \"{node}\"\n"));
        std::fs::write(directory.path().join("policy/mint.cedar"), POLICY).unwrap();
        directory
    }

    async fn broker(&self, node: &str) -> TestBroker {
        TestBroker::start_in(self.directory(node), self.ca.clone(), Arc::new(SystemClock)).await
    }

    /// Asks one member something that takes a majority.
    async fn answers(&self, member: usize) -> bool {
        let Ok(mut client) = etcd_client::Client::connect([&self.etcd.endpoints()[member]], None).await else {
            return false;
        };
        client.get("health", None).await.is_ok()
    }
}

async fn revoke(client: &mut Tokens, name: &str) -> Result<LeaseState, Status> {
    let request = RevokeLeaseRequest { target: Some(Target::Name(name.into())), ..Default::default() };
    Ok(client.revoke_lease(request).await?.into_inner().lease.unwrap().state())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_starts_without_its_state_and_mints_once_it_is_back() {
    let mut shared = Shared::start(1);
    shared.etcd.kill(0);
    let broker = shared.broker("one").await;
    broker.put("db", b"1", &[]).await;
    assert_eq!(&*get(&mut broker.secrets(&broker.client).await, "db").await.unwrap().payload, b"1");
    let mut client = broker.tokens(&broker.client).await;
    assert_eq!(refused(client.mint_database_token(mint_request()).await), "STATE_UNAVAILABLE");
    assert_eq!(refused(client.list_leases(ListLeasesRequest::default()).await), "STATE_UNAVAILABLE");
    assert_eq!(refused(revoke(&mut client, "leases/0123").await), "STATE_UNAVAILABLE");
    let dry = MintDatabaseTokenRequest { validate_only: true, ..mint_request() };
    assert_eq!(refused(client.mint_database_token(dry).await), "STATE_UNAVAILABLE");
    let mut operations = broker.operations(&broker.operator).await;
    let status = operations.get_status(GetStatusRequest {}).await.unwrap().into_inner().status.unwrap();
    assert!(status.leases.is_none(), "they were not read");

    shared.etcd.resume(0);
    eventually("tokens are minted again", async || client.clone().mint_database_token(mint_request()).await.is_ok())
        .await;
    assert_eq!(leases(&mut client).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_mints_are_denied_with_a_reason_and_reads_go_on() {
    let mut shared = Shared::start(3);
    let broker = shared.broker("one").await;
    broker.put("db", b"1", &[]).await;
    let mut client = broker.tokens(&broker.client).await;
    let token = mint(&mut client).await;
    shared.etcd.kill(0);
    shared.etcd.kill(1);
    assert_eq!(refused(client.mint_database_token(mint_request()).await), "STATE_UNAVAILABLE");
    assert_eq!(refused(revoke(&mut client, &token.lease.unwrap().name).await), "STATE_UNAVAILABLE");
    assert_eq!(&*get(&mut broker.secrets(&broker.client).await, "db").await.unwrap().payload, b"1");
    assert_eq!(leases(&mut client).await.len(), 1);
    assert_eq!(shared.database.users(), [token.user], "nothing was made without a record");
    shared.etcd.resume(0);
    eventually("tokens are minted again", async || client.clone().mint_database_token(mint_request()).await.is_ok())
        .await;
}

/// One caller's work, until it is told to stop: each of its requests is repeated, at either broker, until it is answered.
struct Load {
    brokers: [Tokens; 2],
    requests: Arc<AtomicUsize>,
    granted: Arc<Mutex<BTreeSet<String>>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    async fn run(mut self) {
        for turn in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let token = self.mint(turn).await;
            if turn % 4 == 0 {
                assert!(self.granted.lock().unwrap().insert(token.user), "two requests were given one user");
            } else {
                self.revoke(turn, &token.lease.unwrap().name).await;
            }
        }
    }

    async fn mint(&mut self, turn: usize) -> MintDatabaseTokenResponse {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let request_id = format!("00000000-0000-4000-8000-{number:012x}");
        for attempt in turn.. {
            let request = MintDatabaseTokenRequest { request_id: request_id.clone(), ..mint_request() };
            match self.brokers[attempt % 2].mint_database_token(request).await {
                Ok(token) => return token.into_inner(),
                Err(status) => assert!(["STATE_UNAVAILABLE", "CONFLICT"].contains(&&*reason(&status)), "{status:?}"),
            }
        }
        unreachable!()
    }

    /// At the other broker than the one that minted, first.
    async fn revoke(&mut self, turn: usize, name: &str) {
        for attempt in turn + 1.. {
            match revoke(&mut self.brokers[attempt % 2], name).await {
                Ok(state) => return assert!([LeaseState::Revoking, LeaseState::Revoked].contains(&state)),
                Err(status) => assert_eq!(reason(&status), "STATE_UNAVAILABLE", "{status:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_members_die_under_two_brokers_and_nothing_is_lost_or_granted_twice() {
    let mut shared = Shared::start(3);
    let brokers = [shared.broker("one").await, shared.broker("two").await];
    let [one, two] = &brokers;
    let clients = [one.tokens(&one.client).await, two.tokens(&two.client).await];
    let (requests, granted, stop) = (Arc::<AtomicUsize>::default(), Arc::default(), Arc::<AtomicBool>::default());
    let load: Vec<_> = (0..6)
        .map(|_| Load {
            brokers: clients.clone(),
            requests: Arc::clone(&requests),
            granted: Arc::clone(&granted),
            stop: Arc::clone(&stop),
        })
        .map(|load| tokio::spawn(load.run()))
        .collect();
    let kills = count("KF_TEST_MEMBER_KILLS", 3);
    for _ in 0..kills {
        let mut chance = [0];
        aws_lc_rs::rand::fill(&mut chance).unwrap();
        let member = usize::from(chance[0]) % 3;
        shared.etcd.kill(member);
        for phase in ["without a member", "with all"] {
            let more = requests.load(Ordering::Relaxed) + 20;
            eventually(&format!("tokens are minted {phase}"), async || requests.load(Ordering::Relaxed) >= more).await;
            if phase == "without a member" {
                shared.etcd.resume(member);
                eventually("it is back", async || shared.answers(member).await).await;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await.unwrap();
    }
    let granted: BTreeSet<String> = granted.lock().unwrap().clone();
    for client in &clients {
        eventually("users, leases and what callers hold are the same", async || {
            let leases = leases(&mut client.clone()).await;
            let active = leases.iter().all(|lease| lease.state() == LeaseState::Active);
            let users: BTreeSet<_> = leases.into_iter().map(|lease| lease.user).collect();
            active && users == granted && shared.database.users().into_iter().collect::<BTreeSet<_>>() == granted
        })
        .await;
    }
    println!(
        "{} requests over {kills} kills, {} users granted and there",
        requests.load(Ordering::Relaxed),
        granted.len()
    );
}

/// Once the state answers.
async fn mint_at_last(client: &Tokens) -> String {
    let minted = Mutex::new(String::new());
    eventually("a token is minted", async || match client.clone().mint_database_token(mint_request()).await {
        Ok(token) => {
            *minted.lock().unwrap() = token.into_inner().user;
            true
        }
        Err(_) => false,
    })
    .await;
    minted.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_broker_goes_by_a_restored_backup_and_what_it_does_not_know_is_removed() {
    let mut shared = Shared::start(1);
    let brokers = [shared.broker("one").await, shared.broker("two").await];
    let clients = [brokers[0].tokens(&brokers[0].client).await, brokers[1].tokens(&brokers[1].client).await];
    let all_agree_on = async |database: &Cluster, users: &BTreeSet<String>| {
        for client in &clients {
            eventually("users and leases are these", async || {
                let leases = leases(&mut client.clone()).await;
                let held: BTreeSet<_> = leases.into_iter().map(|lease| lease.user).collect();
                held == *users && database.users().into_iter().collect::<BTreeSet<_>>() == *users
            })
            .await;
        }
    };
    let mut users = BTreeSet::from([mint(&mut clients[0].clone()).await.user]);
    all_agree_on(&shared.database, &users).await;
    let backup = shared.etcd.back_up();
    let mut before = users.clone();
    for turn in 0..40 {
        before.insert(mint_at_last(&clients[turn % 2]).await);
    }
    all_agree_on(&shared.database, &before).await;

    shared.etcd.restore(&backup);
    users.insert(mint_at_last(&clients[0]).await);
    all_agree_on(&shared.database, &users).await;
}

/// The one that leads, whose duty it is, is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_broker_ends_leases_within_15_seconds_of_a_kill() {
    let shared = Shared::start(1);
    let (first, second) = (shared.directory("one"), shared.directory("two"));
    let client = shared.ca.client("client");
    let leader = Process::serve(first.path());
    // Whoever minted first led when it did: its sweeps need to.
    eventually("one leads", async || leads(&shared, &leader, "one").await).await;
    let other = Process::serve(second.path());
    let mut tokens = tokens(&shared, &leader, &client).await;
    for _ in 0..20 {
        let ttl = Some(prost_types::Duration { seconds: 5, nanos: 0 });
        tokens.mint_database_token(MintDatabaseTokenRequest { ttl, ..mint_request() }).await.unwrap();
    }
    assert_eq!(shared.database.users().len(), 20);
    let killed = SystemClock.monotonic();
    leader.kill();
    eventually("all are gone", async || shared.database.users().is_empty()).await;
    let took = SystemClock.monotonic() - killed;
    assert!(took < Duration::from_secs(15), "{took:?}");
    println!("leases of five seconds were ended by the other broker {took:?} after the kill");
    assert!(other.terminate().0);
}

async fn tokens(shared: &Shared, broker: &Process, who: &Issued) -> Tokens {
    let channel = endpoint(broker.grpc().port(), who.client_tls(&shared.ca)).connect().await.unwrap();
    TokenServiceClient::new(channel)
}

async fn leads(shared: &Shared, broker: &Process, node: &str) -> bool {
    let channel = endpoint(broker.grpc().port(), shared.ca.client("operator").client_tls(&shared.ca)).connect().await;
    let mut operations = keyferry_proto::v1::operator_service_client::OperatorServiceClient::new(channel.unwrap());
    let status = operations.get_status(GetStatusRequest {}).await.unwrap().into_inner().status.unwrap();
    status.state.unwrap().leader == node
}

/// Its record is made good by the replica that knows of it, whoever leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_that_a_follower_minted_and_could_not_deliver_is_revoked() {
    let shared = Shared::start(1);
    let leader = shared.broker("one").await;
    leader.broker.parts().state.leadership().elected().await;
    let ((reached, made), (go_on, told)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    let wait = When::reached(Point::MintActive, move || {
        reached.send(()).unwrap();
        told.recv().unwrap();
    });
    let directory = shared.directory("two");
    let follower =
        TestBroker::start_failing(directory, shared.ca.clone(), Arc::new(SystemClock), wait as Arc<dyn Failpoints>)
            .await;
    let mut client = follower.tokens(&follower.client).await;
    let call = tokio::spawn(async move { client.mint_database_token(mint_request()).await });
    tokio::task::spawn_blocking(move || made.recv().unwrap()).await.unwrap();
    assert_eq!(shared.database.users().len(), 1);
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    cancelled_on_record(follower.path()).await;
    go_on.send(()).unwrap();
    eventually("its user is gone", async || shared.database.users().is_empty()).await;
}
