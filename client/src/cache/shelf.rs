use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Cached;
use crate::watch::is_change;
use crate::{Error, Secret, Told, chance, clock};

/// What is kept, by the name that was asked for.
pub(super) struct Shelf {
    entries: HashMap<String, Entry>,
    max_stale: Duration,
    pub(super) max_bytes: usize,
    /// Counts what is asked for, to tell what was not for longest.
    asked: u64,
}

#[derive(Default)]
struct Entry {
    held: Option<Held>,
    /// Of the last change that was told: its revision and epoch.
    heard: Option<(i64, String)>,
    flight: Arc<Flight>,
    asked: u64,
}

struct Held {
    secret: Arc<Secret>,
    fresh_until: Instant,
    stale_until: Instant,
    /// Since the broker did not answer, it is left alone until then.
    rest_until: Instant,
}

/// Whoever reads a secret holds it; the others wait for it.
pub(super) type Flight = tokio::sync::Mutex<()>;

/// What has to be read.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) flight: Arc<Flight>,
    pub(super) heard: Option<(i64, String)>,
    pub(super) has_fallback: bool,
}

const REST: Duration = Duration::from_secs(5);
/// What an entry takes beside its name and value.
const OVERHEAD: usize = 512;
/// So that no sum of times overflows.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Shelf {
    pub(super) fn new(max_stale: Duration, max_bytes: usize) -> Self {
        Self { entries: HashMap::new(), max_stale: max_stale.min(LONGEST), max_bytes, asked: 0 }
    }

    pub(super) fn find(&mut self, name: &str) -> Result<Cached, Due> {
        self.asked += 1;
        let entry = self.entries.entry(name.to_owned()).or_default();
        entry.asked = self.asked;
        let now = Instant::now();
        entry.held.take_if(|held| now >= held.stale_until);
        match &entry.held {
            Some(held) if now < held.fresh_until || now < held.rest_until => Ok(held.cached(now)),
            held => {
                Err(Due { flight: Arc::clone(&entry.flight), heard: entry.heard.clone(), has_fallback: held.is_some() })
            }
        }
    }

    /// Kept, unless a change was told meanwhile that it does not reflect.
    pub(super) fn keep(&mut self, name: &str, due: &Due, secret: Secret) -> Cached {
        let now = Instant::now();
        let held = Held::new(secret, self.max_stale, now);
        let cached = held.cached(now);
        if let Some(entry) = self.entries.get_mut(name)
            && Arc::ptr_eq(&entry.flight, &due.flight)
            && entry.heard.as_ref().is_none_or(|heard| reflects(&held.secret, heard))
        {
            entry.held = Some(held);
        }
        self.tidy(now);
        cached
    }

    /// The last value, where the failure may pass and nothing was told of a change. A refusal is the end of it.
    pub(super) fn fall_back(&mut self, name: &str, error: Error) -> Result<Cached, Error> {
        let now = Instant::now();
        let Some(entry) = self.entries.get_mut(name) else { return Err(error) };
        match entry.held.take_if(|held| now >= held.stale_until || !error.is_passing()) {
            Some(_) => Err(error),
            None => entry.held.as_mut().map_or(Err(error), |held| {
                held.rest_until = now + chance::around(REST);
                Ok(held.cached(now))
            }),
        }
    }

    pub(super) fn forget_heard(&mut self, name: &str, due: &Due) {
        if let Some(entry) = self.entries.get_mut(name)
            && entry.heard == due.heard
        {
            entry.heard = None;
        }
    }

    pub(super) fn hear(&mut self, told: &Told) {
        match told {
            // Changes may have been missed. What is being read now is not kept either.
            Told::Snapshot(_) => self.entries.clear(),
            Told::Events(events) => {
                for event in events.iter().filter(|event| is_change(event)) {
                    let concerned = self.entries.iter_mut().filter(|(name, _)| without_version(name) == event.secret);
                    concerned.for_each(|(_, entry)| entry.hear((event.revision, event.epoch.clone())));
                }
            }
        }
    }

    /// What is past its bound goes, and what was not asked for longest where there is too much.
    fn tidy(&mut self, now: Instant) {
        self.entries.retain(|_, entry| {
            entry.held.take_if(|held| now >= held.stale_until);
            // Whoever flies has a share of it.
            entry.held.is_some() || entry.heard.is_some() || Arc::strong_count(&entry.flight) > 1
        });
        let mut bytes: usize = self.entries.iter().map(|(name, entry)| entry.weight(name)).sum();
        if bytes <= self.max_bytes {
            return;
        }
        let mut oldest: Vec<_> = self.entries.iter().map(|(name, entry)| (entry.asked, name.clone())).collect();
        oldest.sort_unstable();
        for (_, name) in oldest {
            if bytes <= self.max_bytes {
                return;
            }
            bytes -= self.entries.remove(&name).map_or(0, |entry| entry.weight(&name));
        }
    }
}

impl Entry {
    /// Events of one epoch may come in another order than they happened in.
    fn hear(&mut self, change: (i64, String)) {
        let is_older = self.heard.as_ref().is_some_and(|heard| heard.1 == change.1 && heard.0 > change.0);
        if !is_older {
            self.held.take_if(|held| !reflects(&held.secret, &change));
            self.heard = Some(change);
        }
    }

    fn weight(&self, name: &str) -> usize {
        OVERHEAD + name.len() + self.held.as_ref().map_or(0, |held| held.secret.payload.len())
    }
}

