//! Records of subscribers that replicas know more or less of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::amend::{MAX_NAMES, MAX_WEIGHT};
use super::{Inner, Opening, Place, Session, Stream, Subscriber, SubscriberName};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::error::Reason;
use crate::names::SecretName;
use crate::rotation::watch::Filter;
use crate::state::{Embedded, EmbeddedSettings, Revision, State};

const CALLER: &str = "x509/caller";

/// Two replicas that hear of each other's writes only when they look.
fn replicas(directory: &TempDir) -> [Inner; 2] {
    let settings = EmbeddedSettings {
        file: directory.path().join("state.redb"),
        history_age: Duration::from_secs(3600),
        history_changes: 1_000,
    };
    let state = State::new(Arc::new(Embedded::open(&settings, "one", Arc::new(SystemClock)).unwrap()));
    ["one", "two"].map(|node| {
        Inner::new(Opening {
            state: state.clone(),
            node: node.to_owned(),
            rotated: BTreeSet::new(),
            gateways: BTreeSet::new(),
            clock: Arc::new(SystemClock),
            stop: CancellationToken::new(),
        })
        .unwrap()
    })
}

fn place(name: &str) -> Place {
    (CALLER.into(), SubscriberName::parse(name).unwrap())
}

fn subscriber(name: &str, seen: Timestamp) -> Subscriber {
    let filter = Filter::new(&[], vec!["stores/".to_owned()], BTreeMap::new()).unwrap();
    Subscriber::new(CALLER.into(), SubscriberName::parse(name).unwrap(), filter, seen)
}

async fn write(replica: &Inner, name: &str, seen: Timestamp) -> Revision {
    replica.amend(&place(name), |_| Ok(Some(subscriber(name, seen)))).await.unwrap().unwrap().1
}

#[tokio::test]
async fn a_subscriber_that_came_back_unheard_is_not_expelled() {
    let directory = TempDir::new().unwrap();
    let [one, two] = replicas(&directory);
    write(&one, "back", Timestamp::from_secs(1)).await;
    write(&two, "back", SystemClock.now()).await;
    let outdated = one.book().get(&place("back")).unwrap().clone();
    assert_eq!(outdated.subscriber.last_seen, Timestamp::from_secs(1), "it has not heard");
    assert!(!one.expel(&outdated).await.unwrap());
    let current = two.book().get(&place("back")).unwrap().clone();
    assert!(two.expel(&current).await.unwrap(), "it is still there to be expelled");
}

#[tokio::test]
async fn of_too_many_names_the_one_gone_for_longest_makes_room_and_one_that_came_back_stays() {
    let directory = TempDir::new().unwrap();
    let [one, two] = replicas(&directory);
    write(&one, "back", Timestamp::from_secs(1)).await;
    write(&one, "gone", Timestamp::from_secs(2)).await;
    for number in 0..MAX_NAMES - 2 {
        one.book().put(subscriber(&format!("s{number}"), Timestamp::from_secs(3)), Revision::new(1));
    }
    write(&two, "back", SystemClock.now()).await;
    write(&one, "new", SystemClock.now()).await;
    let known = |name| one.book().get(&place(name)).is_some();
    assert_eq!(["new", "back", "gone"].map(known), [true, true, false]);
}

/// Names a thousand secrets, and so weighs much.
fn heavy(name: &str, seen: Timestamp) -> Subscriber {
    let names = (0..1_000).map(|number| SecretName::parse(&format!("stores/local/secrets/s{number}")).unwrap());
    Subscriber { filter: Filter::of(names), ..subscriber(name, seen) }
}

#[tokio::test]
async fn what_one_caller_s_records_take_is_bounded_and_those_gone_for_longest_make_room() {
    let directory = TempDir::new().unwrap();
    let [_, two] = replicas(&directory);
    let join = async |name: &'static str, seen: Timestamp| {
        let joined = two.amend(&place(name), |_| Ok(Some(heavy(name, seen)))).await;
        joined.map(drop).map_err(|failure| failure.reason())
    };
    join("gone0", Timestamp::from_secs(1)).await.unwrap();
    let each = two.book().load(CALLER).1;
    // All of these are at the other replica.
    for number in 1..MAX_WEIGHT / each {
        let (name, now) = (format!("s{number:04}"), SystemClock.now());
        let stream = Some(Stream { node: "one".to_owned(), session: Session(number as u64), since: now });
        two.book().put(Subscriber { stream, ..heavy(&name, now) }, Revision::new(1));
    }
    assert_eq!(join("more0", SystemClock.now()).await, Ok(()));
    assert!(two.book().get(&place("gone0")).is_none());
    let stream = Some(Stream { node: "one".to_owned(), session: Session(0), since: SystemClock.now() });
    two.book().put(Subscriber { stream, ..heavy("more0", SystemClock.now()) }, Revision::new(u64::MAX));
    assert_eq!(join("more1", SystemClock.now()).await, Err(Reason::QuotaExceeded));
    assert!(two.book().get(&place("more1")).is_none());
}
