//! What is served, for how long, and what it costs the store.

use std::time::Duration;

use tokio::task::JoinSet;

use super::world::{FRESHNESS, World, at, db, id, settle, until, withholding};
use crate::error::{Detail, Reason};
use crate::names::{SecretName, VersionId};
use crate::secrets::{Demand, Freshness, Newest, Source, VersionState, Word};
use crate::state::Revision;

const ASK: Demand<'static> = Demand { max_age: Some(Duration::ZERO), min_revision: Revision::new(0), epoch: "" };

fn at_least(min_revision: Revision) -> Demand<'static> {
    Demand { min_revision, ..Demand::default() }
}

#[tokio::test]
async fn a_load_that_began_before_an_invalidation_is_never_kept_and_answers_nobody() {
    let world = World::new();
    world.store.put(&db(), 1);
    world.store.script().holds = true;
    let read = world.begin(Demand::default());
    until(|| world.store.held() == 1).await;

    // Version 2 comes about while version 1 is on its way.
    world.store.put(&db(), 2);
    world.secrets.invalidate(&db(), None);
    until(|| world.store.held() == 2).await;
    world.store.release(0, None);
    settle().await;
    assert!(!read.is_finished(), "the overtaken load answered");
    world.store.release(0, None);
    assert_eq!(id(&read.await.unwrap()), Ok("2"));

    let kept = world.latest().await;
    assert_eq!((id(&kept), kept.as_ref().unwrap().source), (Ok("2"), Source::Cache));
}

