//! What a caller sees of the cache: where an answer came from, at which revision, and how to demand better.

use keyferry_proto::v1::{
    DisableSecretVersionRequest, GetSecretRequest, GetStatusRequest, ReadSource, RefreshSecretRequest,
};
use keyferry_tests::broker::{TestBroker, get};

use crate::status::{reason, refused};

const DB: &str = "stores/local/secrets/db";

#[tokio::test]
async fn a_reader_demands_the_revision_that_a_change_was_told_at() {
    let broker = TestBroker::start().await;
    let added = broker.put("db", b"one", &[]).await;
    let mut client = broker.secrets(&broker.client).await;
    let mut demand = async |min_revision, epoch: &str| {
        let request = GetSecretRequest { name: DB.into(), min_revision, epoch: epoch.into(), ..Default::default() };
        client.get_secret(request).await.map(tonic::Response::into_inner)
    };
    let read = demand(added.revision, &added.epoch).await.unwrap();
    assert!(read.revision >= added.revision && added.revision > 0);
    assert_eq!(read.epoch, added.epoch);
    let (fresh_until, loaded) = (read.fresh_until_time.unwrap(), read.load_time.unwrap());
    assert_eq!(fresh_until.seconds - loaded.seconds, 300);
    let ahead = demand(added.revision + 1, &added.epoch).await.unwrap_err();
    assert_eq!(reason(&ahead), "REVISION_NOT_REACHED");
    assert_eq!(refused(demand(added.revision, "00").await), "EPOCH_CHANGED");
}

#[tokio::test]
async fn a_change_is_seen_by_the_next_read() {
    let broker = TestBroker::start().await;
    let mut client = broker.secrets(&broker.client).await;
    let mut operator = broker.secrets(&broker.operator).await;
    for value in ["one", "two", "three"] {
        broker.put("db", value.as_bytes(), &[]).await;
        assert_eq!(&*get(&mut client, "db").await.unwrap().payload, value.as_bytes());
        assert_eq!(get(&mut client, "db").await.unwrap().source(), ReadSource::Cache);
    }
    assert_eq!(&*get(&mut client, "db/versions/2").await.unwrap().payload, b"two");
    let name = format!("{DB}/versions/2");
    let disabled = operator.disable_secret_version(DisableSecretVersionRequest { name, ..Default::default() });
    assert!(disabled.await.unwrap().into_inner().revision > 0);
    assert_eq!(refused(get(&mut client, "db/versions/2").await), "VERSION_DISABLED");
}

#[tokio::test]
async fn an_operator_has_a_secret_loaded_anew() {
    let broker = TestBroker::start().await;
    let added = broker.put("db", b"one", &[]).await;
    let mut operator = broker.operations(&broker.operator).await;
    let mut refresh = async |name: &str| operator.refresh_secret(RefreshSecretRequest { name: name.into() }).await;
    let first = refresh(DB).await.unwrap().into_inner();
    assert_eq!((first.name, first.changed), (format!("{DB}/versions/1"), None));
    assert!(first.revision >= added.revision && first.epoch == added.epoch && first.load_time.is_some());
    assert_eq!(refresh(DB).await.unwrap().into_inner().changed, Some(false));
    assert_eq!(refused(refresh("stores/local/secrets/none").await), "SECRET_NOT_FOUND");

    let status = operator.get_status(GetStatusRequest {}).await.unwrap().into_inner().status.unwrap();
    let cache = status.cache.unwrap();
    assert_eq!((cache.miss_count, cache.max_bytes), (3, 256 << 20));
    let mut client = broker.operations(&broker.client).await;
    assert_eq!(refused(client.refresh_secret(RefreshSecretRequest { name: DB.into() }).await), "ACCESS_DENIED");
}
