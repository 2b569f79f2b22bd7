//! Following the state's history: it fills the ring and sees to it that no secret is served from before its change.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{interval, sleep};

use super::event::{Event, EventKind};
use super::log::Log;
use super::ring::Change;
use super::standing::{SECRETS, Standing};
use crate::error::{Failure, Reason};
use crate::names::{SecretName, StoreName};
use crate::secrets::{Newest, Secrets};
use crate::state::{Batch, Epoch, Key, ListPage, Position, Prefix, Revision, WatchEnd, Watched};

/// Before the state is tried again.
const PAUSE: Duration = Duration::from_millis(250);
/// How often the state is asked whether it is still the same history: a watch alone does not tell.
const PROBE: Duration = Duration::from_secs(5);
/// Revisions of before the start that the ring is filled from at most.
const REACH_BACK: u64 = 100_000;

/// Why following must begin anew.
enum End {
    Failed(Failure),
    /// There is a gap.
    Compacted,
    Replaced,
}

struct Follower {
    log: Log,
    secrets: Secrets,
    prefix: Prefix,
    /// Of the history that was followed so far.
    known: Option<Epoch>,
}

/// Where following begins.
struct Start {
    epoch: Epoch,
    /// The first revision to be told.
    from: Revision,
    /// The present, which is known without being told.
    base: Revision,
    /// The last revision up to `base` that changed a secret.
    last: Revision,
}

impl Log {
    /// For as long as the broker lives. While the state is out, secrets are served on by what was known before.
    pub async fn follow(self, secrets: Secrets) {
        let Ok(prefix) = Prefix::new(&SECRETS, &[]) else { return };
        let mut follower = Follower { log: self, secrets, prefix, known: None };
        let mut failing = false;
        loop {
            let end = follower.run().await;
            let fails = matches!(end, End::Failed(_));
            match end {
                End::Failed(failure) if !failing => {
                    tracing::warn!(cause = failure.cause(), "the rotation log cannot be followed for now: {failure}");
                }
                End::Failed(_) => {}
                End::Compacted => tracing::warn!("the state's history was compacted before it was followed to its end"),
                End::Replaced => tracing::warn!("the state's history was replaced by another"),
            }
            failing = fails;
            sleep(PAUSE).await;
        }
    }
}

impl Follower {
    async fn run(&mut self) -> End {
        match self.begin().await {
            Ok(start) => self.tail(start).await,
            Err(failure) => End::Failed(failure),
        }
    }

