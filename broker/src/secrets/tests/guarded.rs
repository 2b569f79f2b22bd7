//! A rotation's version is not read before it is current, also where this replica heard nothing of the rotation.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;

use super::world::{FRESHNESS, World, db, id, withholding};
use crate::error::{Failure, Reason};
use crate::names::SecretName;
use crate::secrets::{Newest, Ward, Word};

/// The record. `None`: the state is out.
#[derive(Debug, Default)]
struct Record(Mutex<Option<Word>>);

impl Record {
    fn says(&self, word: Option<Word>) {
        *self.0.lock().unwrap() = word;
    }
}

impl Ward for Record {
    fn word<'a>(&'a self, _: &'a SecretName) -> BoxFuture<'a, Result<Word, Failure>> {
        let word = self.0.lock().unwrap().clone();
        Box::pin(async { word.ok_or_else(|| Failure::new(Reason::StateUnavailable, "scripted")) })
    }
}

fn settled(current: &str) -> Word {
    Word { current: Some(current.into()), withholds: false }
}

/// Version 1 is current and was heard of; 2 was added unheard.
fn unheard() -> (World, Arc<Record>) {
    let record = Arc::new(Record::default());
    let world = World::rotated(Arc::clone(&record) as _);
    world.secrets.heed(&db(), settled("1"));
    world.store.put(&db(), 2);
    (world, record)
}

#[tokio::test]
async fn a_replica_that_lags_asks_the_record_about_a_version_it_has_not_heard_of() {
    for (word, expected) in [(withholding("1"), "1"), (settled("2"), "2"), (settled("1"), "2")] {
        let (world, record) = unheard();
        record.says(Some(word.clone()));
        assert_eq!(id(&world.latest().await), Ok(expected), "{word:?}");
    }
}

#[tokio::test]
async fn a_store_that_lags_behind_the_record_is_not_believed() {
    for (word, expected) in [(settled("3"), "3"), (settled("2"), "2"), (settled("9"), "2")] {
        let (world, record) = unheard();
        world.store.put(&db(), 3);
        world.store.script().lag = 1;
        record.says(Some(word.clone()));
        assert_eq!(id(&world.latest().await), Ok(expected), "{word:?}");
    }
    let (world, record) = unheard();
    world.store.put(&db(), 3);
    world.store.script().versions.get_mut(&db()).unwrap()[1] = crate::secrets::VersionState::Disabled;
    world.store.script().lag = 1;
    record.says(Some(settled("3")));
    assert_eq!(id(&world.latest().await), Ok("3"), "what it takes for the newest is out of use");
}

#[tokio::test]
async fn a_replica_that_is_cut_off_serves_what_it_knew() {
    let (world, record) = unheard();
    for _ in 0..2 {
        assert_eq!(id(&world.latest().await), Ok("1"));
        world.clock.advance(FRESHNESS.latest);
    }
    assert_eq!(id(&world.version("2").await), Ok("2"), "who names it may read it");
    record.says(Some(settled("2")));
    assert_eq!(id(&world.latest().await), Ok("2"), "as soon as the record can be asked");
    record.says(None);
    world.clock.advance(FRESHNESS.latest);
    assert_eq!(id(&world.latest().await), Ok("2"), "what was read once is known");
}

#[tokio::test]
async fn a_replica_that_is_cut_off_does_not_guess() {
    let (world, _) = unheard();
    world.store.script().versions.get_mut(&db()).unwrap()[0] = crate::secrets::VersionState::Disabled;
    assert_eq!(id(&world.latest().await), Err(Reason::StateUnavailable), "the one it knew is out of use");
    let world = World::rotated(Arc::new(Record::default()));
    world.store.put(&db(), 1);
    assert_eq!(id(&world.latest().await), Err(Reason::StateUnavailable), "it knew none");
}

#[tokio::test]
async fn what_a_call_to_this_broker_added_needs_no_record() {
    let (world, _) = unheard();
    world.secrets.invalidate(&db(), Some(Newest { id: "2".into(), created: None }));
    assert_eq!(id(&world.latest().await), Ok("2"));
}

#[tokio::test]
async fn a_rotation_that_ended_unheard_of_leaves_nobody_with_a_version_that_is_out_of_use() {
    let (world, record) = unheard();
    world.secrets.heed(&db(), withholding("1"));
    assert_eq!(id(&world.latest().await), Ok("1"));
    world.store.script().versions.get_mut(&db()).unwrap()[0] = crate::secrets::VersionState::Disabled;
    world.clock.advance(FRESHNESS.latest);
    assert_eq!(id(&world.latest().await), Err(Reason::VersionDisabled), "cut off");
    world.clock.advance(FRESHNESS.latest);
    record.says(Some(settled("2")));
    assert_eq!(id(&world.latest().await), Ok("2"));
}

#[tokio::test]
async fn a_secret_s_first_version_is_not_read_before_it_is_current() {
    let record = Arc::new(Record::default());
    let world = World::rotated(Arc::clone(&record) as _);
    world.store.put(&db(), 1);
    let first = Word { current: None, withholds: true };
    record.says(Some(first.clone()));
    assert_eq!(id(&world.latest().await), Err(Reason::VersionNotFound), "unheard of");
    world.secrets.heed(&db(), first);
    world.secrets.invalidate(&db(), None);
    assert_eq!(id(&world.latest().await), Err(Reason::VersionNotFound), "heard of");
    world.secrets.heed(&db(), settled("1"));
    world.secrets.invalidate(&db(), None);
    assert_eq!(id(&world.latest().await), Ok("1"));
}
