//! What was answered is on record: through kill -9, and when the disk is full.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::{AddSecretVersionRequest, GetSecretRequest};
use keyferry_tests::broker::{TestBroker, get};
use keyferry_tests::process::keyferry;
use serde_json::Value;
use tonic::Request;
use tonic::transport::Channel;

use crate::audit_faults::no_answered_call_is_lost;
use crate::status::{reason, refused};

const KILLS: usize = 20;

pub(crate) fn verify(directory: &Path) -> (bool, String) {
    let output = Command::new(keyferry()).args(["audit", "verify"]).arg(directory).output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.success(), said.concat())
}

/// All records of calls, in order.
pub(crate) fn records(directory: &Path) -> Vec<Value> {
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    let text: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["method"].is_string())
        .collect()
}

#[tokio::test]
async fn each_call_leaves_one_record_with_its_facts() {
    let broker = TestBroker::start().await;
    broker.put("db", b"canary-payload", &[]).await;
    let mut client = broker.secrets(&broker.client).await;
    let mut request = Request::new(GetSecretRequest { name: "stores/local/secrets/db".into(), ..Default::default() });
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let traceparent = format!("00-{trace}-b7ad6b7169203331-01");
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    client.get_secret(request).await.unwrap();
    let mut stranger = broker.secrets(&broker.ca.client("stranger")).await;
    refused(get(&mut stranger, "db").await);

    let audit = broker.path().join("audit");
    let records = records(&audit);
    // A change is on record before it is made, and again when it has ended.
    let outcomes: Vec<_> = records.iter().map(|record| record["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["STARTED", "OK", "OK", "ACCESS_DENIED"]);
    assert_eq!(records[0]["request"], records[1]["request"]);
    let read = &records[2];
    assert_eq!(read["method"], "keyferry.v1.SecretService/GetSecret");
    assert_eq!(read["caller"], "x509/spiffe://test.keyferry/client");
    assert_eq!(read["resource"], "stores/local/secrets/db");
    assert_eq!(read["version"], "1");
    assert_eq!((&read["decision"], &read["outcome"]), (&"allow".into(), &"OK".into()));
    assert_eq!(read["source"], "PROVIDER");
    assert_eq!(read["trace"], trace);
    assert_eq!(read["policy"].as_str().unwrap().len(), 32);
    assert_eq!(read["certificate"].as_str().unwrap().len(), 64);
    assert!(read["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    let denied = &records[3];
    assert_eq!((&denied["decision"], &denied["outcome"]), (&"deny".into(), &"ACCESS_DENIED".into()));
    assert!(records.iter().all(|record| !record.to_string().contains("canary-payload")));

    broker.broker.stop().await;
    let (good, said) = verify(&audit);
    assert!(good, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_20_times_loses_no_answered_call() {
    // Another moment of the load each time.
    no_answered_call_is_lost("", KILLS, |round| 50 + round * 37, 0).await;
}

pub(crate) async fn add(channel: Channel) {
    let request = AddSecretVersionRequest {
        parent: "stores/local/secrets/db".into(),
        payload: b"x".to_vec().into(),
        allow_missing: true,
        ..Default::default()
    };
    SecretServiceClient::new(channel).add_secret_version(request).await.unwrap();
}

/// Reads, each call under a trace id of its own, until the broker is gone.
pub(crate) async fn read_until_cut(
    channel: Channel,
    round: usize,
    worker: usize,
    answered: Arc<Mutex<HashSet<String>>>,
) {
    let mut client = SecretServiceClient::new(channel);
    for call in 1_u64.. {
        let trace = format!("{round:08x}{worker:08x}{call:016x}");
        let mut request =
            Request::new(GetSecretRequest { name: "stores/local/secrets/db".into(), ..Default::default() });
        request.metadata_mut().insert("traceparent", format!("00-{trace}-b7ad6b7169203331-01").parse().unwrap());
        if client.get_secret(request).await.is_err() {
            return;
        }
        answered.lock().unwrap().insert(trace);
    }
}

/// A file system of a few megabytes, gone with its value.
pub(crate) struct SmallDisk(pub(crate) tempfile::TempDir);

impl SmallDisk {
    pub(crate) fn mount(bytes: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(directory.path())
            .status();
        assert!(
            mounted.is_ok_and(|status| status.success()),
            "this test mounts a small tmpfs, for which it must be root"
        );
        Self(directory)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_lets_no_secret_out_and_service_resumes_when_there_is_room() {
    let disk = SmallDisk::mount("3m");
    let audit = disk.0.path().join("audit");
    let more = format!("[audit]\ndirectory = {audit:?}\nsigning_key = \"signing.key\"\n");
    let broker = TestBroker::with(&more, Arc::new(keyferry_broker::clock::SystemClock)).await;
    broker.put("db", b"one", &[]).await;
    let mut client = broker.secrets(&broker.client).await;
    get(&mut client, "db").await.unwrap();

    let ballast = disk.0.path().join("ballast");
    fill(&ballast);
    let mut answered = 0;
    let failure = loop {
        match get(&mut client, "db").await {
            Ok(_) => answered += 1,
            Err(status) => break status,
        }
        assert!(answered < 100_000, "the disk never filled");
    };
    assert_eq!(reason(&failure), "AUDIT_UNAVAILABLE");
    for _ in 0..200 {
        assert_eq!(refused(get(&mut client, "db").await), "AUDIT_UNAVAILABLE", "a secret left after the first failure");
    }
    let mut operator = broker.secrets(&broker.operator).await;
    for _ in 0..20 {
        let change = AddSecretVersionRequest { parent: "stores/local/secrets/db".into(), ..Default::default() };
        assert_eq!(refused(operator.add_secret_version(change).await), "AUDIT_UNAVAILABLE");
    }
    fs::remove_file(&ballast).unwrap();
    let resumed = tokio::time::timeout(Duration::from_secs(5), async {
        while get(&mut client, "db").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(resumed.await.is_ok(), "service did not resume within 5 s");

    let version = get(&mut client, "db").await.unwrap().name;
    assert!(version.ends_with("/versions/1"), "{version} was added without a record");

    broker.broker.stop().await;
    let (good, said) = verify(&audit);
    assert!(good, "{said}");
    let reads = records(&audit).iter().filter(|record| record["outcome"] == "OK").count();
    assert!(reads >= answered + 2, "{reads} of {answered} answered calls are on record");
}

/// Writes until there is no room.
pub(crate) fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    // The last part block.
    while file.write_all(&[0; 1]).is_ok() {}
}
