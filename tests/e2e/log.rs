//! The rotation log as callers meet it: repeated changes, and revisions that hold at every broker.

use std::sync::Arc;

use keyferry_broker::clock::SystemClock;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::{
    AddSecretVersionRequest, AddSecretVersionResponse, DisableSecretVersionRequest, ListSecretVersionsRequest,
};
use keyferry_tests::broker::{TestBroker, endpoint, prepare};
use keyferry_tests::doubles::faults::Fault;
use keyferry_tests::doubles::secret_manager::Method;
use keyferry_tests::pki::Ca;
use keyferry_tests::process::Process;
use tempfile::TempDir;
use tonic::Status;

use crate::reload::eventually;
use crate::secret_manager::{metadata_server, on_google, with_versions};
use crate::status::refused;

const DB: &str = "stores/local/secrets/db";
const SHARED: &str = "stores/google/secrets/db";
const ID: &str = "9a7c1f52-0b1e-4c8a-9a53-0c2d1e4f6a7b";

fn request(payload: &'static [u8], request_id: &str) -> AddSecretVersionRequest {
    AddSecretVersionRequest {
        parent: DB.into(),
        payload: payload.into(),
        allow_missing: true,
        request_id: request_id.into(),
        ..Default::default()
    }
}

async fn add(broker: &TestBroker, payload: &'static [u8], id: &str) -> Result<AddSecretVersionResponse, Status> {
    let mut client = broker.secrets(&broker.operator).await;
    client.add_secret_version(request(payload, id)).await.map(tonic::Response::into_inner)
}

async fn versions(broker: &TestBroker) -> usize {
    let request = ListSecretVersionsRequest { parent: DB.into(), ..Default::default() };
    let listed = broker.secrets(&broker.operator).await.list_secret_versions(request).await.unwrap();
    listed.into_inner().versions.len()
}

#[tokio::test]
async fn a_repeated_change_is_made_once_and_answered_alike() {
    let broker = TestBroker::start().await;
    let first = add(&broker, b"one", ID).await.unwrap();
    assert!(first.revision > 0);
    assert_eq!(add(&broker, b"one", &ID.to_uppercase()).await.unwrap(), first);
    assert_eq!(versions(&broker).await, 1);
    assert_eq!(refused(add(&broker, b"two", ID).await), "REQUEST_ID_CONFLICT");
    assert_eq!(refused(add(&broker, b"two", "x").await), "INVALID_ARGUMENT");
    let without = add(&broker, b"one", "").await.unwrap();
    assert_eq!((versions(&broker).await, without.revision > first.revision), (2, true));

    let name = format!("{DB}/versions/1");
    let request = DisableSecretVersionRequest { name, request_id: ID.replace('9', "8"), ..Default::default() };
    let mut client = broker.secrets(&broker.operator).await;
    let disabled = client.disable_secret_version(request.clone()).await.unwrap().into_inner();
    assert_eq!(client.disable_secret_version(request).await.unwrap().into_inner(), disabled);
    assert!(disabled.revision > without.revision, "it changed something");
}

#[tokio::test]
async fn repeats_that_come_at_once_add_one_version_and_outlive_a_restart() {
    let broker = TestBroker::start().await;
    let calls: Vec<_> = (0..8).map(|_| add(&broker, b"one", ID)).collect();
    let answers = futures_util::future::join_all(calls).await;
    let mut added = None;
    for answer in answers {
        match answer {
            Ok(answer) => assert_eq!(*added.get_or_insert(answer.clone()), answer),
            Err(status) => assert_eq!(crate::status::reason(&status), "CONFLICT"),
        }
    }
    let added = added.expect("one of them was carried out");
    assert_eq!(versions(&broker).await, 1);
    let TestBroker { ca, broker, directory, .. } = broker;
    broker.stop().await;
    let broker = TestBroker::start_in(directory, ca, Arc::new(SystemClock)).await;
    assert_eq!(add(&broker, b"one", ID).await.unwrap(), added);
    assert_eq!(versions(&broker).await, 1);
}

