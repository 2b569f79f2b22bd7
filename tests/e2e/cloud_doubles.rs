//! The vendors' own clients accept the doubles of their databases, with credentials of their own.

use std::process::Stdio;
use std::sync::Arc;

use keyferry_broker::clock::{SharedClock, SystemClock};
use keyferry_tests::doubles::cloud_sql::CloudSql;
use keyferry_tests::doubles::identity::{GoogleIdentity, PROJECT};
use keyferry_tests::pki::Ca;
use keyferry_tests::postgres::Cluster;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// What the judge writes; it ends with an error at the first surprise.
pub(crate) async fn judge(script: &str, given: &Value) -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let python = root.join(".tools/pypi/cloud-databases/bin/python");
    assert!(python.exists(), "tools/install cloud-databases");
    let mut child = Command::new(python)
        .arg(root.join("tests/judges").join(script))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(given.to_string().as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{script} refused: see above");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn account(name: &str) -> String {
    format!("{name}@{PROJECT}.iam.gserviceaccount.com")
}

/// A machine that runs as `machine` and may act as `reader`, who may log in, and as `stranger`, who may not.
pub(crate) async fn google(clock: SharedClock) -> GoogleIdentity {
    let google = GoogleIdentity::start(clock).await;
    for name in ["machine", "reader", "stranger"] {
        google.add_service_account(&account(name));
    }
    google.attach(Some(&account("machine")));
    for name in ["reader", "stranger"] {
        google.grant_token_creator(&account(name), &format!("serviceAccount:{}", account("machine")));
    }
    google
}

/// What an IAM user of this name is in PostgreSQL.
pub(crate) fn add_user(cluster: &Cluster, user: &str) {
    cluster.admin("shop", &format!("CREATE ROLE \"{user}\" LOGIN; GRANT orders_read TO \"{user}\";"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn google_s_connector_logs_in_through_the_double_of_cloud_sql() {
    let clock: SharedClock = Arc::new(SystemClock);
    let cluster = Cluster::start(&Ca::new("test CA"));
    add_user(&cluster, &format!("reader@{PROJECT}.iam"));
    let google = google(Arc::clone(&clock)).await;
    let cloud = CloudSql::start(&google, Some(&cluster), clock).await;
    cloud.grant(&account("reader"));
    let given = json!({
        "google": google.url(), "api": cloud.url(), "instance": cloud.connection_name(),
        "reader": account("reader"), "stranger": account("stranger"),
    });
    judge("cloud_sql.py", &given).await;
}
