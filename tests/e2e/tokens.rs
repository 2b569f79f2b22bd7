//! Database tokens end to end: minted by a caller, used in a real PostgreSQL, taken back.

use std::sync::Arc;
use std::time::Duration;

use keyferry_broker::clock::{Clock as _, SystemClock};
use keyferry_proto::v1::mint_database_token_response::Credential;
use keyferry_proto::v1::revoke_lease_request::Target;
use keyferry_proto::v1::token_service_client::TokenServiceClient;
use keyferry_proto::v1::{
    BrokerStatus, GetStatusRequest, HealthState, Lease, LeaseFilter, LeaseRevokeCause, LeaseSelector, LeaseState,
    ListDatabaseRolesRequest, ListLeasesRequest, MintDatabaseTokenRequest, MintDatabaseTokenResponse,
    RenewLeaseRequest, RevokeLeaseRequest,
};
use keyferry_tests::broker::{TestBroker, prepare};
use keyferry_tests::clock::ManualClock;
use keyferry_tests::pki::{Ca, Issued};
use keyferry_tests::postgres::Cluster;
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::Channel;

use crate::admin::fetch;
use crate::reload::eventually;
use crate::status::{reason, refused};

pub(crate) const POLICY: &str = r#"
@id("clients-mint")
permit (principal, action in [Keyferry::Action::"Mint"], resource in Keyferry::Database::"shop")
when { principal has certificate && principal.certificate has spiffe && ["/client", "/other"].contains(principal.certificate.spiffe.path) };
"#;

pub(crate) struct World {
    pub(crate) broker: TestBroker,
    pub(crate) cluster: Cluster,
    pub(crate) clock: Arc<ManualClock>,
}

impl World {
    async fn new(more: &str) -> Self {
        let ca = Ca::new("test CA");
        let cluster = Cluster::start(&ca);
        Self::on(cluster, ca, more).await
    }

    async fn on(cluster: Cluster, ca: Ca, more: &str) -> Self {
        let directory = TempDir::new().unwrap();
        prepare(directory.path(), &ca, &format!("{}{more}", cluster.configuration()));
        std::fs::write(directory.path().join("policy/mint.cedar"), POLICY).unwrap();
        let clock = Arc::new(ManualClock::new());
        let broker = TestBroker::start_in(directory, ca, Arc::clone(&clock) as _).await;
        Self { broker, cluster, clock }
    }

    async fn client(&self) -> TokenServiceClient<Channel> {
        self.broker.tokens(&self.broker.client).await
    }

    async fn operator(&self) -> TokenServiceClient<Channel> {
        self.broker.tokens(&self.broker.operator).await
    }

    fn other(&self) -> Issued {
        self.broker.ca.client("other")
    }

    fn logs_in(&self, token: &MintDatabaseTokenResponse) -> bool {
        self.cluster.query(&token.user, password(token), "shop", "SELECT 1").is_ok()
    }

    async fn until_no_users(&self) {
        eventually("no user is left", async || self.cluster.users().is_empty()).await;
    }
}

pub(crate) fn mint_request() -> MintDatabaseTokenRequest {
    MintDatabaseTokenRequest { name: "databases/shop/roles/reader".into(), ..Default::default() }
}

pub(crate) async fn mint(client: &mut TokenServiceClient<Channel>) -> MintDatabaseTokenResponse {
    client.mint_database_token(mint_request()).await.unwrap().into_inner()
}

fn password(token: &MintDatabaseTokenResponse) -> &str {
    match token.credential.as_ref().unwrap() {
        Credential::Password(password) => &password.password,
        other @ (Credential::Certificate(_) | Credential::AccessToken(_)) => panic!("{other:?}"),
    }
}

fn lease_of(token: &MintDatabaseTokenResponse) -> &Lease {
    token.lease.as_ref().unwrap()
}

async fn renew(client: &mut TokenServiceClient<Channel>, name: &str, seconds: i64) -> Result<Lease, Status> {
    let ttl = Some(prost_types::Duration { seconds, nanos: 0 });
    let request = RenewLeaseRequest { name: name.into(), ttl, ..Default::default() };
    Ok(client.renew_lease(request).await?.into_inner().lease.unwrap())
}

async fn revoke(client: &mut TokenServiceClient<Channel>, name: &str) -> Result<Lease, Status> {
    let request = RevokeLeaseRequest { target: Some(Target::Name(name.into())), ..Default::default() };
    Ok(client.revoke_lease(request).await?.into_inner().lease.unwrap())
}

