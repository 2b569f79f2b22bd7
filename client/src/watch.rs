use std::collections::BTreeSet;
use std::mem;
use std::time::{Duration, SystemTime};

use keyferry_proto::v1::watch_rotations_response::Response;
use keyferry_proto::v1::{
    RotationBookmark, RotationEvent, RotationEventKind, RotationFilter, RotationSnapshotEntry, WatchRotationsRequest,
    WatchRotationsResponse,
};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Code, Streaming};

use crate::{Client, Error, Reason, Refusal, chance};

/// What to watch, and under which name.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions(WatchRotationsRequest);

/// What a watch tells. Events name versions; for their values see [`Told::news`].
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// All there is to what is watched: at the start, and again where events may have been missed. What was known before
    /// and is not in it is gone, or no longer for this caller.
    Snapshot(Vec<RotationSnapshotEntry>),
    /// In the order in which they happened, each once.
    Events(Vec<RotationEvent>),
}

/// Rotations as they happen; see [`Client::watch`].
#[derive(Debug)]
pub struct Watch {
    client: Client,
    request: WatchRotationsRequest,
    stream: Option<Streaming<WatchRotationsResponse>>,
    /// The parts of a snapshot that is not whole yet.
    parts: Vec<RotationSnapshotEntry>,
    /// The events told since the cursor, which a broker tells again.
    told: BTreeSet<(String, i64)>,
    not_before: Instant,
    failures: u32,
    /// The end of the credential that was last warned of.
    warned: Option<prost_types::Timestamp>,
}

/// Bookmarks come every 20 seconds: whoever hears nothing for this long has lost the broker.
const SILENCE: Duration = Duration::from_secs(50);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Told {
    /// Whether a secret may have another value than its version `known`, a full name: then the revision and its epoch that
    /// a read of it must reflect, see [`crate::Read::min_revision`].
    pub fn news(&self, secret: &str, known: &str) -> Option<(i64, String)> {
        match self {
            Self::Snapshot(entries) => {
                let entry = entries.iter().find(|entry| entry.secret == secret && entry.version != known)?;
                // Of the epoch that the broker is in.
                Some((entry.revision, String::new()))
            }
            Self::Events(events) => {
                let event = events.iter().rfind(|event| event.secret == secret && is_change(event))?;
                Some((event.revision, event.epoch.clone()))
            }
        }
    }
}

/// Whether values may be others after it.
pub(crate) fn is_change(event: &RotationEvent) -> bool {
    use RotationEventKind::{RotationAdvanced, RotationEnded, RotationStarted};
    !matches!(event.kind(), RotationStarted | RotationAdvanced | RotationEnded)
}

impl WatchOptions {
    /// One secret, `stores/{store}/secrets/{secret}`; up to 1000.
    #[must_use]
    pub fn secret(mut self, name: impl Into<String>) -> Self {
        self.filter().names.push(name.into());
        self
    }

    /// What names begin with, from `stores/` on; up to 16.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.filter().prefixes.push(prefix.into());
        self
    }

    /// Only secrets with this label; all that are given must hold.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.filter().labels.insert(key.into(), value.into());
        self
    }

    /// The name that tells this subscriber from others of the same caller: retirement of an old version waits for its
    /// acknowledgement. Without one it only looks on.
    #[must_use]
    pub fn subscriber(mut self, name: impl Into<String>) -> Self {
        self.0.subscriber = name.into();
        self
    }

    /// What happens within this time after an event comes with it.
    #[must_use]
    pub fn coalesce(mut self, window: Duration) -> Self {
        self.0.coalesce_window = window.try_into().ok();
        self
    }

    /// Goes on where another watch was; see [`Watch::cursor`].
    #[must_use]
    pub fn resume(mut self, cursor: impl Into<String>) -> Self {
        self.0.cursor = cursor.into();
        self
    }

    fn filter(&mut self) -> &mut RotationFilter {
        self.0.filter.get_or_insert_default()
    }
}

impl Watch {
    pub(crate) fn new(client: Client, options: WatchOptions) -> Self {
        Self {
            client,
            request: options.0,
            stream: None,
            parts: Vec::new(),
            told: BTreeSet::new(),
            not_before: Instant::now(),
            failures: 0,
            warned: None,
        }
    }

