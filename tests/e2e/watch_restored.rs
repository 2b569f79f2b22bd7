//! A backup of etcd is restored under replicas with open streams.

use std::sync::Arc;

use keyferry_broker::clock::SystemClock;
use keyferry_broker::names::SecretName;
use keyferry_broker::rotation::{Fact, Observation, Origin, VersionMark};
use keyferry_broker::secrets::VersionState;
use keyferry_proto::v1::{ListSubscribersRequest, RotationResyncReason, WatchRotationsRequest};
use keyferry_tests::broker::TestBroker;
use keyferry_tests::etcd::EtcdCluster;
use keyferry_tests::proxy::{Mood, Proxy};

use crate::reload::eventually;
use crate::rotation::{list, rotate};
use crate::watch::{Watcher, named, rotations, version};

/// As a store's event would, once the state answers.
async fn add(broker: &TestBroker, version: u32) {
    let secret = SecretName::parse("stores/local/secrets/db").unwrap();
    let mark = VersionMark { id: version.to_string().into(), created: None, state: VersionState::Enabled };
    let observation = Observation { fact: Fact::VersionAdded(mark), origin: Origin::Operator, happened: None };
    let log = &broker.broker.parts().rotation;
    eventually("it is on record", async || log.observe(&secret, &observation).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_goes_on_as_if_nothing_had_happened() {
    let mut etcd = EtcdCluster::start(1);
    let port = etcd.endpoints()[0].rsplit(':').next().unwrap().parse().unwrap();
    let proxy = Proxy::start("127.0.0.1", port).await;
    let replica = async |name: &str, port: u16| {
        let state = etcd.configuration().replace(etcd.endpoints()[0].as_str(), &format!("http://127.0.0.1:{port}"));
        let broker = TestBroker::with(&format!("{state}[node]\nname = \"{name}\"\n"), Arc::new(SystemClock)).await;
        eventually("the state is reached", async || broker.broker.parts().rotation.head().is_some()).await;
        broker
    };
    let (here, there) = (replica("here", port).await, replica("there", proxy.port()).await);
    add(&here, 1).await;
    let backup = etcd.back_up();
    for version in 2..40 {
        add(&here, version).await;
    }
    let request = WatchRotationsRequest { subscriber: "gateway".to_owned(), ..named(&["db"]) };
    let mut near = Watcher::open(&here, &here.client, named(&["db"])).await.unwrap();
    let mut far = Watcher::open(&there, &there.client, request).await.unwrap();
    for watch in [&mut near, &mut far] {
        assert_eq!(watch.snapshot().await[0].version, version("db", 39));
    }

    // While one replica is cut off, the other writes on to beyond where both had come.
    let before = there.broker.parts().rotation.head().unwrap();
    proxy.mood().send_replace(Mood::Cutting);
    etcd.restore(&backup);
    let mut next = 102;
    loop {
        add(&here, next).await;
        let head = here.broker.parts().rotation.head().unwrap();
        if head.epoch != before.epoch && head.revision > before.revision {
            break;
        }
        next += 1;
    }
    proxy.mood().send_replace(Mood::Passing);
    add(&here, next + 1).await;
    for watch in [&mut near, &mut far] {
        assert_eq!(watch.resync().await, RotationResyncReason::EpochChanged, "before anything else");
        watch.snapshot().await;
    }
    add(&here, next + 2).await;
    for watch in [&mut near, &mut far] {
        while watch.event().await.version != version("db", next + 2) {}
    }
    let operator = rotations(&here, &here.operator).await;
    let is_known = async || {
        let listed = operator.clone().list_subscribers(ListSubscribersRequest::default()).await.unwrap().into_inner();
        listed.subscribers.iter().any(|subscriber| subscriber.connected && subscriber.node == "there")
    };
    eventually("its subscriber is on the new record", is_known).await;
}

const EXTERNAL: &str = "[rotations.db]\ntargets = [\"stores/local/secrets/db\"]\nkind = \"external\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_lists_the_rotations_of_the_restored_history_and_no_others() {
    let mut etcd = EtcdCluster::start(1);
    let replica = async |name: &str| {
        let more = format!("{}{EXTERNAL}[node]\nname = \"{name}\"\n", etcd.configuration());
        let broker = TestBroker::with(&more, Arc::new(SystemClock)).await;
        eventually("the state is reached", async || broker.broker.parts().rotation.head().is_some()).await;
        broker.put("db", b"one", &[]).await;
        broker
    };
    let (here, there) = (replica("here").await, replica("there").await);
    let [one, other] = [rotations(&here, &here.operator).await, rotations(&there, &there.operator).await];
    let listed = async || {
        let lists = [list(&mut one.clone()).await, list(&mut other.clone()).await];
        lists.map(|list| list.into_iter().map(|rotation| rotation.name).collect::<Vec<_>>())
    };
    let backup = etcd.back_up();
    // So far that no revision of it is reached again.
    for version in 2..60 {
        add(&here, version).await;
    }
    let lost = rotate(&mut one.clone(), "stores/local/secrets/db").await.unwrap().name;
    eventually("both know it", async || listed().await == [[lost.as_str()]; 2]).await;
    etcd.restore(&backup);
    eventually("both have forgotten it", async || listed().await == [[""; 0]; 2]).await;
    let later = rotate(&mut one.clone(), "stores/local/secrets/db").await.unwrap().name;
    eventually("both know the later one", async || listed().await == [[later.as_str()]; 2]).await;
}
