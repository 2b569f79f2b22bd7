//! Calls that are sent twice: a `request_id` is remembered for an hour, with what it asked for and what it was answered.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::error::{Failure, Reason};
use crate::state::{Condition, Key, KeyError, Kind, ListPage, Prefix, Record, Revision, State, Txn};

static REQUESTS: Kind = Kind { name: "requests", upgrades: &[] };

const REMEMBERED: Duration = Duration::from_secs(3600);

/// A UUID of the caller's choice, and a digest of all else that the call says.
#[derive(Clone, Debug)]
pub struct RequestId {
    id: String,
    content: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    content: String,
    /// What a repetition is answered by; absent while the call is under way, or where it made nothing.
    answer: Option<String>,
    /// When it was carried out, or begun.
    written: Timestamp,
    forgotten: Timestamp,
}

impl Record for Request {
    const KIND: &'static Kind = &REQUESTS;
}

/// What is known of a request's id before the call is carried out.
#[derive(Debug)]
pub struct Remembered {
    key: Key,
    /// Of the record that is there, good or outlived.
    revision: Option<Revision>,
    content: Digest,
    /// When the same call was made before, if it was.
    pub earlier: Option<Timestamp>,
    /// What it was answered.
    pub answer: Option<String>,
}

impl RequestId {
    /// `None` for an empty one. `content`: the method, and every field that makes two calls differ.
    pub fn parse(id: &str, content: &[&[u8]]) -> Result<Option<Self>, Failure> {
        if id.is_empty() {
            return Ok(None);
        }
        let is_uuid = id.len() == 36
            && id.char_indices().all(|(at, c)| match at {
                8 | 13 | 18 | 23 => c == '-',
                _ => c.is_ascii_hexdigit(),
            });
        if !is_uuid {
            let description = "is no UUID; write one such as 9a7c1f52-0b1e-4c8a-9a53-0c2d1e4f6a7b, or leave it empty";
            return Err(Failure::bad_field(Reason::InvalidArgument, "request_id", description));
        }
        let parts: Vec<Digest> = content.iter().map(|part| Digest::of(part)).collect();
        let content = Digest::of_parts(&parts.iter().map(|part| part.0.as_slice()).collect::<Vec<_>>());
        Ok(Some(Self { id: id.to_ascii_lowercase(), content }))
    }

    /// A caller's ids are its own: nobody meets another's.
    pub async fn remembered(&self, state: &State, caller: &str, now: Timestamp) -> Result<Remembered, Failure> {
        let key = Key::new(&REQUESTS, &[&Digest::of(caller.as_bytes()).to_string(), &self.id]).map_err(no_key)?;
        let stored = state.get::<Request>(&key).await?;
        let revision = stored.as_ref().map(|stored| stored.revision);
        let known = stored.map(|stored| stored.record).filter(|request| request.forgotten > now);
        if known.as_ref().is_some_and(|request| request.content != self.content.to_string()) {
            let description = "was used for another request within the last hour; choose a new one";
            return Err(Failure::bad_field(Reason::RequestIdConflict, "request_id", description));
        }
        let earlier = known.as_ref().map(|request| request.written);
        Ok(Remembered { key, revision, content: self.content, earlier, answer: known.and_then(|known| known.answer) })
    }
}

impl Remembered {
    /// Part of the transaction that begins the call, or carries it out.
    pub fn write(&self, txn: Txn, answer: Option<&str>, now: Timestamp) -> Txn {
        let condition = match self.revision {
            None => Condition::Absent(self.key.clone()),
            Some(revision) => Condition::Unchanged(self.key.clone(), revision),
        };
        let record = Request {
            content: self.content.to_string(),
            answer: answer.map(str::to_owned),
            written: now,
            forgotten: now.plus(REMEMBERED),
        };
        txn.when(condition).put(&self.key, &record)
    }

    /// Once a write was committed at that revision, for the next one.
    pub fn written(&mut self, revision: Revision) {
        self.revision = Some(revision);
    }

    /// As if the call had never come: it made nothing, and may be repeated.
    pub fn forget(&self, txn: Txn) -> Txn {
        let txn = self.revision.into_iter().fold(txn, |txn, at| txn.when(Condition::Unchanged(self.key.clone(), at)));
        txn.delete(&self.key)
    }
}

/// Outlived ones go. For one replica to do now and then.
pub async fn forget_outlived(state: &State, now: Timestamp) -> Result<(), Failure> {
    let prefix = Prefix::new(&REQUESTS, &[]).map_err(no_key)?;
    let mut after = None;
    loop {
        let page = state.list::<Request>(&prefix, ListPage { after, size: Txn::MAX_OPERATIONS }).await?;
        let mut txn = Txn::new();
        for stored in page.records.iter().filter(|stored| stored.record.forgotten <= now) {
            txn = txn.when(Condition::Unchanged(stored.key.clone(), stored.revision)).delete(&stored.key);
        }
        if !txn.writes().is_empty() {
            // Whatever changed meanwhile is looked at again the next time.
            let _ = state.commit(txn).await?;
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// What the second of two calls hears that carry one id and come at once.
pub fn under_way() -> Failure {
    let message = "another call with this request_id is under way; repeat it in a moment to hear how it ended";
    Failure::new(Reason::Conflict, message).retry_after(Duration::from_secs(1))
}

/// What a repeat hears while nobody knows how the first ended. Whoever asks again waits as long as that has taken so far,
/// and after `until` it is carried out anew.
pub fn unheard_of(since: Duration, until: Duration) -> Failure {
    let rest = until.saturating_sub(since);
    let wait = since.max(Duration::from_secs(1)).min(rest);
    let message = format!(
        "another call with this request_id is under way, or was cut off; repeat it in {} s to hear how it ended, and after {} s \
         it is carried out anew",
        seconds(wait),
        seconds(rest)
    );
    Failure::new(Reason::Conflict, message).retry_after(wait)
}

fn seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

fn no_key(error: KeyError) -> Failure {
    Failure::new(Reason::Internal, "a request has no key in the state; report this").caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Detail;

    #[test]
    fn a_repeat_waits_as_long_as_the_first_has_taken_and_no_longer_than_it_must() {
        let until = Duration::from_secs(60);
        for (since, wait, rest) in [(0, 1, 60), (20, 20, 40), (50, 10, 10), (59, 1, 1)] {
            let failure = unheard_of(Duration::from_secs(since), until);
            assert!(matches!(failure.detail(), Detail::RetryAfter(after) if after.as_secs() == wait), "{failure:?}");
            for told in [format!("repeat it in {wait} s"), format!("after {rest} s it is carried out anew")] {
                assert!(failure.message().contains(&told), "{failure:?}");
            }
        }
    }
}
