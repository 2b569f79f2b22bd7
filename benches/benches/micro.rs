//! What the parts of one call cost, each alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark may stop at the first surprise"
)]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use keyferry_benches::parts::{
    Arrived, Changed, SECRET, answer, at_once, audit_log, circumstances, labelled, policy_text, record, resource,
    runtime, secrets,
};
use keyferry_broker::admission::{Action, Policies};
use keyferry_broker::clock::SystemClock;
use keyferry_broker::identity::Certificate;
use keyferry_broker::names::{SecretName, VersionId};
use keyferry_broker::providers::guard::{Budget, Guard, GuardSettings, Operation};
use keyferry_broker::rpc::{self, Binding, PageTokens};
use keyferry_broker::secrets::{Demand, Source};
use keyferry_tests::pki::Ca;
use prost::Message as _;
use tempfile::TempDir;

// As the broker has it: without, the allocator would be half of what is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const IN_FLIGHT: usize = 128;

fn main() {
    divan::main();
}

/// One record through the queue, the writer's thread, the kernel and back, `IN_FLIGHT` of them at a time.
#[divan::bench(args = [1, IN_FLIGHT], sample_count = 200)]
fn audit_append_written(bencher: Bencher<'_, '_>, in_flight: usize) {
    let directory = TempDir::new().unwrap();
    let log = audit_log(directory.path());
    let (runtime, record) = (runtime(), record());
    bencher.counter(ItemsCount::new(in_flight)).bench_local(|| {
        runtime.block_on(async {
            let mut committing = tokio::task::JoinSet::new();
            for _ in 0..in_flight {
                let (log, record) = (log.clone(), record.clone());
                committing.spawn(async move { log.commit(&record).await.unwrap() });
            }
            committing.join_all().await
        })
    });
    log.close();
}

/// Cedar itself: what a decision costs that was not made before. The last policy is the one that permits.
#[divan::bench(args = [1, 100])]
fn policy_decision(bencher: Bencher<'_, '_>, policies: usize) {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("bench.cedar"), policy_text(policies)).unwrap();
    let policies = Policies::load(directory.path()).unwrap();
    let arrived = Arrived::new();
    let (caller, resource) = (arrived.caller(), resource());
    let decide = || policies.decide(&caller, Action::GetSecret, &resource, circumstances());
    assert!(decide().allowed, "{:?}", decide());
    bencher.bench_local(|| black_box(decide()));
}

/// The same decision as a caller's next calls find it.
#[divan::bench]
fn cached_decision(bencher: Bencher<'_, '_>) {
    let arrived = Arrived::new();
    let (caller, resource, circumstances) = (arrived.caller(), resource(), circumstances());
    let decide = || arrived.gate.allows(&caller, Action::GetSecret, &resource, circumstances);
    assert!(decide());
    bencher.bench_local(|| black_box(decide()));
}

#[divan::bench]
fn cached_token(bencher: Bencher<'_, '_>) {
    let arrived = Arrived::new();
    let (tokens, bearer) = (arrived.authenticator.tokens(), arrived.bearer.as_str());
    let verify = || at_once(tokens.verify(black_box(bearer))).unwrap();
    assert!(Arc::ptr_eq(&verify(), &verify()), "the token was not kept");
    bencher.bench_local(verify);
}

/// A token that was never seen: its signature and all its claims.
#[divan::bench]
fn token_verification(bencher: Bencher<'_, '_>) {
    let arrived = Arrived::new();
    let mut made = 0_u64;
    let next = || {
        made += 1;
        arrived.token(&made.to_string())
    };
    let verify = |bearer: String| at_once(arrived.authenticator.tokens().verify(&bearer)).unwrap();
    bencher.with_inputs(next).bench_local_values(verify);
}

/// Certificate, token, policy and quota: all that stands between a call and its handler.
#[divan::bench]
fn full_admission_of_a_warm_caller(bencher: Bencher<'_, '_>) {
    let arrived = Arrived::new();
    let resource = resource();
    arrived.admit(resource.clone());
    bencher.bench_local(|| arrived.admit(black_box(&resource).clone()));
}

