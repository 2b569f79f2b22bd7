//! What goes wrong, and how it is mended.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use keyferry_broker::clock::{Clock as _, SystemClock};
use keyferry_tests::proxy::Mood;
use keyferry_tests::sandbox::Command;
use rustix::process::Signal;
use tokio::time::sleep;

use super::world::World;
use crate::audit::fill;
use crate::watch_faults::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Killed,
    Stopped,
    ClockAhead,
    ClockBehind,
    DiskFull,
    /// From its callers.
    CutOff,
    /// From etcd.
    Partitioned,
    MemberKilled,
    DatabaseDown,
    DatabaseCut,
    DatabaseSilent,
    CloudFails,
}

const ALL: [Fault; 12] = [
    Fault::Killed,
    Fault::Stopped,
    Fault::ClockAhead,
    Fault::ClockBehind,
    Fault::DiskFull,
    Fault::CutOff,
    Fault::Partitioned,
    Fault::MemberKilled,
    Fault::DatabaseDown,
    Fault::DatabaseCut,
    Fault::DatabaseSilent,
    Fault::CloudFails,
];

const CLOUD_FAULTS: [&str; 7] = [
    "fault gcp outage",
    "fault gcp throttle 1",
    "fault gcp black-hole",
    "fault gcp garbage",
    "fault azure outage",
    "fault sts outage",
    "fault imds outage",
];

/// In seconds. Another broker waits so much longer before it gives up on a mint that was begun with such a clock.
const SKEW: i64 = 10;

/// Two at a time, each kind in its turn, until then. How often each came.
pub(super) async fn rage(world: &World, seed: u64, until: Instant) -> BTreeMap<String, usize> {
    let (mut random, begun) = (Random::new(seed), SystemClock.monotonic());
    let mut struck = BTreeMap::new();
    let mut deck = Vec::new();
    while SystemClock.monotonic() < until {
        let mut round = Vec::new();
        for _ in 0..2 {
            if deck.is_empty() {
                deck = ALL.to_vec();
            }
            let (fault, replica, way) = (deck.swap_remove(random.below(deck.len())), random.below(2), random.below(42));
            round.push((fault, replica, way));
        }
        // Where its disk is full or its clock is off, a broker that starts again is not yet to be.
        round.sort_by_key(|(fault, ..)| std::cmp::Reverse(*fault));
        println!("{:6.1} s: {round:?}", (SystemClock.monotonic() - begun).as_secs_f32());
        for &(fault, replica, way) in &round {
            strike(world, fault, replica, way).await;
            *struck.entry(format!("{fault:?}")).or_default() += 1;
        }
        sleep(Duration::from_millis(400 + random.below(2000) as u64)).await;
        for &(fault, replica, way) in &round {
            mend(world, fault, replica, way).await;
        }
        sleep(Duration::from_millis(random.below(1000) as u64)).await;
    }
    struck
}

async fn strike(world: &World, fault: Fault, replica: usize, way: usize) {
    let broker = &world.replicas[replica];
    match fault {
        Fault::Killed => broker.kill(),
        Fault::Stopped => broker.signal(Signal::STOP),
        Fault::ClockAhead => broker.set_clock(SKEW),
        Fault::ClockBehind => broker.set_clock(-SKEW),
        Fault::DiskFull => fill(&broker.ballast()),
        Fault::CutOff => broker.door.set(Mood::Cutting),
        Fault::Partitioned => broker.to_etcd.iter().for_each(|proxy| proxy.set(Mood::Cutting)),
        Fault::MemberKilled => world.etcd.lock().unwrap().kill(way % 3),
        Fault::DatabaseDown => world.database.lock().await.stop(),
        Fault::DatabaseCut => broker.to_database.set(Mood::Cutting),
        Fault::DatabaseSilent => broker.to_database.set(Mood::SwallowingAnswers),
        Fault::CloudFails => obey(world, CLOUD_FAULTS[way % CLOUD_FAULTS.len()]),
    }
}

async fn mend(world: &World, fault: Fault, replica: usize, way: usize) {
    let broker = &world.replicas[replica];
    match fault {
        Fault::Killed => broker.resume(),
        Fault::Stopped => broker.signal(Signal::CONT),
        Fault::ClockAhead | Fault::ClockBehind => broker.set_clock(0),
        Fault::DiskFull => std::fs::remove_file(broker.ballast()).unwrap(),
        Fault::CutOff => broker.door.set(Mood::Passing),
        Fault::Partitioned => broker.to_etcd.iter().for_each(|proxy| proxy.set(Mood::Passing)),
        Fault::MemberKilled => world.etcd.lock().unwrap().resume(way % 3),
        Fault::DatabaseDown => world.database.lock().await.resume(),
        Fault::DatabaseCut | Fault::DatabaseSilent => broker.to_database.set(Mood::Passing),
        Fault::CloudFails => obey(world, "clear"),
    }
}

fn obey(world: &World, command: &str) {
    assert_eq!(world.clouds.obey(Command::parse(command).unwrap().unwrap()), "done");
}
