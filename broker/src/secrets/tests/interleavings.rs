//! Rotations racing loads, in orders that a seed decides.
//!
//! Callers are polled by hand and only the cache's own tasks run on a runtime: cheap enough for so many of them.

use std::collections::BTreeSet;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::world::{World, id, withholding};
use crate::error::{Failure, Reason};
use crate::names::{SecretName, VersionId};
use crate::secrets::{Demand, Newest, Read, SecretBytes, Source, Switched, VersionInfo, VersionState, Word};
use crate::state::Revision;

const INTERLEAVINGS: u64 = 100_000;
const THREADS: u64 = 2;
const STEPS: usize = 12;
const READERS: usize = 3;

#[test]
fn no_reader_gets_what_is_older_than_what_was_confirmed_to_it() {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                // So small that whatever is kept is evicted by the next clean-up.
                let world = World::sized(1);
                world.store.script().holds = true;
                let mut seen = Seen::default();
                runtime.block_on(async {
                    for seed in (0..INTERLEAVINGS / THREADS).map(|number| number * THREADS + thread) {
                        Interleaving::new(&world, seed, &mut seen).run().await;
                    }
                });
                seen.evicted = world.secrets.cache_accounts()[0].evicted;
                // A schedule that never came to the point would prove nothing.
                for (what, count) in [
                    ("reads after a confirmation", seen.after_confirmation),
                    ("reads that demanded a revision", seen.demanding),
                    ("refusals of a disabled version", seen.refused),
                    ("answers from the cache", seen.cached),
                    ("evictions", seen.evicted),
                    ("reads while a version was withheld", seen.withheld),
                ] {
                    assert!(count > INTERLEAVINGS / THREADS / 100, "only {count} {what}");
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
    evicted: u64,
    withheld: u64,
}

/// What all callers have been told so far, which is more than any one of them was.
#[derive(Clone, Default)]
struct Told {
    newest: u64,
    disabled: BTreeSet<u64>,
    revision: Revision,
}

struct Interleaving<'a> {
    world: &'a World,
    seed: u64,
    random: Random,
    seen: &'a mut Seen,
    secret: SecretName,
    told: Told,
    /// A rotation's version, which is not the latest for anybody before it is promoted.
    withheld: Option<u64>,
    readers: usize,
    callers: Vec<BoxFuture<'a, Done>>,
}

/// How a call ended.
enum Done {
    Read { known: Told, version: VersionId, demand: Demand<'static>, read: Result<Read, Failure> },
    Added(Result<VersionInfo, Failure>),
    Disabled(u64, Result<Switched, Failure>),
}

impl<'a> Interleaving<'a> {
    fn new(world: &'a World, seed: u64, seen: &'a mut Seen) -> Self {
        let secret = SecretName::parse(&format!("stores/main/secrets/s{seed}")).unwrap();
        world.store.put(&secret, 1);
        let told = Told { newest: 1, ..Told::default() };
        Self { world, seed, random: Random(seed), seen, secret, told, withheld: None, readers: 0, callers: Vec::new() }
    }

    async fn run(mut self) {
        for _ in 0..STEPS {
            self.step();
            if self.random.below(2) == 0 {
                tokio::task::yield_now().await;
                self.poll();
            }
        }
        // Loads that nobody waits for any more must not run into the next interleaving either.
        while !self.callers.is_empty() || self.world.store.script().under_way > 0 {
            while self.world.store.held() > 0 {
                self.release(None);
            }
            tokio::task::yield_now().await;
            self.poll();
        }
        self.world.secrets.heed(&self.secret, Word::default());
        let mut script = self.world.store.script();
        script.versions.clear();
        script.lag = 0;
    }

    fn step(&mut self) {
        let world = self.world;
        match self.random.below(15) {
            0..=3 if self.readers < READERS => self.read(),
            0..=6 if world.store.held() > 0 => {
                let failure = (self.random.below(8) == 0).then_some(Reason::ProviderUnavailable);
                self.release(failure);
            }
            7 => {
                let secret = self.secret.clone();
                let add = async move { world.secrets.add_to(secret, SecretBytes::new(Vec::new()), None).await };
                self.call(async move { Done::Added(add.await) });
            }
            8 => {
                let number = 1 + self.random.below(self.told.newest);
                let (secret, version) = (self.secret.clone(), exact(number));
                let disable = async move { world.secrets.switch(secret, version, false).await };
                self.call(async move { Done::Disabled(number, disable.await) });
            }
            9 => {
                let mut script = world.store.script();
                (script.lag, script.looks_late) = (self.random.below(3) as usize, self.random.below(2) == 0);
            }
            10 => world.clock.advance(Duration::from_secs([1, 240, 301][self.random.below(3) as usize])),
            // Made elsewhere, and told by an event at the next revision.
            11 => {
                let number = self.put();
                self.confirm(number);
            }
            12 => world.secrets.tidy(),
            // A rotation pins what is current, and then adds its own.
            13 if self.withheld.is_none() => {
                self.pin(Some(self.told.newest));
                self.withheld = Some(self.put());
            }
            // It promotes it; or abandons it, and then nothing happens until somebody adds another.
            13 => {
                if let Some(number) = self.withheld.take_if(|_| self.random.below(2) == 0) {
                    self.confirm(number);
                }
            }
            _ => {}
        }
    }

