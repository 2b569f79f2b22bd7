use std::collections::HashMap;
use std::sync::Arc;

use super::Random;
use crate::clock::Timestamp;
use crate::names::{RotationName, SecretName};
use crate::rotation::{EventKind, Fact, Observation, Origin, Standing, VersionMark};
use crate::secrets::{VersionState, Word};

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(secs)
}

fn secret() -> SecretName {
    SecretName::parse("stores/main/secrets/db").unwrap()
}

fn mark(id: &str, created: Option<u64>) -> VersionMark {
    VersionMark { id: id.into(), created: created.map(at), state: VersionState::Enabled }
}

fn observation(fact: Fact, origin: Origin, happened: Option<u64>) -> Observation {
    Observation { fact, origin, happened: happened.map(at) }
}

fn added(id: &str) -> Observation {
    observation(Fact::VersionAdded(mark(id, None)), Origin::PubSub, None)
}

fn current(standing: &Standing) -> Option<&str> {
    standing.current().map(|version| &*version.id)
}

fn word(current: &str, withholds: bool) -> Word {
    Word { current: Some(current.into()), withholds }
}

/// What was told, and of which version.
fn told(standing: &Standing) -> Option<(EventKind, Option<&str>)> {
    standing.event().map(|event| (event.kind, event.version.as_deref()))
}

/// Observes, and says what was told of it.
fn hear(standing: &mut Standing, observation: &Observation) -> Option<(EventKind, Option<String>)> {
    let changed = standing.observe(observation, at(1_000));
    told(standing).filter(|_| changed).map(|(kind, version)| (kind, version.map(str::to_owned)))
}

const CREATES: bool = true;

fn rotating(current: &str) -> Standing {
    let mut standing = Standing::new(secret());
    standing.observe(&added(current), at(1));
    standing.begin(RotationName::from_id("a").unwrap(), CREATES, Origin::Schedule, at(2));
    standing
}

/// A life of a secret: versions that are added, disabled, enabled, destroyed; sometimes its end, and another life that
/// uses the ids again.
fn history(random: &mut Random) -> Vec<(Fact, u64)> {
    let (mut facts, mut now) = (Vec::new(), 10);
    for life in 0..=random.below(2) {
        if life > 0 {
            now += 10;
            facts.push((Fact::SecretDeleted, now));
        }
        for number in 1..=1 + random.below(4) {
            now += 10;
            let id: Arc<str> = number.to_string().into();
            facts.push((Fact::VersionAdded(mark(&id, Some(now))), now));
            for _ in 0..random.below(3) {
                now += 10;
                let id = (1 + random.below(number)).to_string().into();
                facts.push((
                    match random.below(8) {
                        0 => Fact::VersionDestroyed(id),
                        1..=3 => Fact::VersionEnabled(id),
                        4..=6 => Fact::VersionDisabled(id),
                        _ => Fact::SecretUpdated,
                    },
                    now,
                ));
            }
        }
    }
    facts
}

#[test]
fn whatever_the_order_and_however_often_each_event_is_told_once_and_the_end_is_the_same() {
    let (mut random, mut events, mut repeats, mut reordered) = (Random(7), 0, 0, 0);
    for _ in 0..20_000 {
        let facts = history(&mut random);
        let end = |order: &[usize], random: &mut Random| {
            let (mut standing, mut heard) = (Standing::new(secret()), HashMap::new());
            for &fact in order {
                let origin = [Origin::PubSub, Origin::EventGrid, Origin::Operator][random.below(3)];
                let (what, when) = &facts[fact];
                if hear(&mut standing, &observation(what.clone(), origin, Some(*when))).is_some() {
                    *heard.entry(fact).or_insert(0) += 1;
                }
            }
            let state = |version: &crate::rotation::Version| (version.id.clone(), version.created, version.state);
            let versions: Vec<_> = (1..=4).filter_map(|id| standing.version(&id.to_string()).map(state)).collect();
            ((current(&standing).map(str::to_owned), versions, standing.is_deleted()), heard)
        };
        let in_order: Vec<usize> = (0..facts.len()).collect();
        let (expected, heard) = end(&in_order, &mut random);
        events += heard.len();
        // Every fact is said once at least, in any order, and half of them again.
        let mut order = in_order.clone();
        order.extend((0..facts.len() / 2).map(|_| random.below(facts.len())));
        for place in (1..order.len()).rev() {
            order.swap(place, random.below(place + 1));
        }
        reordered += usize::from(order[..facts.len().min(order.len())] != in_order[..]);
        repeats += order.len() - facts.len();
        let (found, heard) = end(&order, &mut random);
        assert_eq!(found, expected, "{facts:?} as {order:?}");
        assert!(heard.values().all(|times| *times == 1), "{facts:?} as {order:?} told {heard:?}");
    }
    assert!(events > 50_000 && repeats > 20_000 && reordered > 10_000, "{events} {repeats} {reordered}");
}

