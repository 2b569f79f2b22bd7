//! The embedded state behaves as the seam promises.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyferry_broker::clock::SystemClock;
use keyferry_broker::state::{Embedded, EmbeddedSettings};
use keyferry_tests::state_conformance::{conforms, put, tells_compaction};

fn embedded(directory: &Path, history_changes: u64) -> Embedded {
    let settings = EmbeddedSettings {
        file: directory.join("state.redb"),
        history_age: Duration::from_secs(3600),
        history_changes,
    };
    Embedded::open(&settings, "node", Arc::new(SystemClock)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_state_conforms() {
    let directory = tempfile::tempdir().unwrap();
    conforms(Arc::new(embedded(directory.path(), 100_000))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_state_tells_compaction() {
    let directory = tempfile::tempdir().unwrap();
    let store = embedded(directory.path(), 10);
    tells_compaction(&store, async |_| {
        for n in 0..12 {
            put(&store, "filler", &n.to_string()).await;
        }
    })
    .await;
}
