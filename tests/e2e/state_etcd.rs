//! State in etcd behaves as the seam promises, also while members and replicas are killed.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, Permission, TlsOptions};
use keyferry_broker::clock::{Clock as _, SystemClock};
use keyferry_broker::state::{Condition, Conflict, Etcd, EtcdSettings, Outcome, Revision, StateError, Store, Txn};
use keyferry_proto::v1::{GetStatusRequest, HealthState, StateStatus};
use keyferry_tests::broker::{TestBroker, get};
use keyferry_tests::etcd::EtcdCluster;
use keyferry_tests::pki::Ca;
use keyferry_tests::state_conformance::{conforms, key, put, tells_compaction, value};

use crate::reload::eventually;

/// Serves once it leads, which takes a member that answers.
async fn leading(cluster: &EtcdCluster, node: &str) -> Etcd {
    let store = Etcd::open(&cluster.settings(), node, Arc::new(SystemClock)).unwrap();
    store.leadership().elected().await;
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_conforms_and_tells_compaction() {
    let cluster = EtcdCluster::start(1);
    let store = Arc::new(leading(&cluster, "node").await);
    conforms(Arc::clone(&store) as Arc<dyn Store>).await;
    let mut client = etcd_client::Client::connect(cluster.endpoints(), None).await.unwrap();
    let compact = async |revision: Revision| {
        let revision = i64::try_from(revision.get()).unwrap();
        client.kv_client().compact(revision, None).await.unwrap();
    };
    tells_compaction(&*store, compact).await;
    // Wiped under a running replica, it is another history: said once, and then the new one is used.
    let epoch = store.status().epoch;
    client.delete("keyferry-test/epoch", None).await.unwrap();
    let lost = store.txn(Txn::new().put_bytes(&key("a"), "1")).await;
    assert!(matches!(lost, Err(StateError::Unavailable(..))), "{lost:?}");
    put(&*store, "a", "1").await;
    assert!(store.status().epoch.is_some() && store.status().epoch != epoch);
}

/// As in a backup that was made between a replica's lease and its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_name_is_gone_puts_it_back() {
    let cluster = EtcdCluster::start(1);
    let store = leading(&cluster, "node").await;
    let mut client = etcd_client::Client::connect(cluster.endpoints(), None).await.unwrap();
    client.delete("keyferry-test/nodes/node", None).await.unwrap();
    let is_back = async || client.clone().get("keyferry-test/nodes/node", None).await.unwrap().count() == 1;
    eventually("it is back", is_back).await;
    assert_eq!(store.status().leader.as_deref(), Some("node"));
}

/// One member of three may go; without two, everything is refused in bounded time.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_goes_on_without_one_member_and_refuses_in_time_without_two() {
    let mut cluster = EtcdCluster::start(3);
    let store = leading(&cluster, "node").await;
    let mut acknowledged = 0;
    for n in 0..60 {
        if n == 20 {
            cluster.kill(0);
        }
        match store.txn(Txn::new().put_bytes(&key("n"), n.to_string())).await {
            Ok(Outcome::Committed(_)) => acknowledged = n,
            // While another member is elected.
            Ok(Outcome::Unknown) | Err(StateError::Unavailable(..)) => {}
            other => panic!("{other:?}"),
        }
    }
    while !matches!(store.txn(Txn::new().put_bytes(&key("after"), "1")).await, Ok(Outcome::Committed(_))) {}
    let read: i32 = value(&store, "n").await.unwrap().parse().unwrap();
    assert!(read >= acknowledged, "{read} {acknowledged}");

    cluster.kill(1);
    for _ in 0..3 {
        let begun = SystemClock.monotonic();
        let outcome = store.txn(Txn::new().put_bytes(&key("n"), "never")).await;
        assert!(matches!(outcome, Ok(Outcome::Unknown) | Err(StateError::Unavailable(..))), "{outcome:?}");
        assert!(matches!(store.get(&key("n")).await, Err(StateError::Unavailable(..))));
        let took = SystemClock.monotonic() - begun;
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
    assert!(store.status().failing.is_some());
}