#[test]
fn a_version_of_the_same_second_becomes_current_once_and_the_one_before_does_not_come_back() {
    let mut standing = Standing::new(secret());
    let [one, two] = ["b", "a"].map(|id| observation(Fact::VersionAdded(mark(id, Some(5))), Origin::EventGrid, None));
    assert_eq!(hear(&mut standing, &one), Some((EventKind::VersionCurrent, Some("b".into()))));
    assert_eq!(hear(&mut standing, &two), Some((EventKind::VersionCurrent, Some("a".into()))));
    assert_eq!(standing.event().unwrap().previous.as_deref(), Some("b"));
    assert_eq!(hear(&mut standing, &one), None);
    assert_eq!(current(&standing), Some("a"));
}

#[test]
fn a_poll_tells_what_nobody_told_and_repeats_nothing() {
    let mut standing = Standing::new(secret());
    let poll = |fact, happened| observation(fact, Origin::Poll, Some(happened));
    let seen = VersionMark { state: VersionState::Disabled, ..mark("3", Some(5)) };
    assert!(hear(&mut standing, &poll(Fact::VersionAdded(mark("3", Some(5))), 10)).is_some());
    assert_eq!(
        hear(&mut standing, &poll(Fact::VersionAdded(seen.clone()), 20)),
        Some((EventKind::VersionDisabled, Some("3".into())))
    );
    for repeat in [30, 40] {
        assert!(!standing.observe(&poll(Fact::VersionAdded(seen.clone()), repeat), at(repeat)));
        assert!(!standing.observe(&poll(Fact::VersionDisabled("1".into()), repeat), at(repeat)), "nobody uses it");
    }
    // It asked before somebody enabled it.
    standing.observe(&observation(Fact::VersionEnabled("3".into()), Origin::Operator, Some(60)), at(60));
    assert!(!standing.observe(&poll(Fact::VersionDisabled("3".into()), 50), at(61)));
    assert_eq!(hear(&mut standing, &poll(Fact::SecretDeleted, 70)), Some((EventKind::SecretDeleted, None)));
    assert!(!standing.observe(&poll(Fact::SecretDeleted, 80), at(80)));
}

#[test]
fn a_version_that_ends_soon_is_told_once_and_only_while_it_is_current_and_not_being_replaced() {
    let mut standing = Standing::new(secret());
    standing.observe(&added("1"), at(1));
    standing.observe(&added("2"), at(2));
    let ends = |id: &str| observation(Fact::NearExpiry(id.into()), Origin::EventGrid, None);
    assert_eq!(hear(&mut standing, &ends("1")), None);
    assert_eq!(hear(&mut standing, &ends("2")), Some((EventKind::VersionNearExpiry, Some("2".into()))));
    assert_eq!(hear(&mut standing, &ends("2")), None);
    assert_eq!(hear(&mut rotating("7"), &ends("7")), None);
}

#[test]
fn a_rotation_s_version_is_not_current_before_it_is_promoted_whoever_tells_of_it_first() {
    for early in [true, false] {
        let mut standing = rotating("7");
        assert_eq!(standing.word(), word("7", true), "withheld before there is a version");
        if early {
            assert_eq!(hear(&mut standing, &added("8")), None);
        }
        standing.added(&mark("8", None), false, at(3));
        assert_eq!(told(&standing), Some((EventKind::RotationAdvanced, Some("8"))));
        assert_eq!(hear(&mut standing, &added("8")), None);
        assert_eq!(standing.word(), word("7", true));
        assert!(standing.promote(Some(at(99)), at(4)));
        assert_eq!(told(&standing), Some((EventKind::VersionCurrent, Some("8"))));
        let event = standing.event().unwrap();
        assert_eq!((event.previous.as_deref(), event.retires), (Some("7"), Some(at(99))));
        assert_eq!(standing.word(), word("8", false));
        standing.retire(&RotationName::from_id("a").unwrap(), &"7".into(), Some(at(99)), Origin::Schedule, at(5));
        assert_eq!(told(&standing), Some((EventKind::VersionRetiring, Some("7"))));
        standing.retired(at(6));
        assert_eq!(told(&standing), Some((EventKind::VersionDisabled, Some("7"))));
        assert_eq!(standing.rotation(), None);
        assert_eq!(standing.event().unwrap().rotation, RotationName::from_id("a").ok());
    }
}

