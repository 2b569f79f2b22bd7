//! Records of subscribers that replicas know more or less of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::amend::MAX_NAMES;
use super::{Inner, Opening, Place, Subscriber, SubscriberName};
use crate::clock::{Clock as _, SystemClock, Timestamp};
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