impl Held {
    fn new(secret: Secret, max_stale: Duration, now: Instant) -> Self {
        // By a clock that is behind the broker's it is fresh for no longer than it was when it was loaded.
        let (fresh, at_most) = match (secret.fresh_until_time, secret.load_time) {
            (Some(end), Some(load)) => (Some(end), end.duration_since(load).unwrap_or_default().min(LONGEST)),
            (end, _) => (end, Duration::ZERO),
        };
        let life = secret.expire_time.map_or(LONGEST, clock::until);
        let end = |stale: Duration| {
            let end = fresh.and_then(|end: SystemTime| end.checked_add(stale)).map_or(Duration::ZERO, clock::until);
            now + end.min(at_most + stale).min(life)
        };
        let (fresh_until, stale_until) = (end(Duration::ZERO), end(max_stale));
        Self { secret: Arc::new(secret), fresh_until, stale_until, rest_until: now }
    }

    fn cached(&self, now: Instant) -> Cached {
        Cached { secret: Arc::clone(&self.secret), is_stale: now >= self.fresh_until }
    }
}

/// Of another epoch nothing can be said.
fn reflects(secret: &Secret, (revision, epoch): &(i64, String)) -> bool {
    secret.epoch == *epoch && secret.revision >= *revision
}

fn without_version(name: &str) -> &str {
    name.split_once("/versions/").map_or(name, |(secret, _)| secret)
}

#[cfg(test)]
mod tests {
    use keyferry_proto::v1::{GetSecretResponse, RotationEvent, RotationEventKind};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn secret(revision: i64, fresh: Duration, loaded_before: Duration) -> Secret {
        let payload = vec![b'x'; 1000];
        let until = clock::now() + fresh;
        Secret::from_answer(GetSecretResponse {
            name: "stores/a/secrets/b/versions/1".to_owned(),
            payload_crc32c: crc32c::crc32c(&payload).into(),
            payload: payload.into(),
            load_time: Some((until - loaded_before).into()),
            fresh_until_time: Some(until.into()),
            revision,
            epoch: "e".to_owned(),
            ..GetSecretResponse::default()
        })
        .unwrap()
    }

    fn fresh(revision: i64) -> Secret {
        secret(revision, HOUR, HOUR)
    }

    fn due(shelf: &mut Shelf, name: &str) -> Due {
        shelf.find(name).unwrap_err()
    }

    fn fill(shelf: &mut Shelf, name: &str, secret: Secret) {
        let due = due(shelf, name);
        shelf.keep(name, &due, secret);
    }

    fn told(secret: &str, revision: i64) -> Told {
        let mut event = RotationEvent { secret: secret.to_owned(), revision, epoch: "e".into(), ..Default::default() };
        event.set_kind(RotationEventKind::VersionCurrent);
        Told::Events(vec![event])
    }

    #[test]
    fn keeps_what_was_asked_for_last_within_its_bytes() {
        let mut shelf = Shelf::new(HOUR, 4 * (1000 + OVERHEAD + 10));
        for number in 0..10 {
            fill(&mut shelf, &number.to_string(), fresh(1));
            assert!(shelf.find("0").is_ok(), "it is asked for again and again");
        }
        assert_eq!(shelf.entries.len(), 4);
        assert!(shelf.find("9").is_ok() && shelf.find("5").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_behind_keeps_nothing_fresh_for_longer_than_it_was_when_it_was_loaded() {
        let mut shelf = Shelf::new(Duration::ZERO, 1 << 20);
        fill(&mut shelf, "a", secret(1, 2 * HOUR, HOUR / 2));
        tokio::time::advance(HOUR / 2).await;
        assert!(shelf.find("a").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_past_its_bound_is_no_longer_held() {
        let mut shelf = Shelf::new(HOUR, 1 << 20);
        fill(&mut shelf, "a", fresh(1));
        tokio::time::advance(2 * HOUR).await;
        fill(&mut shelf, "b", fresh(1));
        assert!(!shelf.entries.contains_key("a"));
    }

    #[test]
    fn a_value_read_before_a_change_is_neither_kept_nor_fallen_back_on() {
        let mut shelf = Shelf::new(HOUR, 1 << 20);
        for name in ["a", "a/versions/1"] {
            let flying = due(&mut shelf, name);
            shelf.hear(&told("a", 7));
            shelf.hear(&told("a", 6));
            shelf.keep(name, &flying, fresh(6));
            let next = due(&mut shelf, name);
            assert_eq!((next.has_fallback, next.heard.clone()), (false, Some((7, "e".to_owned()))));
            shelf.keep(name, &next, fresh(7));
            assert!(shelf.find(name).is_ok());
        }
        let flying = due(&mut shelf, "b");
        shelf.hear(&Told::Snapshot(Vec::new()));
        due(&mut shelf, "b");
        shelf.keep("b", &flying, fresh(1));
        assert!(shelf.find("b").is_err(), "changes may have been missed since its reading began");
    }

    #[test]
    fn a_failure_that_may_pass_is_answered_from_what_is_held_and_a_refusal_ends_it() {
        let mut shelf = Shelf::new(HOUR, 1 << 20);
        fill(&mut shelf, "a", secret(1, Duration::ZERO, HOUR));
        assert!(due(&mut shelf, "a").has_fallback);
        assert!(shelf.fall_back("a", Error::Deadline(HOUR, None)).unwrap().is_stale());
        assert!(shelf.find("a").unwrap().is_stale(), "the broker is left alone for a while");
        assert!(shelf.fall_back("a", Error::NoPassword("a".to_owned())).is_err());
        assert!(!due(&mut shelf, "a").has_fallback);
    }
}
