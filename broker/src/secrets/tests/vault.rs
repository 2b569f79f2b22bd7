//! A store with random ids and whole-second times, as Key Vault has them: its own word alone orders the versions of a second.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::JoinSet;

use super::interleavings::Random;
use super::world::{FRESHNESS, ManualClock, db, id};
use crate::clock::{SharedClock, Timestamp};
use crate::error::{Failure, Reason};
use crate::names::{NameError, SecretName, StoreName, VersionId};
use crate::secrets::{
    CacheSettings, Demand, Fetched, Labels, Listing, Newest, Page, Provider, Read, SecretBytes, SecretInfo, Secrets,
    Switched, VersionInfo, VersionState,
};
use crate::state::Revision;

const RUNS: u64 = 2_000;
const STEPS: usize = 12;

#[tokio::test]
async fn a_version_added_in_the_second_of_the_one_before_is_read_at_once() {
    let world = World::new();
    world.add().await;
    let first = world.read(Demand::default()).await;
    world.add().await;
    let added = world.vault.newest();
    for demand in [Demand::default(), ASK] {
        assert_eq!(id(&world.read(demand).await), Ok(&*added.id));
    }
    assert_ne!(id(&first), Ok(&*added.id));
}

#[tokio::test]
async fn a_version_that_nobody_told_of_is_read_although_one_of_its_second_was() {
    let world = World::new();
    world.vault.put();
    world.read(Demand::default()).await.unwrap();
    world.vault.put();
    assert_eq!(id(&world.read(ASK).await), Ok(&*world.vault.newest().id));
    world.vault.put();
    world.secrets.invalidate(&db(), None);
    assert_eq!(id(&world.read(Demand::default()).await), Ok(&*world.vault.newest().id));
}

#[test]
fn no_reader_gets_what_is_older_than_what_was_confirmed_in_the_same_second() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut in_one_second = 0;
        for seed in 0..RUNS {
            in_one_second += interleave(seed).await;
        }
        assert!(in_one_second > RUNS, "only {in_one_second} versions shared a second");
    });
}

/// Answers how many versions were made in the second of the one before.
async fn interleave(seed: u64) -> u64 {
    let (world, mut random) = (Arc::new(World::new()), Random(seed));
    world.vault.put();
    let told = Arc::new(Mutex::new(1));
    let mut tasks = JoinSet::new();
    for _ in 0..STEPS {
        match random.below(8) {
            0..=3 => {
                let demand = if random.below(3) == 0 { ASK } else { Demand::default() };
                let least = if demand == ASK { world.vault.count() } else { *told.lock().unwrap() };
                let world = Arc::clone(&world);
                tasks.spawn(async move {
                    let read = world.read(demand).await.unwrap();
                    let place = world.vault.place(&read.fetched.version.id);
                    assert!(place >= least, "seed {seed}: version {place} after {least}");
                });
            }
            4 | 5 => {
                let (world, told) = (Arc::clone(&world), Arc::clone(&told));
                tasks.spawn(async move {
                    let added = world.add().await;
                    let mut told = told.lock().unwrap();
                    *told = world.vault.place(&added.id).max(*told);
                });
            }
            6 => {
                world.vault.put();
                if random.below(2) == 0 {
                    world.secrets.invalidate(&db(), Some(Newest::from(&world.vault.newest())));
                    *told.lock().unwrap() = world.vault.count();
                }
            }
            _ => world.clock.advance(Duration::from_millis([1, 400, 301_000][random.below(3) as usize])),
        }
        for _ in 0..random.below(6) {
            tokio::task::yield_now().await;
        }
    }
    tasks.join_all().await;
    let versions = world.vault.versions.lock().unwrap();
    versions.windows(2).filter(|pair| pair[0].created == pair[1].created).count() as u64
}

const ASK: Demand<'static> = Demand { max_age: Some(Duration::ZERO), min_revision: Revision::new(0), epoch: "" };