#[test]
fn another_replica_leads_when_the_leader_falls_silent_and_the_old_fence_is_worth_nothing() {
    let cluster = EtcdCluster::start(1);
    let first = tokio::runtime::Runtime::new().unwrap();
    let fence = first.block_on(async {
        let store = leading(&cluster, "first").await;
        let fence = store.leadership().elected().await;
        let txn = Txn::new().when(Condition::Leads(fence)).put_bytes(&key("led"), "1");
        assert!(matches!(store.txn(txn).await, Ok(Outcome::Committed(_))));
        // Silent from here on, like a process that was killed: nobody resigns.
        std::mem::forget(store);
        fence
    });
    let second = tokio::runtime::Runtime::new().unwrap();
    second.block_on(async {
        let store = Etcd::open(&cluster.settings(), "second", Arc::new(SystemClock)).unwrap();
        while store.status().leader.as_deref() != Some("first") {
            tokio::task::yield_now().await;
        }
        let begun = SystemClock.monotonic();
        first.shutdown_background();
        store.leadership().elected().await;
        let took = SystemClock.monotonic() - begun;
        assert!(took < Duration::from_secs(15), "{took:?}");
        println!("taken over in {took:?}");
        let txn = Txn::new().when(Condition::Leads(fence)).put_bytes(&key("led"), "2");
        assert_eq!(store.txn(txn).await, Ok(Outcome::Conflict(Conflict::Deposed)));
        assert_eq!(value(&store, "led").await.as_deref(), Some("1"));

        // One that stops in order is followed at once.
        let third = Etcd::open(&cluster.settings(), "third", Arc::new(SystemClock)).unwrap();
        while !third.status().nodes.contains(&"third".to_owned()) {
            tokio::task::yield_now().await;
        }
        store.close().await;
        third.leadership().elected().await;
        assert_eq!(third.status().leader.as_deref(), Some("third"));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_with_another_s_name_is_told_until_the_name_is_free() {
    let cluster = EtcdCluster::start(1);
    let first = leading(&cluster, "node").await;
    let twin = Etcd::open(&cluster.settings(), "node", Arc::new(SystemClock)).unwrap();
    eventually("the twin is told", async || twin.status().failing.is_some_and(|why| why.contains("[node] name"))).await;
    assert_eq!((first.status().failing, twin.status().nodes), (None, vec![]));
    first.close().await;
    eventually("it joins", async || twin.status().failing.is_none() && twin.status().nodes == ["node"]).await;
}

/// A user with the prefix of the broker's keys, and nothing else, over mutual TLS.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_has_the_prefix_suffices_and_one_who_has_not_is_refused() {
    let (ca, stranger) = (Ca::new("etcd CA"), Ca::new("another CA"));
    let client = ca.client("broker");
    let cluster = EtcdCluster::start_with_tls(&ca, &client);
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(ca.pem()))
        .identity(Identity::from_pem(&client.certificate, &client.key));
    let mut admin = connected(&cluster, ConnectOptions::new().with_tls(tls)).await;
    for (user, role, right) in [
        ("root", "root", None),
        ("broker", "broker", Some(Permission::read_write("keyferry-test/").with_prefix())),
        ("other", "other", Some(Permission::read_write("other/").with_prefix())),
    ] {
        admin.user_add(user, "secret", None).await.unwrap();
        admin.role_add(role).await.unwrap();
        if let Some(right) = right {
            admin.role_grant_permission(role, right).await.unwrap();
        }
        admin.user_grant_role(user, role).await.unwrap();
    }
    admin.auth_enable().await.unwrap();

    let password_file = cluster.directory().join("password");
    fs::write(&password_file, "secret").unwrap();
    let as_user = |user: &str| EtcdSettings {
        user: Some(user.to_owned()),
        password_file: Some(password_file.clone()),
        ..cluster.settings()
    };
    let store = Etcd::open(&as_user("broker"), "node", Arc::new(SystemClock)).unwrap();
    store.leadership().elected().await;
    put(&store, "a", "1").await;
    assert_eq!(value(&store, "a").await.as_deref(), Some("1"));

    let other = Etcd::inspect(&as_user("other")).await.unwrap();
    assert!(matches!(other.get(&key("a")).await, Err(StateError::Unavailable(..))));
    assert!(other.status().failing.unwrap().contains("permission denied"));
    // Neither a password nor a certificate of the right CA is enough alone.
    let nobody = Etcd::inspect(&cluster.settings()).await.unwrap();
    assert!(matches!(nobody.get(&key("a")).await, Err(StateError::Unavailable(..))));
    stranger.client("broker").write(cluster.directory(), "client");
    let strange = Etcd::inspect(&as_user("broker")).await.unwrap();
    assert!(matches!(strange.get(&key("a")).await, Err(StateError::Unavailable(..))));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_read_while_etcd_is_down_and_a_broker_starts_and_says_so() {
    let mut cluster = EtcdCluster::start(1);
    let broker = TestBroker::with(&cluster.configuration(), Arc::new(SystemClock)).await;
    broker.broker.parts().state.leadership().elected().await;
    broker.put("db", b"1", &[]).await;
    let mut client = broker.secrets(&broker.client).await;
    assert_eq!(state(&broker).await.health(), HealthState::Healthy);

    cluster.kill(0);
    eventually("the status says so", async || state(&broker).await.health() == HealthState::Unhealthy).await;
    assert!(state(&broker).await.last_error.unwrap().message.contains("etcd"));
    assert_eq!(&*get(&mut client, "db").await.unwrap().payload, b"1");

    let late = TestBroker::with(&cluster.configuration(), Arc::new(SystemClock)).await;
    late.put("db", b"2", &[]).await;
    let mut client = late.secrets(&late.client).await;
    assert_eq!(&*get(&mut client, "db").await.unwrap().payload, b"2");
    eventually("the status says so", async || state(&late).await.health() == HealthState::Unhealthy).await;
    assert_eq!(state(&late).await.epoch, "");
}

async fn state(broker: &TestBroker) -> StateStatus {
    let mut operator = broker.operations(&broker.operator).await;
    let status = operator.get_status(GetStatusRequest {}).await.unwrap().into_inner().status.unwrap();
    status.state.unwrap()
}

/// Once it answers.
async fn connected(cluster: &EtcdCluster, options: ConnectOptions) -> Client {
    loop {
        if let Ok(mut client) = Client::connect(cluster.endpoints(), Some(options.clone())).await
            && client.status().await.is_ok()
        {
            return client;
        }
        tokio::task::yield_now().await;
    }
}
