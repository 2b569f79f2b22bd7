//! Policies replaced while calls are under way: what callers heard and what is on record are one version's word.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use keyferry_proto::v1::GetSecretRequest;
use keyferry_tests::broker::TestBroker;
use tonic::Request;

use crate::audit::records;
use crate::reload::eventually;
use crate::status::reason;

const SWAPS: usize = 5;
const CALLERS: usize = 4;
const SECRETS: [&str; 2] = ["a", "b"];

/// Allows the client one of the secrets, by turns; the operator everything.
fn write(directory: &Path, version: usize) -> &'static str {
    let allowed = SECRETS[version % 2];
    let text = format!(
        r#"@id("version-{version}")
        permit (principal, action in [Keyferry::Action::"Read"], resource == Keyferry::Secret::"stores/local/secrets/{allowed}")
        when {{ principal has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == "/client" }};
        @id("operator")
        permit (principal, action, resource)
        when {{ principal has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == "/operator" }};
        "#
    );
    let new = directory.join("policy/test.cedar.new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, directory.join("policy/test.cedar")).unwrap();
    allowed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_swapped_under_calls_leave_answers_and_records_that_agree_with_one_version_each() {
    let broker = Arc::new(TestBroker::start().await);
    for secret in SECRETS {
        broker.put(secret, b"payload", &[]).await;
    }
    let hash = || broker.broker.parts().gate.policies().status().hash;
    let mut versions = HashMap::from([(prefix(&hash().to_string()), None)]);

    let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let heard = Arc::new(Mutex::new(HashMap::new()));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (broker, done, stop) = (Arc::clone(&broker), Arc::clone(&done), Arc::clone(&stop));
            tokio::spawn(call_until_stopped(broker, caller, done, stop, Arc::clone(&heard)))
        })
        .collect();

    for version in 0..SWAPS {
        let before = hash();
        let allowed = write(broker.path(), version);
        eventually("the new policy is in force", async || hash() != before).await;
        assert_eq!(versions.insert(prefix(&hash().to_string()), Some(allowed)), None);
        let calls = done.load(Ordering::Relaxed);
        let enough = || done.load(Ordering::Relaxed) - calls > 20 * CALLERS;
        eventually("calls were made under it", async || enough()).await;
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }

    let heard = heard.lock().unwrap();
    let mut seen = BTreeSet::new();
    let mut on_record = 0;
    for record in records(&broker.path().join("audit")) {
        let Some(&answer) = record["trace"].as_str().and_then(|trace| heard.get(trace)) else { continue };
        on_record += 1;
        let secret = record["resource"].as_str().unwrap().rsplit('/').next().unwrap();
        let policy = record["policy"].as_str().unwrap();
        let allowed = versions[policy].is_none_or(|only| only == secret);
        assert_eq!(record["decision"], if allowed { "allow" } else { "deny" }, "{record}");
        assert_eq!(answer, allowed, "{record}");
        seen.insert((policy.to_owned(), allowed));
    }
    assert_eq!(on_record, heard.len(), "each answered call has one record");
    // The first version allows both, each other one of the two.
    assert_eq!(seen.len(), 1 + 2 * SWAPS, "{seen:?}");
    println!("{on_record} calls under {} versions", versions.len());
}

/// Asks for both secrets by turns, and notes under each call's trace whether it was allowed.
async fn call_until_stopped(
    broker: Arc<TestBroker>,
    caller: usize,
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    heard: Arc<Mutex<HashMap<String, bool>>>,
) {
    let mut client = broker.secrets(&broker.client).await;
    for call in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let secret = SECRETS[usize::try_from(call % 2).unwrap()];
        let trace = format!("{caller:016x}{call:016x}");
        let name = format!("stores/local/secrets/{secret}");
        let mut request = Request::new(GetSecretRequest { name, ..Default::default() });
        request.metadata_mut().insert("traceparent", format!("00-{trace}-b7ad6b7169203331-01").parse().unwrap());
        let allowed = match client.get_secret(request).await {
            Ok(_) => true,
            Err(refused) => {
                assert_eq!(reason(&refused), "ACCESS_DENIED");
                false
            }
        };
        heard.lock().unwrap().insert(trace, allowed);
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// As much of a policy's hash as a record shows.
fn prefix(hash: &str) -> String {
    hash[..32].to_owned()
}