struct World {
    secrets: Secrets,
    vault: Arc<Vault>,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::new();
        let shared: SharedClock = Arc::clone(&clock) as _;
        let vault = Arc::new(Vault { clock: Arc::clone(&shared), versions: Mutex::default() });
        let name = StoreName::from_id("main").unwrap();
        let settings = CacheSettings { size: 64 << 20, stores: [(name.clone(), FRESHNESS)].into() };
        let secrets = Secrets::new([(name, Arc::clone(&vault) as _)].into(), &settings, None, &shared);
        Self { secrets, vault, clock }
    }

    async fn read(&self, demand: Demand<'_>) -> Result<Read, Failure> {
        self.secrets.read(&db(), &VersionId::Latest, demand).await
    }

    async fn add(&self) -> VersionInfo {
        self.secrets.add_to(db(), SecretBytes::new(Vec::new()), None).await.unwrap()
    }
}

/// Of one secret, the versions in the order they were made in.
struct Vault {
    clock: SharedClock,
    versions: Mutex<Vec<VersionInfo>>,
}

impl Vault {
    fn put(&self) -> VersionInfo {
        let mut versions = self.versions.lock().unwrap();
        let made = VersionInfo {
            id: format!("{:016x}{:016x}", Random(versions.len() as u64).below(u64::MAX), u64::MAX).into(),
            state: VersionState::Enabled,
            created: Some(Timestamp::from_secs(self.clock.now().as_micros() / 1_000_000)),
            not_before: None,
            expires: None,
            content_type: None,
        };
        versions.push(made.clone());
        made
    }

    fn newest(&self) -> VersionInfo {
        self.versions.lock().unwrap().last().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.versions.lock().unwrap().len()
    }

    /// Counted from 1.
    fn place(&self, id: &str) -> usize {
        1 + self.versions.lock().unwrap().iter().position(|version| &*version.id == id).unwrap()
    }
}

impl Provider for Vault {
    fn check_name(&self, _: &SecretName) -> Result<(), NameError> {
        Ok(())
    }

    fn check_version(&self, _: &SecretName, _: &VersionId) -> Result<(), Failure> {
        Ok(())
    }

    fn check_payload(&self, _: &[u8]) -> Result<(), Failure> {
        Ok(())
    }

    fn check_creation(&self, _: &SecretName) -> Result<(), Failure> {
        Ok(())
    }

    fn fetch<'a>(&'a self, _: &'a SecretName, version: &'a VersionId) -> BoxFuture<'a, Result<Fetched, Failure>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let version = match version {
                VersionId::Latest => self.newest(),
                VersionId::Exact(id) => {
                    let place = self.place(id);
                    self.versions.lock().unwrap()[place - 1].clone()
                }
            };
            tokio::task::yield_now().await;
            Ok(Fetched { version, payload: SecretBytes::new(Vec::new()), crc32c: 0 })
        })
    }

    fn add<'a>(
        &'a self,
        _: &'a SecretName,
        _: SecretBytes,
        _: Option<Labels>,
    ) -> BoxFuture<'a, Result<VersionInfo, Failure>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let made = self.put();
            tokio::task::yield_now().await;
            Ok(made)
        })
    }

    fn describe<'a>(&'a self, _: &'a SecretName) -> BoxFuture<'a, Result<SecretInfo, Failure>> {
        Box::pin(async { Err(unasked()) })
    }

    fn list(&self, _: Page) -> BoxFuture<'_, Result<Listing<SecretInfo>, Failure>> {
        Box::pin(async { Err(unasked()) })
    }

    fn versions<'a>(&'a self, _: &'a SecretName, _: Page) -> BoxFuture<'a, Result<Listing<VersionInfo>, Failure>> {
        Box::pin(async { Err(unasked()) })
    }

    fn set_enabled<'a>(
        &'a self,
        _: &'a SecretName,
        _: &'a VersionId,
        _: bool,
    ) -> BoxFuture<'a, Result<Switched, Failure>> {
        Box::pin(async { Err(unasked()) })
    }
}

fn unasked() -> Failure {
    Failure::new(Reason::Unimplemented, "scripted")
}