#[tokio::test]
async fn an_overtaken_load_that_lands_last_does_not_replace_what_is_kept() {
    let world = World::new();
    world.store.put(&db(), 1);
    world.store.script().holds = true;
    let read = world.begin(Demand::default());
    until(|| world.store.held() == 1).await;
    world.store.put(&db(), 2);
    world.secrets.invalidate(&db(), None);
    until(|| world.store.held() == 2).await;
    world.store.release(1, None);
    assert_eq!(id(&read.await.unwrap()), Ok("2"));
    world.store.script().holds = false;
    world.store.release(0, None);
    until(|| world.store.script().under_way == 0).await;
    settle().await;
    let kept = world.latest().await;
    assert_eq!((id(&kept), kept.as_ref().unwrap().source), (Ok("2"), Source::Cache));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_misses_of_one_key_are_one_call() {
    let world = World::new();
    world.store.put(&db(), 1);
    world.store.script().holds = true;
    let mut reads = JoinSet::new();
    for _ in 0..1_000 {
        let secrets = world.secrets.clone();
        reads.spawn(async move { secrets.read(&db(), &VersionId::Latest, Demand::default()).await });
    }
    let counts = || world.secrets.cache_accounts()[0];
    while counts().misses + counts().joined < 1_000 {
        tokio::task::yield_now().await;
    }
    world.store.release(0, None);
    assert!(reads.join_all().await.iter().all(|read| id(read) == Ok("1")));
    assert_eq!(world.store.fetches(), 1);
    assert_eq!((counts().misses, counts().joined), (1, 999));
}

#[tokio::test]
async fn misses_of_different_secrets_do_not_wait_for_each_other() {
    let world = World::new();
    world.store.script().holds = true;
    let names: Vec<_> =
        (0..16).map(|number| SecretName::parse(&format!("stores/main/secrets/s{number}")).unwrap()).collect();
    let reads = names.iter().map(|name| {
        world.store.put(name, 1);
        world.secrets.read(name, &VersionId::Latest, Demand::default())
    });
    // As a batch reads them: in one task.
    let batch = async {
        let answered = futures_util::future::join_all(reads).await;
        assert!(answered.iter().all(|read| id(read) == Ok("1")));
    };
    let release = async {
        until(|| world.store.held() == names.len()).await;
        (0..names.len()).for_each(|_| world.store.release(0, None));
    };
    tokio::join!(batch, release);
}

#[tokio::test]
async fn those_who_wait_for_a_load_share_its_failure() {
    let world = World::new();
    world.store.script().holds = true;
    let reads = [world.begin(Demand::default()), world.begin(Demand::default())];
    until(|| world.store.held() == 1).await;
    settle().await;
    world.store.release(0, Some(Reason::ProviderThrottled));
    for read in reads {
        assert_eq!(id(&read.await.unwrap()), Err(Reason::ProviderThrottled));
    }
    assert_eq!(world.store.fetches(), 1);
}

#[tokio::test]
async fn a_caller_who_leaves_takes_no_load_with_him() {
    let world = World::new();
    world.store.put(&db(), 1);
    world.store.script().holds = true;
    let first = world.begin(Demand::default());
    until(|| world.store.held() == 1).await;
    let second = world.begin(Demand::default());
    settle().await;
    first.abort();
    assert!(first.await.is_err_and(|ended| ended.is_cancelled()));
    world.store.release(0, None);
    assert_eq!(id(&second.await.unwrap()), Ok("1"));
    assert_eq!(world.store.fetches(), 1);
}

#[tokio::test]
async fn latest_and_pinned_versions_have_lives_of_their_own() {
    let world = World::new();
    world.store.put(&db(), 1);
    for _ in 0..2 {
        world.latest().await.unwrap();
        world.version("1").await.unwrap();
    }
    assert_eq!(world.store.fetches(), 2);
    world.clock.advance(FRESHNESS.latest);
    assert_eq!(world.latest().await.unwrap().source, Source::Provider);
    assert_eq!(world.version("1").await.unwrap().source, Source::Cache);
    world.clock.advance(FRESHNESS.pinned);
    assert_eq!(world.version("1").await.unwrap().source, Source::Provider);
}

#[tokio::test]
async fn a_read_late_in_its_life_is_answered_at_once_and_refreshed_once() {
    let world = World::new();
    world.store.put(&db(), 1);
    let first = world.latest().await.unwrap();
    world.clock.advance(FRESHNESS.latest.mul_f64(0.96));
    world.store.script().holds = true;
    for _ in 0..10 {
        assert_eq!(world.latest().await.unwrap().source, Source::Cache);
    }
    until(|| world.store.held() == 1).await;
    world.store.release(0, None);
    until(|| world.store.script().under_way == 0).await;
    settle().await;
    let refreshed = world.latest().await.unwrap();
    assert!(refreshed.source == Source::Cache && refreshed.loaded > first.loaded);
    assert_eq!(world.store.fetches(), 2);
}

#[tokio::test]
async fn nothing_is_served_past_the_end_that_its_provider_set() {
    let world = World::new();
    world.store.put(&db(), 1);
    let read = world.latest().await.unwrap();
    let end = read.loaded.plus(Duration::from_secs(10));
    world.store.script().expires = Some(end);
    assert_eq!(world.demand(ASK).await.unwrap().fresh_until, end);
    world.clock.advance(Duration::from_secs(10));
    world.store.script().failure = Some(Reason::ProviderUnavailable);
    assert_eq!(id(&world.latest().await), Err(Reason::ProviderUnavailable));
}

#[tokio::test]
async fn a_refusal_is_kept_for_as_long_as_its_reason_allows() {
    let secs = Duration::from_secs;
    for (state, reason, life) in [
        (None, Reason::SecretNotFound, secs(5)),
        (Some(VersionState::Disabled), Reason::VersionDisabled, secs(5)),
        (Some(VersionState::Destroyed), Reason::VersionDestroyed, secs(60)),
    ] {
        let world = World::new();
        world.store.script().versions.insert(db(), state.into_iter().collect());
        for _ in 0..3 {
            assert_eq!(id(&world.latest().await), Err(reason));
        }
        assert_eq!(world.store.fetches(), 1, "{reason:?}");
        world.clock.advance(life - secs(1));
        assert_eq!(id(&world.latest().await), Err(reason));
        assert_eq!(world.store.fetches(), 1, "{reason:?}");
        world.clock.advance(secs(1));
        world.store.put(&db(), 1);
        assert_eq!(id(&world.latest().await), Ok("1"));
    }
    for (reason, life) in [(Reason::ProviderDenied, secs(2)), (Reason::ProviderUnavailable, secs(0))] {
        let world = World::new();
        world.store.script().failure = Some(reason);
        assert_eq!(id(&world.latest().await), Err(reason));
        world.clock.advance(life);
        world.store.script().failure = None;
        world.store.put(&db(), 1);
        assert_eq!(id(&world.latest().await), Ok("1"), "{reason:?}");
    }
}

#[tokio::test]
async fn an_addition_ends_the_refusals_before_it() {
    let world = World::new();
    assert_eq!(id(&world.latest().await), Err(Reason::SecretNotFound));
    assert_eq!(world.secrets.labels(&db()).await.unwrap(), None);
    world.add().await;
    assert_eq!(id(&world.latest().await), Ok("1"));
    assert!(world.secrets.labels(&db()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_refusal_drops_what_was_kept() {
    for reason in [Reason::SecretNotFound, Reason::ProviderDenied] {
        let world = World::new();
        world.store.put(&db(), 1);
        world.version("1").await.unwrap();
        world.store.script().failure = Some(reason);
        assert_eq!(id(&world.latest().await), Err(reason));
        assert_eq!(id(&world.version("1").await), Err(reason), "a version outlived {reason:?}");
    }
}

#[tokio::test]
async fn a_version_refused_under_one_key_is_not_served_on_under_the_other() {
    let [latest, pinned, other] = [VersionId::Latest, VersionId::exact("2").unwrap(), VersionId::exact("1").unwrap()];
    for state in [VersionState::Disabled, VersionState::Destroyed] {
        for (kept, refused) in [(&latest, &pinned), (&pinned, &latest)] {
            let world = World::new();
            let name = db();
            let read = |version, demand| world.secrets.read(&name, version, demand);
            world.store.put(&db(), 2);
            for version in [kept, refused, &other] {
                read(version, Demand::default()).await.unwrap();
            }
            world.store.script().versions.get_mut(&db()).unwrap()[1] = state;
            let refusal = id(&read(refused, ASK).await).unwrap_err();
            assert_eq!(id(&read(kept, Demand::default()).await), Err(refusal), "{kept:?} outlived {refused:?}");
            assert_eq!(read(&other, Demand::default()).await.unwrap().source, Source::Cache);
        }
    }
}

#[tokio::test]
async fn a_refused_version_is_not_replaced_by_an_older_one_while_the_store_lags() {
    for state in [VersionState::Disabled, VersionState::Destroyed] {
        let world = World::new();
        world.store.put(&db(), 2);
        world.latest().await.unwrap();
        world.store.script().versions.get_mut(&db()).unwrap()[1] = state;
        let refusal = id(&world.version("2").await).unwrap_err();
        world.store.script().lag = 1;
        assert_eq!(id(&world.latest().await), Err(refusal));
    }
}

#[tokio::test]
async fn a_refusal_is_not_made_a_silence_by_a_second_look_that_fails() {
    let world = World::new();
    world.store.put(&db(), 2);
    world.latest().await.unwrap();
    world.store.script().versions.get_mut(&db()).unwrap()[1] = VersionState::Disabled;
    world.store.script().holds = true;
    let read = world.begin(ASK);
    for failure in [None, Some(Reason::ProviderUnavailable)] {
        until(|| world.store.held() == 1).await;
        world.store.release(0, failure);
    }
    assert_eq!(id(&read.await.unwrap()), Err(Reason::VersionDisabled));
    assert_eq!(id(&world.latest().await), Err(Reason::VersionDisabled), "what was refused is served as stale");
}

#[tokio::test]
async fn absent_versions_push_no_value_out() {
    let world = World::new();
    world.store.put(&db(), 1);
    world.latest().await.unwrap();
    for absent in 2..200 {
        world.clock.advance(Duration::from_millis(1));
        assert_eq!(id(&world.version(&absent.to_string()).await), Err(Reason::VersionNotFound));
    }
    assert_eq!(world.latest().await.unwrap().source, Source::Cache);
}

#[tokio::test]
async fn what_may_not_be_served_any_more_is_not_kept_for_the_sake_of_what_may() {
    let world = World::new();
    world.store.put(&db(), 3);
    world.store.script().padding = 10_000;
    for version in ["1", "2", "3"] {
        world.version(version).await.unwrap();
        world.clock.advance((FRESHNESS.pinned + FRESHNESS.stale) / 2);
    }
    world.secrets.tidy();
    let bytes = world.secrets.cache_accounts()[0].bytes;
    assert!((20_000..30_000).contains(&bytes), "{bytes} bytes for two versions");
}

#[tokio::test]
async fn max_age_takes_nothing_older_and_zero_asks_the_store() {
    let world = World::new();
    world.store.put(&db(), 1);
    let within = |secs| Demand { max_age: Some(Duration::from_secs(secs)), ..Demand::default() };
    world.latest().await.unwrap();
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(world.demand(within(10)).await.unwrap().source, Source::Cache);
    assert_eq!(world.demand(within(9)).await.unwrap().source, Source::Provider);
    assert_eq!(world.demand(ASK).await.unwrap().source, Source::Provider);
    assert_eq!(world.store.fetches(), 3);
}

#[tokio::test]
async fn who_asks_the_store_joins_no_load_that_began_before() {
    let world = World::new();
    world.store.put(&db(), 1);
    world.store.script().holds = true;
    let early = world.begin(Demand::default());
    until(|| world.store.held() == 1).await;
    world.store.put(&db(), 2);
    let asking: Vec<_> = (0..100).map(|_| world.begin(ASK)).collect();
    settle().await;
    assert_eq!(world.store.held(), 1, "more than one load of a key at a time");
    world.store.release(0, None);
    assert_eq!(id(&early.await.unwrap()), Ok("1"));
    until(|| world.store.held() == 1).await;
    world.store.release(0, None);
    for read in asking {
        assert_eq!(id(&read.await.unwrap()), Ok("2"));
    }
    assert_eq!(world.store.fetches(), 2, "those who asked did not share one load");
}

#[tokio::test]
async fn min_revision_is_met_or_refused() {
    let world = World::new();
    world.store.put(&db(), 1);
    world.latest().await.unwrap();
    let revision = world.add().await;
    let read = world.demand(at_least(revision)).await.unwrap();
    assert!(&*read.fetched.version.id == "2" && read.position.unwrap().revision >= revision);
    assert_eq!(world.demand(at_least(revision)).await.unwrap().source, Source::Cache);

    // Another secret's event: what was loaded before it does not meet the demand, and is no worse for others.
    let other = "stores/main/secrets/other";
    world.secrets.invalidate(&SecretName::parse(other).unwrap(), None);
    world.secrets.reach(at(5));
    assert_eq!(world.latest().await.unwrap().source, Source::Cache);
    let read = world.demand(at_least(Revision::new(5))).await.unwrap();
    assert_eq!((read.source, read.position), (Source::Provider, Some(at(5))));

    let Err(failure) = world.demand(at_least(Revision::new(6))).await else { panic!("served the future") };
    assert_eq!(failure.reason(), Reason::RevisionNotReached);
    assert!(matches!(failure.detail(), Detail::RetryAfter(_)));
    let elsewhere = Demand { epoch: "another", ..at_least(revision) };
    assert_eq!(id(&world.demand(elsewhere).await), Err(Reason::EpochChanged));
    assert_eq!(id(&world.demand(Demand { epoch: "another", ..Demand::default() }).await), Ok("2"));
    let epoch = at(5).epoch.to_string();
    assert_eq!(id(&world.demand(Demand { epoch: &epoch, ..at_least(revision) }).await), Ok("2"));
}

#[tokio::test]
async fn an_invalidation_reaches_all_versions_of_its_secret_and_no_other() {
    let world = World::new();
    let other = SecretName::parse("stores/main/secrets/other").unwrap();
    let read_other = || world.secrets.read(&other, &VersionId::Latest, Demand::default());
    world.store.put(&db(), 2);
    world.store.put(&other, 1);
    world.latest().await.unwrap();
    for version in ["1", "2"] {
        world.version(version).await.unwrap();
    }
    read_other().await.unwrap();
    world.secrets.invalidate(&db(), None);
    world.store.script().versions.insert(db(), vec![VersionState::Disabled; 2]);
    assert_eq!(id(&world.latest().await), Err(Reason::VersionDisabled));
    for version in ["1", "2"] {
        assert_eq!(id(&world.version(version).await), Err(Reason::VersionDisabled));
    }
    assert_eq!(read_other().await.unwrap().source, Source::Cache);
}

#[tokio::test]
async fn latest_is_fetched_by_its_number_while_the_store_lags_behind_what_was_confirmed() {
    let world = World::new();
    world.store.put(&db(), 1);
    world.add().await;
    world.store.script().lag = 1;
    assert_eq!(id(&world.latest().await), Ok("2"));
    // An event tells of a third, made elsewhere.
    world.store.put(&db(), 3);
    world.store.script().lag = 2;
    world.secrets.invalidate(&db(), Some(Newest { id: "3".into(), created: None }));
    assert_eq!(id(&world.latest().await), Ok("3"));
    // A fourth that nobody told of is found as soon as the store tells.
    world.store.put(&db(), 4);
    world.store.script().lag = 0;
    world.clock.advance(FRESHNESS.latest);
    assert_eq!(id(&world.latest().await), Ok("4"));
    world.store.script().lag = 2;
    world.clock.advance(FRESHNESS.latest);
    assert_eq!(id(&world.latest().await), Ok("4"), "what was read once was taken back");
}

#[tokio::test]
async fn a_pinned_secret_has_no_other_latest_and_other_versions_are_read_by_their_ids() {
    let world = World::new();
    world.store.put(&db(), 1);
    world.latest().await.unwrap();
    assert!(world.secrets.heed(&db(), withholding("1")));
    assert!(!world.secrets.heed(&db(), withholding("1")), "told twice, it is no news");
    world.store.put(&db(), 2);
    world.secrets.invalidate(&db(), None);
    assert_eq!(id(&world.latest().await), Ok("1"));
    assert_eq!(id(&world.demand(ASK).await), Ok("1"));
    assert_eq!(id(&world.version("2").await), Ok("2"));
    assert!(world.secrets.heed(&db(), Word::default()));
    world.secrets.invalidate(&db(), Some(Newest { id: "2".into(), created: None }));
    assert_eq!(id(&world.latest().await), Ok("2"));
}

#[tokio::test]
async fn after_a_gap_in_the_log_nothing_kept_is_served_and_no_revision_is_known() {
    let world = World::new();
    let other = SecretName::parse("stores/main/secrets/other").unwrap();
    world.store.put(&db(), 1);
    world.store.put(&other, 1);
    let revision = world.add().await;
    world.latest().await.unwrap();
    world.secrets.labels(&db()).await.unwrap();
    world.secrets.read(&other, &VersionId::Latest, Demand::default()).await.unwrap();
    world.store.script().holds = true;
    let read = world.begin(ASK);
    until(|| world.store.held() == 1).await;
    world.store.put(&db(), 3);
    world.secrets.begin_anew([(other.clone(), withholding("1"))].into());
    world.store.put(&other, 2);
    world.store.script().holds = false;
    world.store.release(0, None);
    assert_eq!(id(&read.await.unwrap()), Ok("3"), "the load from before the gap answered");
    assert_eq!(id(&world.secrets.read(&other, &VersionId::Latest, Demand::default()).await), Ok("1"), "not pinned");
    assert_eq!(id(&world.demand(at_least(revision)).await), Err(Reason::RevisionNotReached));
    assert_eq!(world.latest().await.unwrap().position, None);
    world.secrets.labels(&db()).await.unwrap();
    assert_eq!(world.store.script().describes, 2);
}

#[tokio::test]
async fn a_disabled_newest_version_is_not_replaced_by_an_older_one() {
    let world = World::new();
    world.store.put(&db(), 1);
    world.add().await;
    world.secrets.switch(db(), VersionId::exact("2").unwrap(), false).await.unwrap();
    world.store.script().lag = 1;
    assert_eq!(id(&world.latest().await), Err(Reason::VersionDisabled));
}

#[tokio::test]
async fn a_change_goes_on_when_its_caller_leaves_and_is_known() {
    let world = World::new();
    world.store.put(&db(), 1);
    world.latest().await.unwrap();
    world.store.script().holds = true;
    let secrets = world.secrets.clone();
    let change = tokio::spawn(async move { secrets.switch(db(), VersionId::exact("1").unwrap(), false).await.is_ok() });
    until(|| world.store.held() == 1).await;
    change.abort();
    assert!(change.await.is_err());
    world.store.script().holds = false;
    world.store.release(0, None);
    settle().await;
    assert_eq!(id(&world.latest().await), Err(Reason::VersionDisabled));
}

#[tokio::test]
async fn what_was_so_already_is_no_change_and_drops_what_is_kept() {
    let world = World::new();
    world.store.put(&db(), 1);
    world.latest().await.unwrap();
    let disable = async || world.secrets.switch(db(), VersionId::exact("1").unwrap(), false).await.unwrap().changed;
    // Disabled elsewhere, and nobody told.
    world.store.script().versions.insert(db(), vec![VersionState::Disabled]);
    assert_eq!(id(&world.latest().await), Ok("1"));
    assert!(!disable().await);
    assert_eq!(id(&world.latest().await), Err(Reason::VersionDisabled));
    world.store.put(&db(), 1);
    assert!(disable().await);
}

#[tokio::test]
async fn a_change_that_may_have_been_made_is_taken_for_made() {
    for (reason, source) in
        [(Reason::ProviderUnavailable, Source::Provider), (Reason::ProviderBudgetExhausted, Source::Cache)]
    {
        let world = World::new();
        world.store.put(&db(), 1);
        world.latest().await.unwrap();
        world.store.script().failure = Some(reason);
        let changed = world.secrets.switch(db(), VersionId::exact("1").unwrap(), true).await;
        assert_eq!(changed.unwrap_err().reason(), reason);
        world.store.script().failure = None;
        assert_eq!(world.latest().await.unwrap().source, source, "{reason:?}");
    }
}

#[tokio::test]
async fn labels_are_asked_for_once_a_life() {
    let world = World::new();
    world.store.put(&db(), 1);
    for _ in 0..100 {
        assert!(world.secrets.labels(&db()).await.unwrap().is_some());
    }
    assert_eq!(world.store.script().describes, 1);
    world.clock.advance(FRESHNESS.labels);
    world.store.script().failure = Some(Reason::ProviderThrottled);
    assert!(world.secrets.labels(&db()).await.unwrap().is_some());
    world.clock.advance(FRESHNESS.labels);
    let late = world.secrets.labels(&db()).await.unwrap_err();
    assert_eq!(late.reason(), Reason::ProviderThrottled, "policy went by labels of long ago");
    world.store.script().failure = None;
    let elsewhere = SecretName::parse("stores/none/secrets/db").unwrap();
    assert_eq!(world.secrets.labels(&elsewhere).await.unwrap(), None);
}

#[tokio::test]
async fn a_store_without_freshness_is_asked_each_time() {
    let world = World::with(Freshness::default());
    world.store.put(&db(), 1);
    for _ in 0..3 {
        assert_eq!(world.latest().await.unwrap().source, Source::Provider);
    }
    assert_eq!(world.store.fetches(), 3);
}

#[tokio::test]
async fn whoever_waits_when_the_broker_stops_is_told() {
    let world = World::new();
    world.store.script().holds = true;
    let read = world.begin(Demand::default());
    until(|| world.store.held() == 1).await;
    world.secrets.stop().await;
    assert_eq!(id(&read.await.unwrap()), Err(Reason::Draining));
    assert_eq!(id(&world.latest().await), Err(Reason::Draining));
}
