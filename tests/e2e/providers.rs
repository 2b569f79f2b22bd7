//! Every store behaves as the seam promises.

use std::sync::Arc;

use keyferry_broker::clock::SystemClock;
use keyferry_broker::names::StoreName;
use keyferry_broker::providers::local::{LocalKey, LocalStore};
use keyferry_tests::conformance::conforms;

#[tokio::test]
async fn the_local_store_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key");
    LocalKey::generate_file(&key).unwrap();
    let key = LocalKey::read_file(&key).unwrap();
    let name = StoreName::from_id("local").unwrap();
    let path = directory.path().join("secrets.redb");
    let store = LocalStore::open(name.clone(), &path, &key, Arc::new(SystemClock)).unwrap();
    conforms(&store, &name).await;
}