    /// What comes next. A lost connection, a broker that restarts or one that drains is no error: the watch goes on at
    /// another, from where it was. Errors are what waiting does not mend; asked again, it tries anew.
    ///
    /// May be dropped while it waits without missing anything.
    pub async fn next(&mut self) -> Result<Told, Error> {
        loop {
            if self.stream.is_none() {
                self.open().await?;
            }
            let Some(stream) = &mut self.stream else { continue };
            let answer = match timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(answer))) => answer,
                Ok(Ok(None)) | Err(_) => {
                    self.leave();
                    continue;
                }
                Ok(Err(status)) => {
                    self.leave();
                    self.consider(status.into())?;
                    continue;
                }
            };
            self.failures = 0;
            if let Some(told) = self.take(answer) {
                return Ok(told);
            }
        }
    }

    /// Where to go on after what [`Self::next`] told last, at any replica. Empty before the first whole snapshot.
    pub fn cursor(&self) -> &str {
        &self.request.cursor
    }

    async fn open(&mut self) -> Result<(), Error> {
        sleep_until(self.not_before).await;
        match self.client.open_watch(&self.request).await {
            Ok(stream) => {
                self.stream = Some(stream);
                Ok(())
            }
            Err(error) => self.consider(error),
        }
    }

    fn take(&mut self, answer: WatchRotationsResponse) -> Option<Told> {
        let has_cursor = !answer.cursor.is_empty();
        if has_cursor {
            self.request.cursor = answer.cursor;
        }
        let told = match answer.response {
            Some(Response::Snapshot(part)) => {
                self.parts.extend(part.entries);
                part.complete.then(|| Told::Snapshot(mem::take(&mut self.parts)))
            }
            Some(Response::Events(batch)) => {
                let events: Vec<_> = batch.events.into_iter().filter(|event| self.is_new(event)).collect();
                self.told.extend(events.iter().map(|event| (event.epoch.clone(), event.revision)));
                (!events.is_empty()).then_some(Told::Events(events))
            }
            Some(Response::Bookmark(bookmark)) => {
                self.heed(&bookmark);
                None
            }
            Some(Response::Resync(_)) => {
                self.parts.clear();
                None
            }
            // Of a newer contract.
            None => None,
        };
        if has_cursor {
            // What is before it is not told again.
            self.told.clear();
        }
        told
    }

    /// Events of one revision come together. A later one may have been told first, while the broker could not say yet
    /// whether this one is for us.
    fn is_new(&self, event: &RotationEvent) -> bool {
        !self.told.contains(&(event.epoch.clone(), event.revision))
    }

    fn heed(&mut self, bookmark: &RotationBookmark) {
        if bookmark.draining {
            let delay = bookmark.reconnect_delay.and_then(|delay| Duration::try_from(delay).ok());
            self.leave();
            self.not_before = Instant::now() + delay.unwrap_or_default();
        } else if let Some(end) = bookmark.credential_expire_time
            && self.warned.replace(end) != Some(end)
            && SystemTime::try_from(end).is_ok()
        {
            // With the credential of that moment; where it is the same still, this happens once.
            self.leave();
        }
    }

    /// What waiting mends is waited for.
    fn consider(&mut self, error: Error) -> Result<(), Error> {
        let asked = match error.refusal() {
            // Nothing can be missed that the snapshot does not tell.
            Some(Refusal { reason: Reason::InvalidCursor, .. }) if !self.request.cursor.is_empty() => {
                self.request.cursor.clear();
                None
            }
            // Another stream has this name now, and taking it back would make the two fight over it.
            Some(Refusal { reason: Reason::Conflict, .. }) => return Err(error),
            // A credential may be renewed while it is tried.
            Some(Refusal { reason: Reason::TokenExpired | Reason::CertificateExpired, .. }) if self.failures < 5 => {
                None
            }
            Some(refusal) if matches!(refusal.code, Code::Internal | Code::Aborted) => refusal.retry_delay,
            _ if !error.is_passing() => return Err(error),
            refusal => refusal.and_then(|refusal| refusal.retry_delay),
        };
        self.pause(asked);
        Ok(())
    }

    fn leave(&mut self) {
        self.stream = None;
        self.parts.clear();
        self.not_before = self.not_before.max(Instant::now());
    }

    /// As long as the broker asks, or longer after each failure; spread, so that not all come back at once.
    fn pause(&mut self, asked: Option<Duration>) {
        let grown = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        let pause = asked.unwrap_or_default().max(chance::around(grown));
        self.not_before = Instant::now() + pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_demand_the_revision_of_what_changed() {
        let entry = |version: &str| RotationSnapshotEntry {
            secret: "a".to_owned(),
            version: version.to_owned(),
            revision: 7,
            ..RotationSnapshotEntry::default()
        };
        let snapshot = Told::Snapshot(vec![entry("a/versions/2")]);
        assert_eq!(snapshot.news("a", "a/versions/1"), Some((7, String::new())));
        assert_eq!(snapshot.news("a", "a/versions/2"), None);
        let event = |revision: i64, kind: RotationEventKind| RotationEvent {
            secret: "a".to_owned(),
            revision,
            epoch: "e".to_owned(),
            kind: kind.into(),
            ..RotationEvent::default()
        };
        let current = RotationEventKind::VersionCurrent;
        let events = vec![event(8, current), event(9, current), event(10, RotationEventKind::RotationEnded)];
        assert_eq!(Told::Events(events).news("a", "a/versions/2"), Some((9, "e".to_owned())));
    }
}
