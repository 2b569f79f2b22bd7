//! Everything goes wrong at once, at random: two brokers on three members of etcd, a real PostgreSQL and both clouds' doubles,
//! under load. Afterwards, and while it lasts, what was promised must be so.
//!
//! `KF_CHAOS_SECONDS` says for how long, `KF_CHAOS_SEED` repeats a schedule of faults; `make chaos` is the long form.

mod faults;
mod load;
mod proofs;
mod world;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use keyferry_broker::clock::{Clock as _, SystemClock};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::world::World;
use crate::token_faults::count;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_fails_leases_streams_reads_and_the_log_keep_their_promises() {
    let seed =
        std::env::var("KF_CHAOS_SEED").map_or_else(|_| RandomState::new().hash_one(0), |seed| seed.parse().unwrap());
    let span = Duration::from_secs(count("KF_CHAOS_SECONDS", 25) as u64);
    println!("KF_CHAOS_SEED={seed} KF_CHAOS_SECONDS={}", span.as_secs());
    let world = Arc::new(World::start(span).await);
    let mut load = JoinSet::new();
    for worker in 0..4 {
        load.spawn(load::mint(Arc::clone(&world), worker));
    }
    for worker in 0..load::WRITERS {
        load.spawn(load::write(Arc::clone(&world), worker));
    }
    for worker in 0..3 {
        load.spawn(load::read(Arc::clone(&world), worker));
    }
    load.spawn(proofs::look_at_users(Arc::clone(&world)));
    let mut subscribers = JoinSet::new();
    for worker in 0..8 {
        subscribers.spawn(load::subscribe(Arc::clone(&world), seed ^ worker));
    }

    let faults = faults::rage(&world, seed, SystemClock.monotonic() + span).await;
    world.end();
    // A mint that was cut off is given up by the other broker after a while, and only then repeated.
    let ended = timeout(Duration::from_secs(180), load.join_all()).await;
    assert!(ended.is_ok(), "calls are answered again once all is well: {}", world.refusals());
    let seen = timeout(Duration::from_secs(60), subscribers.join_all()).await;
    let seen = seen.expect("all that was promised is seen in the end");
    println!("faults: {faults:?}");
    println!("refused meanwhile: {}", world.refusals());
    proofs::leases(&world).await;
    proofs::streams(&seen);
    proofs::reads(&world);
    proofs::audit(&world);
}
