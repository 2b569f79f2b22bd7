//! The store is out: what is cached goes on, labelled, within its bound; and nobody rushes it when it is back.

use std::time::Duration;

use super::world::{FRESHNESS, World, db, id, settle, until};
use crate::clock::Clock as _;
use crate::error::Reason;
use crate::names::{SecretName, VersionId};
use crate::secrets::{Demand, Source};

const SECRETS: usize = 1_000;

fn name(number: usize) -> SecretName {
    SecretName::parse(&format!("stores/main/secrets/s{number}")).unwrap()
}

#[tokio::test]
async fn ten_minutes_without_the_store_are_ten_minutes_of_stale_answers_and_no_stampede() {
    let world = World::new();
    for number in 0..SECRETS {
        world.store.put(&name(number), 1);
        world.secrets.read(&name(number), &VersionId::Latest, Demand::default()).await.unwrap();
    }
    world.store.script().failure = Some(Reason::ProviderUnavailable);
    let before = world.store.fetches();
    let (mut asked, mut answered, mut stale) = (0_usize, 0_usize, 0_usize);
    for second in 0..600 {
        world.clock.advance(Duration::from_secs(1));
        for number in (second % 10..SECRETS).step_by(10) {
            asked += 1;
            let Ok(read) = world.secrets.read(&name(number), &VersionId::Latest, Demand::default()).await else {
                continue;
            };
            answered += 1;
            let late = world.clock.now().since(read.fresh_until);
            assert!(late <= FRESHNESS.stale, "served {late:?} past its freshness");
            assert_eq!(read.source == Source::Stale, world.clock.now() >= read.fresh_until, "mislabelled");
            stale += usize::from(read.source == Source::Stale);
        }
        settle().await;
    }
    let attempts = world.store.fetches() - before;
    println!("{asked} reads, {answered} answered, {stale} stale, {attempts} attempts at the store");
    assert!(answered * 1_000 >= asked * 999, "{answered} of {asked}");
    assert!(stale > asked / 3, "the outage was not felt");
    assert!(attempts <= 120, "{attempts} attempts in ten minutes");

    // It is back, and slow: all that was stale is refreshed, each once, a few at a time, and nobody waits for it.
    let before = world.store.fetches();
    {
        let mut script = world.store.script();
        (script.failure, script.holds, script.most_under_way) = (None, true, 0);
    }
    let mut fresh = 0;
    // The store may have to wait for a whole pause to be asked again, and then takes half of its time of recovery.
    for _ in 0..80 {
        world.clock.advance(Duration::from_millis(500));
        fresh = 0;
        for number in 0..SECRETS {
            let read = world.secrets.read(&name(number), &VersionId::Latest, Demand::default()).await.unwrap();
            fresh += usize::from(read.source == Source::Cache);
        }
        settle().await;
        while world.store.held() > 0 {
            world.store.release(0, None);
        }
        settle().await;
    }
    let script = world.store.script();
    println!("recovery: {} calls, at most {} at a time", script.fetches - before, script.most_under_way);
    assert_eq!(fresh, SECRETS);
    assert_eq!(script.fetches - before, SECRETS, "some were loaded more than once");
    assert!(script.most_under_way <= 32, "{} at a time", script.most_under_way);
}

#[tokio::test]
async fn stale_answers_end_at_their_bound() {
    let world = World::new();
    world.store.put(&db(), 1);
    world.latest().await.unwrap();
    world.store.script().failure = Some(Reason::ProviderUnavailable);
    world.clock.advance(FRESHNESS.latest + FRESHNESS.stale - Duration::from_secs(1));
    assert_eq!(world.latest().await.unwrap().source, Source::Stale);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(id(&world.latest().await), Err(Reason::ProviderUnavailable));
}

#[tokio::test]
async fn only_a_store_that_cannot_answer_makes_stale_answers() {
    for (reason, is_served) in [
        (Reason::ProviderUnavailable, true),
        (Reason::ProviderThrottled, true),
        (Reason::ProviderCredential, true),
        (Reason::ProviderBudgetExhausted, true),
        (Reason::CircuitOpen, true),
        (Reason::ProviderDenied, false),
        (Reason::SecretNotFound, false),
        (Reason::VersionDisabled, false),
        (Reason::VersionDestroyed, false),
        (Reason::PayloadCorrupt, false),
        (Reason::Internal, false),
    ] {
        let world = World::new();
        world.store.put(&db(), 1);
        world.version("1").await.unwrap();
        world.store.script().failure = Some(reason);
        world.clock.advance(FRESHNESS.pinned);
        for _ in 0..2 {
            let read = world.version("1").await;
            assert_eq!(read.is_ok_and(|read| read.source == Source::Stale), is_served, "{reason:?}");
        }
    }
}