/// The store has made the version, and the broker dies before it hears so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_a_kill_cut_off_is_made_once_and_on_record_once_it_is_repeated() {
    let (google, metadata) = (with_versions(&[b"1"]).await, metadata_server().await);
    let (directory, ca) = (TempDir::new().unwrap(), Ca::new("test CA"));
    prepare(directory.path(), &ca, &on_google(&google, &metadata));
    let operator = ca.client("operator");
    let connect = async |broker: &Process| {
        let channel = endpoint(broker.grpc().port(), operator.client_tls(&ca)).connect().await.unwrap();
        SecretServiceClient::new(channel)
    };
    let again = || AddSecretVersionRequest { parent: SHARED.into(), allow_missing: false, ..request(b"2", ID) };

    let broker = Process::serve(directory.path());
    google.spoil_only(Method::AddSecretVersion);
    google.faults().set(Fault::SlowBody);
    let mut client = connect(&broker).await;
    let call = tokio::spawn(async move { client.add_secret_version(again()).await });
    eventually("the store has it", async || google.count(Method::AddSecretVersion) == 1).await;
    broker.kill();
    call.await.unwrap().unwrap_err();
    google.faults().clear();

    let broker = Process::serve(directory.path());
    let mut client = connect(&broker).await;
    let added = client.add_secret_version(again()).await.unwrap().into_inner();
    assert_eq!(added.version.clone().unwrap().name, format!("{SHARED}/versions/2"));
    assert!(added.revision > 0);
    assert_eq!(client.add_secret_version(again()).await.unwrap().into_inner(), added);
    assert_eq!(google.count(Method::AddSecretVersion), 1, "added again");
    assert!(broker.terminate().0);
}

#[cfg(feature = "etcd")]
mod replicas {
    use keyferry_proto::v1::GetSecretRequest;
    use keyferry_tests::doubles::secret_manager::Lag;
    use keyferry_tests::etcd::EtcdCluster;

    use super::*;
    use crate::status::reason;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_version_added_at_one_broker_is_read_at_another_by_its_revision() {
        let (google, metadata, etcd) = (with_versions(&[b"1"]).await, metadata_server().await, EtcdCluster::start(1));
        let start = async |node| {
            let (stores, state) = (on_google(&google, &metadata), etcd.configuration());
            TestBroker::with(&format!("{stores}{state}[node]\nname = \"{node}\"\n"), Arc::new(SystemClock)).await
        };
        let (one, two) = (start("one").await, start("two").await);
        let mut reader = two.secrets(&two.client).await;
        let latest = GetSecretRequest { name: SHARED.into(), ..Default::default() };
        assert_eq!(&*reader.get_secret(latest.clone()).await.unwrap().into_inner().payload, b"1");
        google.set_lag(Lag::Lasting);
        let request =
            AddSecretVersionRequest { parent: SHARED.into(), payload: b"2".as_slice().into(), ..Default::default() };
        let added = one.secrets(&one.operator).await.add_secret_version(request).await.unwrap().into_inner();
        assert!(added.revision > 0 && added.epoch.len() == 32);
        let demand = GetSecretRequest { min_revision: added.revision, epoch: added.epoch, ..latest.clone() };
        eventually("the other broker has heard of it", async || {
            match reader.clone().get_secret(demand.clone()).await {
                Ok(read) => {
                    let read = read.into_inner();
                    assert_eq!((&*read.payload, read.revision >= demand.min_revision), (&b"2"[..], true));
                    true
                }
                Err(status) => {
                    assert_eq!(reason(&status), "REVISION_NOT_REACHED");
                    false
                }
            }
        })
        .await;
        assert_eq!(&*reader.get_secret(latest).await.unwrap().into_inner().payload, b"2", "Google's own latest lags");
    }
}
