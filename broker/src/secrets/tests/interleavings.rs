//! Rotations racing loads, in orders that a seed decides.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;

use super::world::{World, id};
use crate::error::Reason;
use crate::names::{SecretName, VersionId};
use crate::secrets::{Demand, Newest, Revision, SecretBytes};

const INTERLEAVINGS: u64 = 100_000;
const STEPS: usize = 8;
const READERS: usize = 3;

#[test]
fn no_reader_gets_what_is_older_than_what_was_confirmed_to_it() {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64).min(8);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let mut seen = Seen::default();
                runtime.block_on(async {
                    let world = World::new();
                    world.store.script().holds = true;
                    for seed in (thread..INTERLEAVINGS).step_by(usize::try_from(threads).unwrap()) {
                        interleave(&world, seed, &mut seen).await;
                    }
                });
                // A schedule that never came to the point would prove nothing.
                for (what, count) in [
                    ("reads after a confirmation", seen.after_confirmation),
                    ("reads that demanded a revision", seen.demanding),
                    ("refusals of a disabled version", seen.refused),
                    ("answers from the cache", seen.cached),
                ] {
                    assert!(count > INTERLEAVINGS / threads / 100, "only {count} {what}");
                }
            });
        }
    });
}

#[derive(Default)]
struct Seen {
    after_confirmation: u64,
    demanding: u64,
    refused: u64,
    cached: u64,
}

/// What all callers have been told so far, which is more than any one of them was.
#[derive(Clone, Default)]
struct Told {
    newest: u64,
    disabled: BTreeSet<u64>,
    revision: Revision,
}

async fn interleave(world: &World, seed: u64, seen: &mut Seen) {
    let mut random = Random(seed);
    let secret = SecretName::parse(&format!("stores/main/secrets/s{seed}")).unwrap();
    world.store.put(&secret, 1);
    let told = Arc::new(Mutex::new(Told { newest: 1, ..Told::default() }));
    let finished = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    let mut busy = 0;
    for _ in 0..STEPS {
        match random.below(12) {
            0..=3 if busy < READERS => {
                busy += 1;
                let known = told.lock().unwrap().clone();
                let version = match random.below(4) {
                    0 => VersionId::Exact((1 + random.below(known.newest)).to_string().into()),
                    _ => VersionId::Latest,
                };
                let demand = Demand {
                    max_age: (random.below(4) == 0).then_some(Duration::ZERO),
                    min_revision: if random.below(3) == 0 { known.revision } else { Revision::default() },
                    epoch: "",
                };
                let (secrets, secret, finished) = (world.secrets.clone(), secret.clone(), Arc::clone(&finished));
                tasks.spawn(async move {
                    let read = secrets.read(&secret, &version, demand).await;
                    finished.lock().unwrap().push((known, version, demand, read));
                });
            }
            0..=6 if world.store.held() > 0 => {
                let failure = (random.below(8) == 0).then_some(Reason::ProviderUnavailable);
                world.store.release(random.below(world.store.held() as u64) as usize, failure);
            }
            7 => {
                let (secrets, secret, told) = (world.secrets.clone(), secret.clone(), Arc::clone(&told));
                tasks.spawn(async move {
                    if let Ok(added) = secrets.add_to(secret, SecretBytes::new(Vec::new()), None).await {
                        let mut told = told.lock().unwrap();
                        told.newest = told.newest.max(added.version.id.parse().unwrap());
                        told.revision = told.revision.max(added.revision);
                    }
                });
            }
            8 => {
                let number = 1 + random.below(told.lock().unwrap().newest);
                let (secrets, secret, told) = (world.secrets.clone(), secret.clone(), Arc::clone(&told));
                tasks.spawn(async move {
                    let version = VersionId::Exact(number.to_string().into());
                    if let Ok(changed) = secrets.switch(secret, version, false).await {
                        let mut told = told.lock().unwrap();
                        told.disabled.insert(number);
                        told.revision = told.revision.max(changed.revision);
                    }
                });
            }
            9 => {
                let mut script = world.store.script();
                (script.lag, script.looks_late) = (random.below(3) as usize, random.below(2) == 0);
            }
            10 => world.clock.advance(Duration::from_secs([1, 240, 301][random.below(3) as usize])),
            // Made elsewhere, and told by an event at the next revision.
            11 => {
                let number = {
                    let mut script = world.store.script();
                    let versions = script.versions.get_mut(&secret).unwrap();
                    versions.push(crate::secrets::VersionState::Enabled);
                    versions.len() as u64
                };
                let revision = Revision::new(world.secrets.revisions().current().get() + 1);
                let newest = Newest { id: number.to_string().into(), created: None };
                world.secrets.invalidate(&secret, Some(newest), revision);
                let mut told = told.lock().unwrap();
                told.newest = told.newest.max(number);
                told.revision = told.revision.max(revision);
            }
            _ => {}
        }
        for _ in 0..random.below(4) {
            tokio::task::yield_now().await;
        }
        check(&finished, &mut busy, seed, seen);
    }
    while !tasks.is_empty() {
        while world.store.held() > 0 {
            world.store.release(random.below(world.store.held() as u64) as usize, None);
        }
        tokio::task::yield_now().await;
        while let Some(ended) = tasks.try_join_next() {
            ended.unwrap();
        }
    }
    check(&finished, &mut busy, seed, seen);
    // Loads that nobody waits for any more must not run into the next interleaving.
    while world.store.script().under_way > 0 {
        if world.store.held() > 0 {
            world.store.release(0, None);
        }
        tokio::task::yield_now().await;
    }
    let mut script = world.store.script();
    script.versions.clear();
    script.lag = 0;
}

type Finished = (Told, VersionId, Demand<'static>, Result<crate::secrets::Read, crate::error::Failure>);

fn check(finished: &Mutex<Vec<Finished>>, busy: &mut usize, seed: u64, seen: &mut Seen) {
    for (known, version, demand, read) in finished.lock().unwrap().drain(..) {
        *busy -= 1;
        let read = match (id(&read), &read) {
            (Ok(_), Ok(read)) => read,
            (reason, _) => {
                seen.refused += u64::from(reason == Err(Reason::VersionDisabled));
                continue;
            }
        };
        let number: u64 = read.fetched.version.id.parse().unwrap();
        assert_eq!(read.fetched.payload.expose(), number.to_string().as_bytes(), "seed {seed}");
        assert!(!known.disabled.contains(&number), "seed {seed}: {number} was disabled");
        assert!(read.revision >= demand.min_revision, "seed {seed}: {} was demanded", demand.min_revision);
        if version == VersionId::Latest {
            assert!(number >= known.newest, "seed {seed}: {number} after {} was confirmed", known.newest);
        }
        seen.after_confirmation += u64::from(known.newest > 1);
        seen.demanding += u64::from(demand.min_revision > Revision::default());
        seen.cached += u64::from(read.source == crate::secrets::Source::Cache);
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
