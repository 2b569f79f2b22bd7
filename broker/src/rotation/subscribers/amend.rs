//! Writing a subscriber's record, which others may be writing too.

use std::time::Duration;

use tokio::time::sleep;

use super::book::{Held, digest};
use super::record::{SUBSCRIBERS, Subscriber};
use super::{Inner, Place, place_of};
use crate::error::{Failure, Reason};
use crate::state::{Condition, Conflict, Key, Outcome, Revision, Txn};

/// Names of one caller, and what their records may take. Beyond, those gone for longest are forgotten.
pub(super) const MAX_NAMES: usize = 20_000;
pub(super) const MAX_WEIGHT: usize = 64 << 20;
/// As many as are forgotten for one.
const MAKE_ROOM: usize = 32;
/// A caller and its subscriber meet each other at worst.
const ATTEMPTS: usize = 8;
const PAUSE: Duration = Duration::from_millis(250);

impl Inner {
    /// Writes what `edit` makes of the record, which nobody else has written meanwhile.
    pub(super) async fn amend(
        &self,
        place: &Place,
        mut edit: impl FnMut(Option<Subscriber>) -> Result<Option<Subscriber>, Failure>,
    ) -> Result<Option<(Subscriber, Revision)>, Failure> {
        let key = key(place)?;
        let held = self.book().get(place).cloned();
        let mut known = held.map(|held| (Subscriber::clone(&held.subscriber), held.revision));
        for _ in 0..ATTEMPTS {
            let (before, revision) = known.unzip();
            let weight = before.as_ref().map(Subscriber::weight);
            let Some(after) = edit(before)? else { return Ok(None) };
            let mut txn = Txn::new().when(unchanged(&key, revision)).put(&key, &after);
            let surplus = self.surplus(place, weight, after.weight())?;
            for gone in &surplus {
                // It may have come back, and then it stays.
                let key = key_of(gone)?;
                txn = txn.when(unchanged(&key, Some(gone.revision))).delete(&key);
            }
            match self.state.commit(txn).await? {
                Outcome::Committed(revision) => {
                    let mut book = self.book();
                    book.put(after.clone(), revision);
                    for gone in surplus {
                        book.remove(&place_of(&gone.subscriber), revision);
                    }
                    drop(book);
                    self.changes.send_modify(|count| *count += 1);
                    return Ok(Some((after, revision)));
                }
                Outcome::Conflict(Conflict::Key { key: other, .. }) if other != key => {
                    for gone in &surplus {
                        self.look_again(gone).await?;
                    }
                }
                Outcome::Conflict(_) => {}
                // Written anew it says the same, so another try does no harm.
                Outcome::Unknown => sleep(PAUSE).await,
            }
            known = self.state.get::<Subscriber>(&key).await?.map(|stored| (stored.record, stored.revision));
        }
        let message = "the subscriber's record is being written by somebody else all the time; try again";
        Err(Failure::new(Reason::Conflict, message).retry_after(Duration::from_secs(1)))
    }

    /// Takes it off the record, unless it was heard of since. Whether it is gone.
    pub(super) async fn expel(&self, held: &Held) -> Result<bool, Failure> {
        let key = key_of(held)?;
        let txn = Txn::new().when(unchanged(&key, Some(held.revision))).delete(&key);
        match self.state.commit(txn).await? {
            Outcome::Committed(revision) => {
                self.book().remove(&place_of(&held.subscriber), revision);
                Ok(true)
            }
            Outcome::Conflict(_) | Outcome::Unknown => Ok(false),
        }
    }

    /// Whoever of the caller's was gone for longest, once it has too many names or they take too much: then fails where
    /// that makes no room.
    fn surplus(&self, place: &Place, before: Option<usize>, after: usize) -> Result<Vec<Held>, Failure> {
        let grows = after > before.unwrap_or(0);
        let fits = |names, weight| (names <= MAX_NAMES || before.is_some()) && (weight <= MAX_WEIGHT || !grows);
        let of_caller = |held: &&Held| held.subscriber.caller == place.0 && held.subscriber.name != place.1;
        let (mut names, mut weight, others) = {
            let book = self.book();
            let (names, weight) = book.load(&place.0);
            let (names, weight) = (names + 1, (weight + after).saturating_sub(before.unwrap_or(0)));
            if fits(names, weight) {
                return Ok(Vec::new());
            }
            (names, weight, book.after(None).filter(of_caller).cloned().collect::<Vec<_>>())
        };
        let gone = others.into_iter().filter_map(|held| Some((self.gone_since(&held.subscriber)?, held)));
        let mut gone: Vec<_> = gone.collect();
        gone.sort_unstable_by_key(|(since, _)| *since);
        let mut surplus = Vec::new();
        for (_, held) in gone.into_iter().take(MAKE_ROOM) {
            if fits(names, weight) {
                break;
            }
            (names, weight) = (names - 1, weight.saturating_sub(held.weight));
            surplus.push(held);
        }
        // Streams are few enough by themselves; what they are about may be much.
        if weight > MAX_WEIGHT && grows { Err(too_much(&place.0)) } else { Ok(surplus) }
    }

    async fn look_again(&self, held: &Held) -> Result<(), Failure> {
        let stored = self.state.get::<Subscriber>(&key_of(held)?).await?;
        let mut book = self.book();
        match stored {
            Some(stored) => book.put(stored.record, stored.revision),
            None => book.remove(&place_of(&held.subscriber), held.revision),
        }
        Ok(())
    }
}

fn too_much(caller: &str) -> Failure {
    let limit = format!("{} MiB for the subscribers of one caller", MAX_WEIGHT >> 20);
    let message = format!(
        "the records of {caller}'s subscribers take more than {limit}; watch by prefixes instead of many names, or use \
         fewer subscriber names"
    );
    Failure::new(Reason::QuotaExceeded, message).quota(caller.to_owned(), limit, Duration::from_secs(60))
}

fn unchanged(key: &Key, revision: Option<Revision>) -> Condition {
    revision.map_or_else(|| Condition::Absent(key.clone()), |revision| Condition::Unchanged(key.clone(), revision))
}

fn key_of(held: &Held) -> Result<Key, Failure> {
    key(&place_of(&held.subscriber))
}

fn key((caller, name): &Place) -> Result<Key, Failure> {
    Key::new(&SUBSCRIBERS, &[&digest(caller), name.as_str()]).map_err(|error| {
        Failure::new(Reason::Internal, "a subscriber has no key in the state; report this").caused_by(error)
    })
}