    /// Learns the present. What was cached may have changed unheard.
    async fn begin(&mut self) -> Result<Start, Failure> {
        let (mut base, mut last, mut after) = (None, Revision::default(), None);
        let mut words = HashMap::new();
        loop {
            let page = self.log.standings(None, ListPage { after, size: ListPage::MAX_SIZE }).await?;
            base = base.or(Some(page.revision));
            for stored in page.records {
                last = last.max(stored.revision);
                let standing = stored.record;
                let word = standing.word();
                if self.secrets.keeps(standing.secret(), &word) {
                    words.insert(standing.secret().clone(), word);
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let (base, status) = (base.unwrap_or_default(), self.log.state().status());
        let epoch = status.epoch.ok_or_else(no_epoch)?;
        // Readers may come back with cursors from before this process began.
        let past = status.oldest.unwrap_or_default().max(Revision::new(base.get().saturating_sub(REACH_BACK)));
        let from = if self.known.is_none() { past.max(Revision::new(1)).min(base.next()) } else { base.next() };
        self.secrets.begin_anew(words);
        self.log.ring().begin(epoch, before(from));
        self.known = Some(epoch);
        Ok(Start { epoch, from, base, last })
    }

    async fn tail(&mut self, start: Start) -> End {
        let Start { epoch, mut from, base, last } = start;
        let mut filled = last < from;
        if filled {
            self.reach(epoch, base, true);
        }
        let mut probe = interval(PROBE);
        loop {
            let mut watch = self.log.state().watch(epoch, self.prefix.clone(), from);
            let end = loop {
                let watched = tokio::select! {
                    watched = watch.next() => watched,
                    _ = probe.tick() => {
                        if self.is_replaced(epoch).await {
                            return End::Replaced;
                        }
                        continue;
                    }
                };
                let (revision, told) = match watched {
                    Ok(Watched::Batch(batch)) => (batch.revision, self.heed(&batch, batch.revision > base)),
                    Ok(Watched::Progress(revision)) => (revision, false),
                    Err(end) => break end,
                };
                from = revision.next();
                if filled {
                    self.reach(epoch, revision, told);
                } else if revision >= last {
                    filled = true;
                    self.reach(epoch, revision.max(base), true);
                }
            };
            match end {
                // The past is shorter than it was thought to be.
                WatchEnd::Compacted { oldest } if !filled && from < oldest && oldest <= base.next() => {
                    from = oldest;
                    self.log.ring().begin(epoch, before(from));
                    if last < from {
                        filled = true;
                        self.reach(epoch, base, true);
                    }
                }
                WatchEnd::Compacted { .. } => return End::Compacted,
                WatchEnd::Replaced => return End::Replaced,
                WatchEnd::Unavailable(error) => {
                    tracing::debug!(%error, "the rotation log is watched anew");
                    sleep(PAUSE).await;
                    if self.is_replaced(epoch).await {
                        return End::Replaced;
                    }
                }
            }
        }
    }

    /// The caches first, then those who read the log, so that whoever hears of a version can read it. Whether there was
    /// something to hear.
    fn heed(&self, batch: &Batch, news: bool) -> bool {
        let (mut events, mut committed) = (Vec::new(), None);
        for change in &batch.changes {
            let standing = self.log.state().changed::<Standing>(change);
            if news && let Some(secret) = named(&change.key) {
                self.serve_by(&secret, standing.as_ref());
            }
            if let Some(standing) = standing {
                committed = Some(standing.committed);
                events.extend(standing.event().cloned());
            }
        }
        match committed.filter(|_| !events.is_empty()) {
            None => false,
            Some(committed) => {
                let (revision, events) = (batch.revision, events.into());
                self.log.ring().push(Change { revision, committed, events, encoded: OnceLock::new() });
                true
            }
        }
    }

    /// Where the record is gone or cannot be read, whatever is cached may be wrong.
    fn serve_by(&self, secret: &SecretName, standing: Option<&Standing>) {
        let event = standing.and_then(Standing::event);
        let is_news = self.secrets.heed(secret, standing.map(Standing::word).unwrap_or_default());
        if standing.is_some() && !is_news && !event.is_some_and(concerns_readers) {
            return;
        }
        let added = standing.filter(|_| event.is_some_and(|event| event.kind == EventKind::VersionCurrent));
        let newest = added.and_then(Standing::current).map(Newest::from);
        self.secrets.invalidate(secret, newest);
    }

    fn reach(&self, epoch: Epoch, revision: Revision, told: bool) {
        let position = Position { epoch, revision };
        self.secrets.reach(position);
        self.log.reach(position, told);
    }

    /// Asks, so that a history that went back is noticed.
    async fn is_replaced(&self, epoch: Epoch) -> bool {
        // What it answers matters less than that it answers.
        let _ = self.log.standings(None, ListPage { after: None, size: 1 }).await;
        self.log.state().status().epoch.is_some_and(|now| now != epoch)
    }
}

fn concerns_readers(event: &Event) -> bool {
    match event.kind {
        EventKind::VersionCurrent
        | EventKind::VersionEnabled
        | EventKind::VersionDisabled
        | EventKind::VersionDestroyed
        | EventKind::SecretDeleted
        | EventKind::SecretUpdated => true,
        EventKind::VersionRetiring
        | EventKind::VersionNearExpiry
        | EventKind::RotationStarted
        | EventKind::RotationAdvanced
        | EventKind::RotationEnded => false,
    }
}

fn named(key: &Key) -> Option<SecretName> {
    let mut segments = key.segments();
    let (store, secret) = (segments.next()?, segments.next()?);
    StoreName::from_id(&store).ok()?.secret(&secret).ok()
}

fn before(revision: Revision) -> Revision {
    Revision::new(revision.get().saturating_sub(1))
}

fn no_epoch() -> Failure {
    let message = "the broker's state has not said which history it keeps; retry shortly";
    Failure::new(Reason::StateUnavailable, message)
}
