//! What a subscriber sends: where it resumes, and what it wants to hear of.

use keyferry_fuzz::{Fuzz, Random, Verdict};

use super::cursor::{Cursor, Mark};
use super::filter::Filter;
use crate::names::SecretName;
use crate::state::Revision;

#[test]
fn only_what_a_broker_wrote_is_a_cursor() {
    let cursor = |epoch, policies, revision| Cursor {
        epoch: Mark::of(epoch),
        policies: Mark::of(policies),
        revision: Revision::new(revision),
    };
    let seeds = [cursor("a", "b", 0), cursor("", "a", u64::MAX), cursor("x", "x", 1 << 40)];
    // By chance alone none would pass the check at its end.
    let another = |_: &[u8], random: &mut Random| {
        let texts = ["a", "b", "", "x"];
        let revision = u64::try_from(random.below(usize::MAX)).unwrap() >> random.below(64);
        cursor(random.choose::<&str>(&texts), random.choose::<&str>(&texts), revision).encode().into_bytes()
    };
    let seeds = seeds.map(|cursor| cursor.encode().into_bytes());
    Fuzz::new("cursor").seeds(seeds).mutated_by(&another).allocating(512, 4).holds(|input| {
        let Ok(text) = str::from_utf8(input) else { return Verdict::Refused };
        let Some(cursor) = Cursor::decode(text) else { return Verdict::Refused };
        assert_eq!(cursor.encode(), text);
        Verdict::Accepted
    });
}

#[test]
fn a_filter_takes_in_what_it_names_and_nothing_of_another_store() {
    const WORDS: [&str; 6] =
        ["name stores/a/secrets/b\n", "prefix stores/", "prefix stores/a/", "label k=v\n", "\n", "="];
    let candidates = ["stores/a/secrets/b", "stores/ab/secrets/b", "stores/a-/secrets/a", "stores/b/secrets/b"]
        .map(|name| SecretName::parse(name).unwrap());
    Fuzz::new("filter").words(&WORDS).holds(|input| {
        let Ok(text) = str::from_utf8(input) else { return Verdict::Refused };
        let of = |what: &'static str| text.lines().filter_map(move |line| line.strip_prefix(what));
        let names: Vec<_> = of("name ").map(str::to_owned).collect();
        let prefixes: Vec<_> = of("prefix ").map(str::to_owned).collect();
        let labels = of("label ").filter_map(|line| line.split_once('='));
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let Ok(filter) = Filter::new(&names, prefixes, labels) else { return Verdict::Refused };
        assert!(names.iter().all(|name| filter.takes_in(&SecretName::parse(name).unwrap())));
        assert!(filter.shown().len() < 600);
        let told = serde_json::to_string(&filter).unwrap();
        assert_eq!(serde_json::from_str::<Filter>(&told).unwrap(), filter);
        for secret in candidates.iter().filter(|secret| filter.takes_in(secret)) {
            let is_named = filter.names().contains(secret);
            assert!(is_named || filter.is_open());
            assert!(is_named || filter.store().is_none_or(|store| store == secret.store_id()), "{secret}: {filter:?}");
        }
        Verdict::Accepted
    });
}
