//! All subscribers in memory, of all replicas. The state is the truth; this follows it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::record::{Subscriber, SubscriberName};
use crate::digest::Digest;
use crate::state::Revision;

/// The caller's id, and the name it gave.
pub type Place = (Arc<str>, SubscriberName);

#[derive(Debug, Default)]
pub(super) struct Book {
    held: BTreeMap<Place, Held>,
    /// By their digests.
    callers: HashMap<String, Caller>,
}

#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) subscriber: Arc<Subscriber>,
    pub(super) revision: Revision,
    pub(super) weight: usize,
}

#[derive(Debug)]
struct Caller {
    id: Arc<str>,
    subscribers: usize,
    weight: usize,
}

impl Book {
    pub(super) fn get(&self, place: &Place) -> Option<&Held> {
        self.held.get(place)
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Ordered by caller and name.
    pub(super) fn after<'a>(&'a self, place: Option<&Place>) -> impl Iterator<Item = &'a Held> {
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        self.held.range((from, Bound::Unbounded)).map(|(_, held)| held)
    }

    /// What the state says, if it is news.
    pub(super) fn put(&mut self, subscriber: Subscriber, revision: Revision) {
        let known = self.callers.entry(digest(&subscriber.caller));
        let caller = known.or_insert_with(|| Caller { id: Arc::clone(&subscriber.caller), subscribers: 0, weight: 0 });
        let place = (Arc::clone(&caller.id), subscriber.name.clone());
        if self.held.get(&place).is_some_and(|held| held.revision > revision) {
            return;
        }
        let weight = subscriber.weight();
        caller.weight += weight;
        match self.held.insert(place, Held { subscriber: Arc::new(subscriber), revision, weight }) {
            Some(before) => caller.weight -= before.weight,
            None => caller.subscribers += 1,
        }
    }

    /// Deleted at `revision`; what was written later stays.
    pub(super) fn remove(&mut self, place: &Place, revision: Revision) {
        if self.held.get(place).is_none_or(|held| held.revision > revision) {
            return;
        }
        let Some(held) = self.held.remove(place) else { return };
        let digest = digest(&place.0);
        if let Some(caller) = self.callers.get_mut(&digest) {
            caller.subscribers -= 1;
            caller.weight -= held.weight;
            if caller.subscribers == 0 {
                self.callers.remove(&digest);
            }
        }
    }

    /// Where a record's key points to.
    pub(super) fn place(&self, digest: &str, name: &str) -> Option<Place> {
        let caller = self.callers.get(digest)?;
        Some((Arc::clone(&caller.id), SubscriberName::parse(name).ok()?))
    }

    /// How many names a caller has, and what they weigh.
    pub(super) fn load(&self, caller: &str) -> (usize, usize) {
        self.callers.get(&digest(caller)).map_or((0, 0), |caller| (caller.subscribers, caller.weight))
    }

    pub(super) fn retain(&mut self, stays: impl Fn(&Place, Revision) -> bool) {
        let gone: Vec<_> = self.held.iter().filter(|(place, held)| !stays(place, held.revision)).collect();
        let gone: Vec<_> = gone.into_iter().map(|(place, held)| (place.clone(), held.revision)).collect();
        gone.iter().for_each(|(place, revision)| self.remove(place, *revision));
    }
}

/// How the keys of records name a caller.
pub(super) fn digest(caller: &str) -> String {
    Digest::of(caller.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::names::SecretName;
    use crate::rotation::watch::Filter;

    fn subscriber(caller: &str, name: &str, seen: u64) -> Subscriber {
        let filter = Filter::new(&[], vec!["stores/".to_owned()], BTreeMap::new()).unwrap();
        Subscriber::new(caller.into(), SubscriberName::parse(name).unwrap(), filter, Timestamp::from_secs(seen))
    }

    fn names(book: &Book, after: Option<&Place>) -> Vec<String> {
        book.after(after).map(|held| format!("{}/{}", held.subscriber.caller, held.subscriber.name.as_str())).collect()
    }

    #[test]
    fn what_is_older_than_what_is_known_changes_nothing() {
        let mut book = Book::default();
        book.put(subscriber("b", "x", 2), Revision::new(2));
        book.put(subscriber("b", "x", 1), Revision::new(1));
        let place = book.place(&digest("b"), "x").unwrap();
        assert_eq!(book.get(&place).unwrap().subscriber.last_seen, Timestamp::from_secs(2));
        book.remove(&place, Revision::new(1));
        assert!(book.get(&place).is_some());
        book.remove(&place, Revision::new(3));
        assert!(book.get(&place).is_none() && book.place(&digest("b"), "x").is_none());
    }

    #[test]
    fn a_list_goes_on_after_its_last_entry() {
        let mut book = Book::default();
        for (caller, name) in [("b", "a"), ("a", "z"), ("a", "b")] {
            book.put(subscriber(caller, name, 1), Revision::new(1));
        }
        assert_eq!(names(&book, None), ["a/b", "a/z", "b/a"]);
        assert_eq!(names(&book, Some(&("a".into(), SubscriberName::parse("b").unwrap()))), ["a/z", "b/a"]);
        assert_eq!(names(&book, Some(&("a".into(), SubscriberName::parse("c").unwrap()))), ["a/z", "b/a"]);
    }

    #[test]
    fn a_caller_s_names_are_counted_while_they_are_kept() {
        let mut book = Book::default();
        for name in ["x", "y", "z"] {
            book.put(subscriber("a", name, 1), Revision::new(1));
        }
        assert_eq!((book.load("a").0, book.load("b")), (3, (0, 0)));
        book.retain(|(_, name), _| name.as_str() == "y");
        assert_eq!(names(&book, None), ["a/y"]);
        assert_eq!(book.load("a"), (1, subscriber("a", "y", 1).weight()));
        let mut grown = subscriber("a", "y", 2);
        grown.takes(SecretName::parse("stores/a/secrets/s").unwrap(), "1".into(), Timestamp::from_secs(2));
        let weight = grown.weight();
        book.put(grown, Revision::new(2));
        assert_eq!(book.load("a"), (1, weight));
    }
}
