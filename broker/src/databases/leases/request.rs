//! Calls that are sent twice: a `request_id` is remembered for an hour, with what it asked for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Inner;
use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::error::{Failure, Reason};
use crate::names::LeaseName;
use crate::state::{Condition, Key, Kind, ListPage, Prefix, Record, Revision, Txn};

static REQUESTS: Kind = Kind { name: "lease-requests", upgrades: &[] };

pub(super) const REMEMBERED: Duration = Duration::from_secs(3600);

/// A UUID of the caller's choice, and a digest of all else that the call says.
#[derive(Clone, Debug)]
pub struct RequestId {
    id: String,
    content: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    pub(super) content: String,
    /// What a mint or a renewal is about.
    pub(super) lease: Option<LeaseName>,
    pub(super) forgotten: Timestamp,
}

impl Record for Request {
    const KIND: &'static Kind = &REQUESTS;
}

/// What is known of a request's id before the call is carried out.
pub(super) struct Remembered {
    key: Key,
    /// Of the record that is there, good or outlived.
    revision: Option<Revision>,
    content: Digest,
    /// The lease of the same call, made before.
    pub(super) earlier: Option<LeaseName>,
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
}

impl Inner {
    /// A caller's ids are its own: nobody meets another's.
    pub(super) async fn remembered(&self, caller: &str, id: &RequestId) -> Result<Remembered, Failure> {
        let key = Key::new(&REQUESTS, &[&Digest::of(caller.as_bytes()).to_string(), &id.id])
            .map_err(|error| Failure::new(Reason::Internal, "a request has no key in the state").caused_by(error))?;
        let stored = self.state.get::<Request>(&key).await?;
        let mut remembered = Remembered { key, revision: None, content: id.content, earlier: None };
        let Some(stored) = stored else { return Ok(remembered) };
        remembered.revision = Some(stored.revision);
        if stored.record.forgotten <= self.clock.now() {
            return Ok(remembered);
        }
        if stored.record.content != id.content.to_string() {
            let description = "was used for another request within the last hour; choose a new one";
            return Err(Failure::bad_field(Reason::RequestIdConflict, "request_id", description));
        }
        remembered.earlier = stored.record.lease;
        Ok(remembered)
    }

    /// Outlived ones go.
    pub(super) async fn forget_requests(&self) -> Result<(), Failure> {
        let internal = |error| Failure::new(Reason::Internal, "requests have no key in the state").caused_by(error);
        let prefix = Prefix::new(&REQUESTS, &[]).map_err(internal)?;
        let mut after = None;
        loop {
            let page = self.state.list::<Request>(&prefix, ListPage { after, size: Txn::MAX_OPERATIONS }).await?;
            let now = self.clock.now();
            let mut txn = Txn::new();
            for stored in page.records.iter().filter(|stored| stored.record.forgotten <= now) {
                txn = txn.when(Condition::Unchanged(stored.key.clone(), stored.revision)).delete(&stored.key);
            }
            if !txn.writes().is_empty() {
                // Whatever changed meanwhile is looked at again by the next sweep.
                let _ = self.state.commit(txn).await?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }
}

impl Remembered {
    /// Part of the transaction that carries the call out.
    pub(super) fn write(&self, txn: Txn, lease: Option<&LeaseName>, now: Timestamp) -> Txn {
        let condition = match self.revision {
            None => Condition::Absent(self.key.clone()),
            Some(revision) => Condition::Unchanged(self.key.clone(), revision),
        };
        let record =
            Request { content: self.content.to_string(), lease: lease.cloned(), forgotten: now.plus(REMEMBERED) };
        txn.when(condition).put(&self.key, &record)
    }
}
