//! Writing a subscriber's record, which others may be writing too.

use std::time::Duration;

use tokio::time::sleep;

use super::book::{Held, digest};
use super::record::{SUBSCRIBERS, Subscriber};
use super::{Inner, Place, place_of};
use crate::error::{Failure, Reason};
use crate::state::{Condition, Conflict, Key, Outcome, Revision, Txn};

/// Names of one caller. One more, and the one gone for longest is forgotten.
pub(super) const MAX_NAMES: usize = 20_000;
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
            let fresh = before.is_none();
            let Some(after) = edit(before)? else { return Ok(None) };
            let mut txn = Txn::new().when(unchanged(&key, revision)).put(&key, &after);
            let surplus = if fresh { self.surplus(place) } else { None };
            if let Some(surplus) = &surplus {
                // It may have come back, and then it stays.
                let key = key_of(surplus)?;
                txn = txn.when(unchanged(&key, Some(surplus.revision))).delete(&key);
            }
            match self.state.commit(txn).await? {
                Outcome::Committed(revision) => {
                    let mut book = self.book();
                    book.put(after.clone(), revision);
                    if let Some(surplus) = surplus {
                        book.remove(&place_of(&surplus.subscriber), revision);
                    }
                    drop(book);
                    self.changes.send_modify(|count| *count += 1);
                    return Ok(Some((after, revision)));
                }
                Outcome::Conflict(Conflict::Key { key: other, .. }) if other != key => {
                    if let Some(surplus) = surplus {
                        self.look_again(&surplus).await?;
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

    /// Whoever of the caller's was gone for longest, once it has too many names.
    fn surplus(&self, place: &Place) -> Option<Held> {
        let of_caller = |held: &&Held| held.subscriber.caller == place.0;
        let names: Vec<Held> = {
            let book = self.book();
            if book.names(&place.0) < MAX_NAMES {
                return None;
            }
            book.after(None).filter(of_caller).cloned().collect()
        };
        let gone = names.into_iter().filter_map(|held| Some((self.gone_since(&held.subscriber)?, held)));
        gone.min_by_key(|(since, _)| *since).map(|(_, held)| held)
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