#[test]
fn an_abandoned_version_never_becomes_current_and_a_newer_one_ends_the_pin() {
    let mut standing = rotating("7");
    standing.added(&mark("8", None), false, at(3));
    standing.end(at(4));
    assert_eq!(told(&standing), Some((EventKind::RotationEnded, None)));
    assert_eq!(hear(&mut standing, &added("8")), None);
    assert_eq!(standing.word(), word("7", true));
    assert_eq!(hear(&mut standing, &added("9")), Some((EventKind::VersionCurrent, Some("9".into()))));
    assert_eq!(standing.word(), word("9", false));
}

#[test]
fn what_somebody_else_added_meanwhile_counts_and_stands_in_the_way() {
    let mut standing = rotating("7");
    hear(&mut standing, &added("8"));
    hear(&mut standing, &added("9"));
    // Of the two, 8 is the rotation's own.
    standing.added(&mark("8", None), false, at(3));
    assert_eq!(told(&standing), Some((EventKind::VersionCurrent, Some("9"))));
    assert!(!standing.promote(None, at(4)));
    assert_eq!(current(&standing), Some("9"));
    // Whoever adds through the broker is known not to be the rotation.
    let mut standing = rotating("7");
    let by_hand = Observation { origin: Origin::Operator, ..added("8") };
    assert_eq!(hear(&mut standing, &by_hand), Some((EventKind::VersionCurrent, Some("8".into()))));
}

#[test]
fn a_rotation_that_ends_without_a_version_leaves_those_of_others() {
    let mut standing = rotating("7");
    hear(&mut standing, &added("8"));
    standing.end(at(3));
    assert_eq!((standing.word(), standing.rotation()), (word("8", false), None));
}

#[test]
fn what_is_kept_of_a_secret_is_bounded_and_what_matters_stays() {
    let mut standing = rotating("7");
    standing.added(&mark("8", None), false, at(3));
    for number in 100..1_000 {
        standing.observe(&observation(Fact::VersionDisabled(format!("{number}").into()), Origin::PubSub, None), at(4));
    }
    let kept = (1..1_000).filter(|number| standing.version(&number.to_string()).is_some()).count();
    assert_eq!(kept, 32);
    assert_eq!((current(&standing), standing.version("8").is_some()), (Some("7"), true));
}

#[test]
fn the_first_version_that_a_rotation_adds_is_withheld_like_any_other() {
    let mut standing = Standing::new(secret());
    let nothing = Word { current: None, withholds: true };
    standing.begin(RotationName::from_id("a").unwrap(), CREATES, Origin::Schedule, at(2));
    assert_eq!(standing.word(), nothing);
    hear(&mut standing, &added("1"));
    standing.added(&mark("1", None), false, at(3));
    assert_eq!(standing.word(), nothing);
    assert!(standing.promote(None, at(4)));
    assert_eq!(standing.word(), word("1", false));
}

#[test]
fn a_version_that_came_late_is_withheld_even_where_it_was_taken_for_somebody_s() {
    let mut standing = rotating("7");
    standing.added(&mark("8", None), true, at(3));
    assert_eq!(hear(&mut standing, &added("9")), None, "another of its own may come");
    assert!(standing.promote(None, at(4)));
    assert_eq!(standing.word(), word("8", true));
    assert!(standing.is_undecided("9"));
    standing.withhold(&mark("9", None), at(5));
    standing.end(at(6));
    assert_eq!(standing.word(), word("8", true), "the store says 9");

    let mut standing = rotating("7");
    standing.added(&mark("8", None), false, at(3));
    assert!(standing.promote(None, at(4)));
    assert_eq!(hear(&mut standing, &added("9")), Some((EventKind::VersionCurrent, Some("9".into()))));
    standing.withhold(&mark("9", None), at(5));
    assert_eq!(told(&standing), Some((EventKind::VersionCurrent, Some("8"))), "taken back");
}

#[test]
fn while_a_version_may_come_late_those_of_others_count_once_they_are_known_to_be_theirs() {
    let mut standing = rotating("7");
    standing.added(&mark("8", None), true, at(3));
    assert!(standing.promote(None, at(4)));
    hear(&mut standing, &added("9"));
    standing.concede(&["9".into()], at(5));
    assert_eq!(told(&standing), Some((EventKind::VersionCurrent, Some("9"))));
}

#[test]
fn a_version_that_pubsub_and_the_poll_tell_of_with_two_times_is_one() {
    for pubsub_first in [true, false] {
        let mut standing = Standing::new(secret());
        let by_pubsub = observation(Fact::VersionAdded(mark("7", None)), Origin::PubSub, Some(105));
        let by_poll = observation(Fact::VersionAdded(mark("7", Some(100))), Origin::Poll, Some(110));
        let (first, second) = if pubsub_first { (by_pubsub, by_poll) } else { (by_poll, by_pubsub) };
        assert_eq!(hear(&mut standing, &first), Some((EventKind::VersionCurrent, Some("7".into()))));
        assert_eq!(hear(&mut standing, &second), None);
    }
}