    /// Adds a version of which nobody is told.
    fn put(&self) -> u64 {
        let mut script = self.world.store.script();
        let versions = script.versions.get_mut(&self.secret).unwrap();
        versions.push(VersionState::Enabled);
        versions.len() as u64
    }

    fn pin(&self, version: Option<u64>) {
        let word = version.map(|number| withholding(&number.to_string())).unwrap_or_default();
        if self.world.secrets.heed(&self.secret, word) {
            self.world.secrets.invalidate(&self.secret, None);
        }
    }

    fn read(&mut self) {
        let (world, secret, known) = (self.world, self.secret.clone(), self.told.clone());
        let version = match self.random.below(4) {
            0 => exact(1 + self.random.below(known.newest)),
            _ => VersionId::Latest,
        };
        let demand = Demand {
            max_age: (self.random.below(4) == 0).then_some(Duration::ZERO),
            min_revision: if self.random.below(3) == 0 { known.revision } else { Revision::default() },
            epoch: "",
        };
        self.readers += 1;
        self.call(async move {
            let read = world.secrets.read(&secret, &version, demand).await;
            Done::Read { known, version, demand, read }
        });
    }

    fn release(&mut self, failure: Option<Reason>) {
        let held = self.world.store.held() as u64;
        self.world.store.release(self.random.below(held) as usize, failure);
    }

    fn call(&mut self, call: impl Future<Output = Done> + Send + 'a) {
        self.callers.push(Box::pin(call));
        self.advance(self.callers.len() - 1);
    }

    fn poll(&mut self) {
        (0..self.callers.len()).rev().for_each(|index| self.advance(index));
    }

    fn advance(&mut self, index: usize) {
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(done) = self.callers[index].as_mut().poll(&mut context) {
            drop(self.callers.swap_remove(index));
            self.note(done);
        }
    }

    fn note(&mut self, done: Done) {
        match done {
            Done::Read { known, version, demand, read } => {
                self.readers -= 1;
                self.check(&known, &version, demand, &read);
            }
            Done::Added(Ok(added)) => self.confirm(added.id.parse().unwrap()),
            Done::Disabled(number, Ok(_)) => {
                self.told.disabled.insert(number);
                self.confirm(0);
            }
            Done::Added(Err(_)) | Done::Disabled(_, Err(_)) => {}
        }
    }

    /// The rotation log tells of what happened, and of the version that is the newest by it.
    fn confirm(&mut self, newest: u64) {
        self.told.newest = self.told.newest.max(newest);
        self.withheld.take_if(|withheld| *withheld < self.told.newest);
        self.pin(self.withheld.map(|_| self.told.newest));
        let added = (newest > 0).then(|| Newest { id: newest.to_string().into(), created: None });
        self.world.secrets.invalidate(&self.secret, added);
        self.told.revision = self.world.told();
    }

    fn check(&mut self, known: &Told, version: &VersionId, demand: Demand<'_>, read: &Result<Read, Failure>) {
        let (seed, seen) = (self.seed, &mut *self.seen);
        let Ok(answer) = read else {
            seen.refused += u64::from(id(read) == Err(Reason::VersionDisabled));
            return;
        };
        let number: u64 = answer.fetched.version.id.parse().unwrap();
        assert_eq!(answer.fetched.payload.expose(), number.to_string().as_bytes(), "seed {seed}");
        assert!(!known.disabled.contains(&number), "seed {seed}: {number} was disabled");
        let position = answer.position.map(|position| position.revision).unwrap_or_default();
        assert!(position >= demand.min_revision, "seed {seed}: {} was demanded", demand.min_revision);
        if *version == VersionId::Latest {
            assert_ne!(Some(number), self.withheld, "seed {seed}: {number} was not promoted");
            seen.withheld += u64::from(self.withheld.is_some());
            assert!(number >= known.newest, "seed {seed}: {number} after {} was confirmed", known.newest);
        }
        seen.after_confirmation += u64::from(known.newest > 1);
        seen.demanding += u64::from(demand.min_revision > Revision::default());
        seen.cached += u64::from(answer.source == Source::Cache);
    }
}

fn exact(number: u64) -> VersionId {
    VersionId::Exact(number.to_string().into())
}

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