async fn leases(client: &mut TokenServiceClient<Channel>, states: &[LeaseState]) -> Vec<Lease> {
    let states = states.iter().map(|&state| state.into()).collect();
    let filter = Some(LeaseFilter { states, ..Default::default() });
    client
        .list_leases(ListLeasesRequest { filter, page_size: 1000, ..Default::default() })
        .await
        .unwrap()
        .into_inner()
        .leases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minted_user_may_what_its_role_may_until_its_lease_ends() {
    let world = World::new("").await;
    let mut client = world.client().await;
    let token = mint(&mut client).await;
    let connection = token.connection.as_ref().unwrap();
    assert_eq!((connection.port, connection.database.as_str()), (i32::from(world.cluster.port()), "shop"));
    assert_eq!(connection.parameters["sslmode"], "verify-full");
    assert!(connection.ca_pem.contains("BEGIN CERTIFICATE"));
    assert_eq!(lease_of(&token).state(), LeaseState::Active);
    assert_eq!(lease_of(&token).owner, "x509/spiffe://test.keyferry/client");

    let query = |sql| world.cluster.query(&token.user, password(&token), "shop", sql);
    assert_eq!(query("SELECT count(*) FROM orders").unwrap(), "2");
    assert!(query("SELECT * FROM ledger").is_err() && query("DELETE FROM orders").is_err());
    let comment = world
        .cluster
        .admin("shop", "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname LIKE 'kf\\_%'");
    assert!(comment.ends_with("reader x509/spiffe://test.keyferry/client"), "{comment}");

    let mut session = world.cluster.hold_session(&token.user, password(&token));
    world.clock.advance(Duration::from_secs(15 * 60 - 1));
    assert!(leases(&mut client, &[]).await.iter().all(|lease| lease.state() == LeaseState::Active));
    world.clock.advance(Duration::from_secs(1));
    world.until_no_users().await;
    assert!(!session.wait().unwrap().success(), "its session was ended");
    assert!(!world.logs_in(&token));
    eventually("the lease is closed", async || leases(&mut world.client().await, &[]).await.is_empty()).await;
    let ended = leases(&mut client, &[LeaseState::Revoked]).await.remove(0);
    assert_eq!((ended.revoke_cause(), ended.revoke_time.is_some()), (LeaseRevokeCause::Expired, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_revokes_its_own_and_nobody_else_s() {
    let world = World::new("").await;
    let mut client = world.client().await;
    let mut other = world.broker.tokens(&world.other()).await;
    let token = mint(&mut client).await;
    let name = lease_of(&token).name.clone();

    let foreign = revoke(&mut other, &name).await.unwrap_err();
    let absent = revoke(&mut other, "leases/0123").await.unwrap_err();
    assert_eq!(foreign.message().replace(&name, "leases/0123"), absent.message(), "told apart");
    assert_eq!(refused::<()>(Err(foreign)), "LEASE_NOT_FOUND");
    assert_eq!(refused(renew(&mut other, &name, 60).await), "LEASE_NOT_FOUND");
    assert!(leases(&mut other, &[]).await.is_empty());
    assert!(world.logs_in(&token));

    let revoked = revoke(&mut client, &name).await.unwrap();
    assert_eq!((revoked.state(), revoked.revoke_cause()), (LeaseState::Revoked, LeaseRevokeCause::Owner));
    assert!(!world.logs_in(&token) && world.cluster.users().is_empty());
    assert_eq!(revoke(&mut client, &name).await.unwrap().state(), LeaseState::Revoked);
    assert_eq!(refused(renew(&mut client, &name, 60).await), "LEASE_NOT_ACTIVE");

    let token = mint(&mut other).await;
    let revoked = revoke(&mut world.operator().await, &lease_of(&token).name).await.unwrap();
    assert_eq!(revoked.revoke_cause(), LeaseRevokeCause::Operator);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_renewal_and_no_clock_outlives_the_longest_life() {
    let world = World::new("").await;
    let mut client = world.client().await;
    let token = mint(&mut client).await;
    let lease = lease_of(&token).clone();
    let seconds = |time: &Option<prost_types::Timestamp>| time.as_ref().unwrap().seconds;
    assert_eq!(seconds(&lease.max_expire_time) - seconds(&lease.create_time), 24 * 3600);
    assert_eq!(
        seconds(&renew(&mut client, &lease.name, 1).await.unwrap().expire_time),
        seconds(&lease.expire_time),
        "never shortens"
    );

    // A clock set back gives nobody an hour.
    let half_hour = Duration::from_secs(1800);
    let renewed = renew(&mut client, &lease.name, 3600).await.unwrap();
    world.clock.set_back(Duration::from_secs(3600));
    let again = renew(&mut client, &lease.name, 3600).await.unwrap();
    assert!((0..60).contains(&(seconds(&again.expire_time) - seconds(&renewed.expire_time))));

    let mut now = lease;
    for _ in 0..46 {
        world.clock.advance(half_hour);
        now = renew(&mut client, &now.name, 365 * 24 * 3600).await.unwrap();
    }
    assert!(seconds(&now.expire_time) <= seconds(&now.max_expire_time));
    world.clock.advance(half_hour);
    let last = renew(&mut client, &now.name, 3600).await;
    if let Ok(last) = &last {
        assert_eq!(last.expire_time, last.max_expire_time);
    }
    assert_eq!(refused(renew(&mut client, &now.name, 3600).await), "LEASE_NOT_RENEWABLE");
    world.clock.advance(half_hour);
    world.until_no_users().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_is_positive_and_clamped() {
    let world = World::new("").await;
    let mut client = world.client().await;
    let mut ask = async |seconds: i64, nanos: i32| {
        let ttl = Some(prost_types::Duration { seconds, nanos });
        client.mint_database_token(MintDatabaseTokenRequest { ttl, ..mint_request() }).await
    };
    for (seconds, nanos) in [(0, 0), (-1, 0), (0, -1), (0, 1), (i64::MIN, 0), (1, -1)] {
        assert_eq!(refused(ask(seconds, nanos).await), "INVALID_ARGUMENT", "{seconds}s {nanos}ns");
    }
    assert!(world.cluster.users().is_empty());
    for seconds in [3601, 315_576_000_000] {
        let token = ask(seconds, 0).await.unwrap().into_inner();
        let lease = lease_of(&token);
        let life = lease.expire_time.as_ref().unwrap().seconds - lease.create_time.as_ref().unwrap().seconds;
        assert_eq!(life, 3600);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_makes_no_second_user() {
    let world = World::new("").await;
    let mut client = world.client().await;
    let request =
        MintDatabaseTokenRequest { request_id: "9a7c1f52-0b1e-4c8a-9a53-0c2d1e4f6a7b".into(), ..mint_request() };
    let first = client.mint_database_token(request.clone()).await.unwrap().into_inner();
    let second = client.mint_database_token(request.clone()).await.unwrap().into_inner();
    assert_eq!((&first.user, &lease_of(&first).name), (&second.user, &lease_of(&second).name));
    assert!(!world.logs_in(&first) && world.logs_in(&second));
    assert_eq!(world.cluster.users().len(), 1);

    let ttl = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let different = MintDatabaseTokenRequest { ttl, ..request.clone() };
    assert_eq!(refused(client.mint_database_token(different).await), "REQUEST_ID_CONFLICT");
    let nonsense = MintDatabaseTokenRequest { request_id: "x".into(), ..mint_request() };
    assert_eq!(refused(client.mint_database_token(nonsense).await), "INVALID_ARGUMENT");
    // Another caller's id is another id.
    let mut other = world.broker.tokens(&world.other()).await;
    let token = other.mint_database_token(request.clone()).await.unwrap().into_inner();
    assert_ne!(token.user, first.user);

    world.clock.advance(Duration::from_secs(901));
    world.until_no_users().await;
    assert_eq!(refused(client.mint_database_token(request.clone()).await), "LEASE_NOT_ACTIVE");
    world.clock.advance(Duration::from_secs(3600));
    client.mint_database_token(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_holds_so_many_users_and_no_more() {
    let world = World::new("[leases]\nlive_per_caller = 3\n").await;
    let client = world.client().await;
    let mut mints = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let mut client = client.clone();
        mints.spawn(async move { client.mint_database_token(mint_request()).await });
    }
    let outcomes = mints.join_all().await;
    let (good, bad): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((good.len(), world.cluster.users().len()), (3, 3));
    assert!(bad.into_iter().all(|outcome| refused(outcome) == "LEASE_LIMIT_EXCEEDED"));
    let token = good.into_iter().next().unwrap().unwrap().into_inner();
    revoke(&mut client.clone(), &lease_of(&token).name).await.unwrap();
    mint(&mut client.clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_are_shown_and_minted_by_those_who_may() {
    let world = World::new("").await;
    let mut client = world.client().await;
    let all = ListDatabaseRolesRequest { parent: "databases/-".into(), page_size: 1, ..Default::default() };
    let first = client.list_database_roles(all.clone()).await.unwrap().into_inner();
    let rest = ListDatabaseRolesRequest { page_token: first.next_page_token, ..all.clone() };
    let rest = client.list_database_roles(rest).await.unwrap().into_inner();
    let names: Vec<_> = first.roles.iter().chain(&rest.roles).map(|role| role.name.as_str()).collect();
    assert_eq!(names, ["databases/shop/roles/reader", "databases/shop/roles/writer"]);
    assert!(rest.next_page_token.is_empty());

    let mut stranger = world.broker.tokens(&world.broker.ca.client("stranger")).await;
    assert!(stranger.list_database_roles(all).await.unwrap().into_inner().roles.is_empty());
    assert_eq!(refused(stranger.mint_database_token(mint_request()).await), "ACCESS_DENIED");
    let unknown = MintDatabaseTokenRequest { name: "databases/shop/roles/none".into(), ..Default::default() };
    assert_eq!(refused(client.mint_database_token(unknown.clone()).await), "DATABASE_ROLE_NOT_FOUND");
    assert_eq!(refused(stranger.mint_database_token(unknown).await), "ACCESS_DENIED");
    for bad in ["databases/shop/roles/r'; DROP TABLE orders; --", "databases/shop/roles/\"", "databases/../roles/r", ""]
    {
        let request = MintDatabaseTokenRequest { name: bad.into(), ..Default::default() };
        assert_eq!(refused(client.mint_database_token(request).await), "INVALID_NAME", "{bad}");
    }
    let dry = MintDatabaseTokenRequest { validate_only: true, ..mint_request() };
    assert_eq!(client.mint_database_token(dry).await.unwrap().into_inner(), MintDatabaseTokenResponse::default());
    assert!(world.cluster.users().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incident_ends_all_leases_that_match() {
    let world = World::new("").await;
    let (mut client, mut operator) = (world.client().await, world.operator().await);
    let mut other = world.broker.tokens(&world.other()).await;
    for _ in 0..3 {
        mint(&mut client).await;
    }
    mint(&mut other).await;
    let select = |role_prefix: &str, owner: &str, validate_only| RevokeLeaseRequest {
        target: Some(Target::Selector(LeaseSelector { role_prefix: role_prefix.into(), owner: owner.into() })),
        validate_only,
        justification: "stolen laptop".into(),
        ..Default::default()
    };
    let mine = "x509/spiffe://test.keyferry/client";
    assert_eq!(refused(client.revoke_lease(select("databases/shop", mine, false)).await), "ACCESS_DENIED");
    assert_eq!(refused(operator.revoke_lease(select("", "", false)).await), "INVALID_ARGUMENT");
    let count = operator.revoke_lease(select("databases/shop/roles/reader", "", true)).await.unwrap().into_inner();
    assert_eq!((count.matched_count, world.cluster.users().len()), (4, 4));
    let none = operator.revoke_lease(select("databases/shop/roles/writer", "", false)).await.unwrap().into_inner();
    assert_eq!(none.matched_count, 0);
    let count = operator.revoke_lease(select("databases/shop", mine, false)).await.unwrap().into_inner();
    assert_eq!(count.matched_count, 3);
    eventually("only the other's user is left", async || world.cluster.users().len() == 1).await;
    eventually("and its lease", async || leases(&mut operator.clone(), &[]).await.len() == 1).await;
}

async fn status(world: &World) -> BrokerStatus {
    let mut operations = world.broker.operations(&world.broker.operator).await;
    operations.get_status(GetStatusRequest {}).await.unwrap().into_inner().status.unwrap()
}

/// How many expire at once; CI takes fewer than a release does.
fn expiring() -> usize {
    std::env::var("KF_TEST_EXPIRING").map_or(100, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_expire_while_the_database_is_down_end_when_it_is_back() {
    let mut world = World::new("[leases]\nlive_per_caller = 1000000\n").await;
    let client = world.client().await;
    let mut mints = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let mut client = client.clone();
        let share = expiring() / 8 + usize::from(worker < expiring() % 8);
        mints.spawn(async move {
            for _ in 0..share {
                mint(&mut client).await;
            }
        });
    }
    mints.join_all().await;
    assert_eq!(world.cluster.users().len(), expiring());
    world.cluster.stop();
    world.clock.advance(Duration::from_secs(16 * 60));
    let mut operator = world.operator().await;
    let mut failing = world.operator().await;
    eventually("the failure is shown", async || {
        let revoking = leases(&mut failing.clone(), &[LeaseState::Revoking]).await;
        revoking.iter().any(|lease| lease.attempts > 0 && lease.last_error.is_some())
    })
    .await;
    let failed = leases(&mut failing, &[LeaseState::Revoking]).await;
    let error = failed.iter().find_map(|lease| lease.last_error.as_ref()).unwrap();
    assert_eq!(error.reason().as_str_name(), "ERROR_REASON_DATABASE_UNAVAILABLE");
    let outcome = operator.mint_database_token(mint_request()).await;
    assert_eq!(refused(outcome), "DATABASE_UNAVAILABLE");
    let shown = status(&world).await;
    let (database, counts) = (&shown.databases[0], shown.leases.unwrap());
    assert_eq!((database.name.as_str(), database.health()), ("databases/shop", HealthState::Unhealthy));
    assert_eq!(database.last_error.as_ref().unwrap().reason().as_str_name(), "ERROR_REASON_DATABASE_UNAVAILABLE");
    assert!(database.success_time.is_some() && database.sweep_time.is_some());
    assert_eq!(counts.active_count + counts.revoking_count, expiring() as i64);
    assert!(counts.oldest_overdue_time.is_some());
    let metrics = fetch(&world.broker, "/metrics").await;
    assert!(metrics.contains("keyferry_database_healthy{database=\"shop\"} 0"), "{metrics}");

    world.cluster.resume();
    let back = SystemClock.monotonic();
    // Backoff counts on the broker's clock, which moves here as the real one does.
    let mut told = back;
    while !world.cluster.users().is_empty() {
        let now = SystemClock.monotonic();
        assert!(now - back < Duration::from_secs(60), "{} users are left", world.cluster.users().len());
        world.clock.advance(now - std::mem::replace(&mut told, now));
    }
    eventually("all is well again", async || {
        let shown = status(&world).await;
        let leases = shown.leases.unwrap();
        shown.databases[0].health() == HealthState::Healthy && leases.revoking_count + leases.active_count == 0
    })
    .await;
    assert!(fetch(&world.broker, "/metrics").await.contains("keyferry_leases{state=\"active\"} 0"));
    println!("{} leases ended {:?} after the database was back", expiring(), SystemClock.monotonic() - back);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_removes_orphans_closes_leases_without_users_and_leaves_others_alone() {
    let world = World::new("[leases]\nsweep_interval = \"1s\"\n").await;
    let mut client = world.client().await;
    let kept = mint(&mut client).await;
    let lost = mint(&mut client).await;
    let tag = world.cluster.admin("shop", &format!("SELECT shobj_description('{}'::regrole, 'pg_authid')", kept.user));
    let deployment = tag.split(' ').nth(1).unwrap();
    world.cluster.admin(
        "shop",
        &format!(
            "DROP ROLE {}; CREATE ROLE kf_orphan_a; COMMENT ON ROLE kf_orphan_a IS 'keyferry {deployment} 0abc reader it''s';
             CREATE ROLE kf_reader_b; COMMENT ON ROLE kf_reader_b IS 'keyferry another 0abc reader x';
             CREATE ROLE kf_mine_c; COMMENT ON ROLE kf_mine_c IS 'made by hand'",
            lost.user
        ),
    );
    let mut left = vec![kept.user.clone(), "kf_mine_c".into(), "kf_reader_b".into()];
    left.sort();
    eventually("the orphan is gone", async || world.cluster.users() == left).await;
    eventually("its lease is closed", async || {
        let closed = leases(&mut world.operator().await, &[LeaseState::Revoked]).await;
        let reconciled = closed.iter().filter(|lease| lease.revoke_cause() == LeaseRevokeCause::Reconciled);
        reconciled.count() == 2
    })
    .await;
    assert!(world.logs_in(&kept));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_takes_back_what_expired_meanwhile_and_keeps_the_rest() {
    let World { broker, cluster, clock } = World::new("").await;
    let mut client = broker.tokens(&broker.client).await;
    let short =
        MintDatabaseTokenRequest { ttl: Some(prost_types::Duration { seconds: 60, nanos: 0 }), ..mint_request() };
    client.mint_database_token(short).await.unwrap();
    let long = mint(&mut client).await;
    drop(client);
    let TestBroker { ca, broker, directory, .. } = broker;
    broker.stop().await;
    clock.advance(Duration::from_secs(120));
    let broker = TestBroker::start_in(directory, ca, Arc::clone(&clock) as _).await;
    let world = World { broker, cluster, clock };
    eventually("the short one is gone", async || world.cluster.users() == [long.user.clone()]).await;
    assert!(world.logs_in(&long));
    renew(&mut world.client().await, &lease_of(&long).name, 1200).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_an_hour_back_or_forth_extends_no_lease_not_even_over_a_restart() {
    let world = World::new("[leases]\nsweep_interval = \"1s\"\n").await;
    let (hour, minutes) = (Duration::from_secs(3600), |count: u64| Duration::from_secs(60 * count));
    // Forth: what lives is ended at once, which is the safe side.
    mint(&mut world.client().await).await;
    world.clock.set_forward(hour);
    world.until_no_users().await;
    // And back, where all began: a lease of fifteen minutes from here lasts no longer.
    mint(&mut world.client().await).await;
    world.clock.set_back(hour);
    world.clock.advance(minutes(16));
    world.until_no_users().await;

    let token = mint(&mut world.client().await).await;
    world.clock.advance(minutes(10));
    let (now, swept) = (world.clock.now(), async || status(&world).await.databases[0].sweep_time.unwrap().seconds);
    let target = i64::try_from(now.plus(hour).as_secs()).unwrap();
    eventually("ten minutes are on record", async || swept().await >= target).await;
    let World { broker: TestBroker { ca, broker, directory, .. }, cluster, .. } = world;
    broker.stop().await;
    let clock = Arc::new(ManualClock::new());
    clock.set_back(hour);
    let broker = TestBroker::start_in(directory, ca, Arc::clone(&clock) as _).await;
    let world = World { broker, cluster, clock };
    world.clock.advance(minutes(4));
    assert!(world.logs_in(&token), "ended early");
    world.clock.advance(minutes(1) + Duration::from_secs(1));
    world.until_no_users().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_hears_that_no_connection_is_left_and_gets_its_token_when_one_is() {
    let ca = Ca::new("test CA");
    let cluster = Cluster::start(&ca);
    cluster.admin("postgres", "ALTER ROLE keyferry CONNECTION LIMIT 0");
    let world = World::on(cluster, ca, "").await;
    let mut client = world.client().await;
    let failure = client.mint_database_token(mint_request()).await.unwrap_err();
    assert!(failure.message().contains("max_connections"), "{failure:?}");
    assert_eq!(reason(&failure), "DATABASE_EXHAUSTED");
    world.cluster.admin("postgres", "ALTER ROLE keyferry CONNECTION LIMIT -1");
    let token = mint(&mut client).await;
    assert!(world.logs_in(&token));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_hears_that_the_database_s_certificate_is_not_trusted() {
    let cluster = Cluster::start(&Ca::new("the database's CA"));
    std::fs::write(cluster.path().join("ca.pem"), Ca::new("another CA").pem()).unwrap();
    let world = World::on(cluster, Ca::new("test CA"), "").await;
    let failure = world.client().await.mint_database_token(mint_request()).await.unwrap_err();
    assert!(failure.message().contains("databases/shop") && failure.message().contains("127.0.0.1"), "{failure:?}");
    assert_eq!(reason(&failure), "DATABASE_TLS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_logs_in_by_a_password_that_is_a_secret() {
    let ca = Ca::new("test CA");
    let cluster = Cluster::start(&ca);
    cluster.demand_passwords();
    let directory = TempDir::new().unwrap();
    let configuration = cluster.configuration_with("password_secret = \"stores/local/secrets/shop-login\"");
    prepare(directory.path(), &ca, &configuration);
    std::fs::write(directory.path().join("policy/mint.cedar"), POLICY).unwrap();
    let clock = Arc::new(ManualClock::new());
    let broker = TestBroker::start_in(directory, ca, Arc::clone(&clock) as _).await;
    let world = World { broker, cluster, clock };
    let mut client = world.client().await;
    assert_eq!(refused(client.mint_database_token(mint_request()).await), "SECRET_NOT_FOUND");
    world.broker.put("shop-login", b"wrong", &[]).await;
    assert_eq!(refused(client.mint_database_token(mint_request()).await), "DATABASE_LOGIN_REFUSED");
    world.broker.put("shop-login", keyferry_tests::postgres::PASSWORD.as_bytes(), &[]).await;
    let token = mint(&mut client).await;
    assert!(world.logs_in(&token));
}