#[tokio::test]
async fn who_demands_an_age_or_a_revision_gets_nothing_stale() {
    let world = World::new();
    world.store.put(&db(), 1);
    let revision = world.add().await;
    world.latest().await.unwrap();
    world.store.script().failure = Some(Reason::ProviderUnavailable);
    world.clock.advance(FRESHNESS.latest);
    for demand in [
        Demand { max_age: Some(Duration::from_hours(9)), ..Demand::default() },
        Demand { min_revision: revision, ..Demand::default() },
    ] {
        assert_eq!(id(&world.demand(demand).await), Err(Reason::ProviderUnavailable));
    }
    assert_eq!(world.latest().await.unwrap().source, Source::Stale);
}

#[tokio::test]
async fn nothing_stale_outlives_an_event_of_its_secret() {
    let world = World::new();
    world.store.put(&db(), 1);
    world.latest().await.unwrap();
    world.store.script().failure = Some(Reason::ProviderUnavailable);
    world.clock.advance(FRESHNESS.latest);
    assert_eq!(world.latest().await.unwrap().source, Source::Stale);
    world.secrets.invalidate(&db(), None);
    assert_eq!(id(&world.latest().await), Err(Reason::ProviderUnavailable));
}

#[tokio::test]
async fn one_secret_that_always_fails_keeps_no_other_stale() {
    let world = World::new();
    world.store.script().holds = true;
    let fail = async || {
        let read = world.begin(Demand::default());
        until(|| world.store.held() == 1).await;
        world.store.release(0, Some(Reason::ProviderUnavailable));
        read.await.unwrap()
    };
    world.store.put(&name(0), 1);
    for _ in 0..10 {
        for _ in 0..3 {
            assert_eq!(id(&fail().await), Err(Reason::ProviderUnavailable));
        }
        let secrets = world.secrets.clone();
        let other = tokio::spawn(async move { secrets.read(&name(0), &VersionId::Latest, Demand::default()).await });
        until(|| world.store.held() == 1).await;
        world.store.release(0, None);
        assert_eq!(other.await.unwrap().unwrap().source, Source::Provider);
        world.clock.advance(FRESHNESS.latest);
    }
}

#[tokio::test]
async fn who_reads_what_is_stale_does_not_wait_while_the_store_is_known_to_fail() {
    let world = World::new();
    world.store.put(&db(), 1);
    world.latest().await.unwrap();
    world.clock.advance(FRESHNESS.latest);
    world.store.script().holds = true;
    let first = world.begin(Demand::default());
    until(|| world.store.held() == 1).await;
    world.store.release(0, Some(Reason::ProviderUnavailable));
    assert_eq!(first.await.unwrap().unwrap().source, Source::Stale);
    // The next attempt hangs, and nobody hangs with it.
    world.clock.advance(Duration::from_secs(2));
    for _ in 0..100 {
        assert_eq!(world.latest().await.unwrap().source, Source::Stale);
    }
    settle().await;
    assert_eq!(world.store.held(), 1, "not one attempt was made in the background");
}

#[tokio::test]
async fn a_refresh_in_an_outage_takes_nothing_from_anybody() {
    let world = World::new();
    world.store.put(&db(), 2);
    world.latest().await.unwrap();
    world.secrets.labels(&db()).await.unwrap();
    world.store.script().failure = Some(Reason::ProviderUnavailable);
    let refreshed = world.secrets.reload(&db(), &VersionId::Latest).await;
    assert_eq!(refreshed.err().map(|failure| failure.reason()), Some(Reason::ProviderUnavailable));
    assert_eq!(world.latest().await.unwrap().source, Source::Cache);
    assert!(world.secrets.labels(&db()).await.is_ok());

    world.store.script().failure = None;
    world.version("1").await.unwrap();
    world.store.put(&db(), 3);
    let refreshed = world.secrets.reload(&db(), &VersionId::Latest).await.unwrap();
    assert_eq!((&*refreshed.read.fetched.version.id, refreshed.changed), ("3", Some(true)));
    assert_eq!(world.latest().await.unwrap().source, Source::Cache);
    assert_eq!(world.version("1").await.unwrap().source, Source::Provider, "what was kept before outlived the refresh");
}

#[tokio::test]
async fn a_budget_of_the_brokers_own_says_nothing_of_the_store() {
    let world = World::new();
    for number in 0..3 {
        world.store.put(&name(number), 1);
        world.secrets.read(&name(number), &VersionId::Latest, Demand::default()).await.unwrap();
    }
    world.clock.advance(FRESHNESS.latest);
    let read =
        async |number| world.secrets.read(&name(number), &VersionId::Latest, Demand::default()).await.unwrap().source;
    world.store.script().failure = Some(Reason::ProviderBudgetExhausted);
    for number in 0..2 {
        assert_eq!(read(number).await, Source::Stale);
    }
    world.store.script().failure = None;
    for number in 0..3 {
        assert_eq!(read(number).await, Source::Provider);
    }
}
