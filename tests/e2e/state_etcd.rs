//! State in etcd behaves as the seam promises, also while members and replicas are killed.

use std::sync::Arc;
use std::time::Duration;

use keyferry_broker::clock::{Clock as _, SystemClock};
use keyferry_broker::state::{Condition, Conflict, Etcd, Outcome, Revision, StateError, Store, Txn};
use keyferry_tests::etcd::EtcdCluster;
use keyferry_tests::state_conformance::{conforms, key, put, tells_compaction, value};

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