/// What the guard adds to a request to a cloud that nothing stands against: the budget's log is full of old turns.
#[divan::bench]
fn uncontended_turn_of_the_guard(bencher: Bencher<'_, '_>) {
    let budget = Budget { limit: 100_000, window: Duration::from_millis(1) };
    let settings = GuardSettings {
        access: budget,
        metadata: budget,
        write: budget,
        maximum_wait: Duration::from_secs(1),
        request_timeout: Duration::from_secs(1),
    };
    let guard = Guard::new("stores/cloud".into(), settings, Arc::new(SystemClock));
    let runtime = runtime();
    let _entered = runtime.enter();
    bencher.bench_local(|| at_once(guard.call(Operation::Access, SECRET, || async { Ok(()) })).unwrap());
}

/// After admission: what a warm read costs inside the broker.
#[divan::bench]
fn cached_read(bencher: Bencher<'_, '_>) {
    let arrived = Arrived::new();
    let permit = arrived.admit(resource());
    let secrets = secrets(64 << 20);
    let read = || secrets.get(black_box(&permit), &VersionId::Latest, Demand::default());
    assert_eq!(arrived.runtime.block_on(read()).unwrap().source, Source::Provider);
    assert_eq!(at_once(read()).unwrap().source, Source::Cache);
    bencher.bench_local(|| at_once(read()).unwrap());
}

/// What a miss costs, and what a full cache occupies: the whole process, decisions and quotas and all.
#[divan::bench(sample_count = 1, sample_size = 1)]
fn a_hundred_thousand_loads_stay_resident(bencher: Bencher<'_, '_>) {
    const SECRETS: usize = 100_000;
    const BAR: usize = 250_000_000;
    let arrived = Arrived::new();
    let secrets = secrets(240 << 20);
    let names: Vec<_> = (0..SECRETS).map(|number| SecretName::parse(&format!("{SECRET}-{number}")).unwrap()).collect();
    // Kept decisions and the caller's window take room of their own, which is not the cache's.
    for name in &names {
        drop(arrived.admit(labelled(name.clone())));
    }
    let before = resident();
    bencher.counter(ItemsCount::new(SECRETS)).bench_local(|| {
        arrived.runtime.block_on(async {
            for name in &names {
                let permit = arrived.admit(labelled(name.clone()));
                secrets.get(&permit, &VersionId::Latest, Demand::default()).await.unwrap();
            }
        });
    });
    secrets.tidy();
    let [values, _] = secrets.cache_accounts();
    assert_eq!((values.entries, values.evicted), (SECRETS as u64, 0));
    let taken = resident() - before;
    println!("{} MB taken, {} MB by the cache's own count", taken / 1_000_000, values.bytes / 1_000_000);
    assert!(taken <= BAR, "{taken} bytes for {SECRETS} secrets of 1 KiB");
}

fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

/// An answer's message, as it goes to the wire.
#[divan::bench]
fn encode(bencher: Bencher<'_, '_>) {
    let answer = answer();
    bencher.bench_local(|| black_box(&answer).encode_to_vec());
}

/// What the log does for so many watchers of one change: all read the same one.
#[divan::bench(args = [1, 1000])]
fn fan_out(bencher: Bencher<'_, '_>, watchers: usize) {
    let changed = Changed::new();
    bencher.counter(ItemsCount::new(watchers)).bench_local(|| changed.fan_out(watchers));
}

#[divan::bench]
fn page_token_seal(bencher: Bencher<'_, '_>) {
    let (tokens, binding) = (PageTokens::new().unwrap(), Binding::of(&["x509/client", "stores/main"]));
    bencher.bench_local(|| tokens.seal(black_box("orders-db-password"), binding).unwrap());
}

#[divan::bench]
fn page_token_open(bencher: Bencher<'_, '_>) {
    let (tokens, binding) = (PageTokens::new().unwrap(), Binding::of(&["x509/client", "stores/main"]));
    let token = tokens.seal("orders-db-password", binding).unwrap();
    bencher.bench_local(|| tokens.open(black_box(&token), binding).unwrap());
}

/// The first, the last, and one that is not there.
#[divan::bench(args = [rpc::METHODS[0].path, rpc::METHODS[rpc::METHODS.len() - 1].path, "/keyferry.v1.SecretService/None"])]
fn method_look_up(path: &str) -> Option<(usize, &'static rpc::Method)> {
    rpc::find(black_box(path))
}

#[divan::bench]
fn certificate_parse(bencher: Bencher<'_, '_>) {
    let der = Ca::new("bench CA").client("orders").der;
    bencher.bench_local(|| Certificate::parse(black_box(&der)).unwrap());
}
