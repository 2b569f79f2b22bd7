//! The present state of what a subscriber watches, page by page.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::Semaphore;

use super::message::Entry;
use super::viewer::Viewer;
use crate::admission::Policies;
use crate::error::{Failure, Reason};
use crate::names::{SecretName, StoreName};
use crate::rotation::{Log, Position, Standing};
use crate::state::{Key, ListPage, Page as Listed};

/// Secrets looked at for one message.
const PAGE: usize = 200;
/// Secrets whose standings, or labels, are asked for at once.
const AT_ONCE: usize = 16;
/// Pages that all streams together ask the state for at once: they may all want one in the same moment, when policies
/// change or a replica is gone.
const READERS: usize = 16;

/// The log, as many may read of it what is.
#[derive(Clone, Debug)]
pub(super) struct Records {
    pub(super) log: Log,
    turns: Arc<Semaphore>,
}

/// How far it has come. What changes meanwhile is told again afterwards, since the stream goes on from where the log was
/// when the snapshot began.
#[derive(Debug)]
pub(super) struct Snapshot {
    from: Option<Position>,
    rest: Rest,
}

#[derive(Debug)]
enum Rest {
    /// From this place in the viewer's names on.
    Named(usize),
    /// What is not named, after this key.
    Open(Option<Key>),
}

#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    /// After the last page: where the stream goes on.
    pub(super) complete: Option<Position>,
    /// One of those of which it could not be found out whether the viewer may see them.
    pub(super) undecided: Option<SecretName>,
}

impl Snapshot {
    pub(super) fn begin() -> Self {
        Self { from: None, rest: Rest::Named(0) }
    }

    pub(super) async fn next(&mut self, viewer: &Viewer, records: &Records) -> Result<Page, Failure> {
        let from = match self.from {
            Some(from) => from,
            None => *self.from.insert(records.log.head().ok_or_else(state_out)?),
        };
        let (candidates, next) = match &self.rest {
            Rest::Named(at) => records.named(*at, viewer).await?,
            Rest::Open(after) => records.open(after.clone(), viewer).await?,
        };
        let mut page = judge(candidates, viewer).await;
        match next {
            Some(rest) => self.rest = rest,
            None => page.complete = Some(from),
        }
        Ok(page)
    }
}

type Candidates = (Vec<Entry>, Option<Rest>);

impl Records {
    pub(super) fn new(log: Log) -> Self {
        Self { log, turns: Arc::new(Semaphore::new(READERS)) }
    }

    /// Whether the viewer sees anything otherwise than by policies that were in force before.
    pub(super) async fn are_seen_otherwise(&self, viewer: &Viewer, before: &Policies) -> Result<bool, Failure> {
        let mut after = None;
        loop {
            let page = self.page(after, viewer, ListPage::MAX_SIZE).await?;
            let mut secrets = page.records.iter().map(|stored| stored.record.secret());
            if secrets.any(|secret| viewer.filter().takes_in(secret) && viewer.sees_otherwise_than_by(before, secret)) {
                return Ok(true);
            }
            after = page.next;
            if after.is_none() {
                return Ok(false);
            }
        }
    }

    /// A name stays in the snapshot though nothing is known of the secret yet: its reader learns that it is watched.
    async fn named(&self, at: usize, viewer: &Viewer) -> Result<Candidates, Failure> {
        let names = viewer.filter().names();
        let end = names.len().min(at + PAGE);
        let _turn = self.turns.acquire().await;
        let standings = stream::iter(names[at..end].to_vec()).map(|secret| async move {
            let standing = self.log.standing(&secret).await?;
            Ok(Entry { secret, standing: standing.map(|stored| (stored.record, stored.revision)) })
        });
        let entries: Vec<Result<Entry, Failure>> = standings.buffered(AT_ONCE).collect().await;
        let entries = entries.into_iter().collect::<Result<Vec<_>, _>>()?;
        let rest = || viewer.filter().is_open().then_some(Rest::Open(None));
        let next = if end < names.len() { Some(Rest::Named(end)) } else { rest() };
        Ok((entries, next))
    }

    async fn open(&self, after: Option<Key>, viewer: &Viewer) -> Result<Candidates, Failure> {
        let page = self.page(after, viewer, PAGE).await?;
        let is_new = |entry: &Entry| viewer.filter().names().binary_search(&entry.secret).is_err();
        let entries = page.records.into_iter().map(|stored| Entry {
            secret: stored.record.secret().clone(),
            standing: Some((stored.record, stored.revision)),
        });
        Ok((entries.filter(is_new).collect(), page.next.map(|key| Rest::Open(Some(key)))))
    }

    async fn page(&self, after: Option<Key>, viewer: &Viewer, size: usize) -> Result<Listed<Standing>, Failure> {
        let store = viewer.filter().store().and_then(|store| StoreName::from_id(store).ok());
        let _turn = self.turns.acquire().await;
        self.log.standings(store.as_ref(), ListPage { after, size }).await
    }
}

async fn judge(candidates: Vec<Entry>, viewer: &Viewer) -> Page {
    let gone = |entry: &Entry| entry.standing.as_ref().is_some_and(|(standing, _)| standing.is_deleted());
    let judged = stream::iter(candidates.into_iter().filter(|entry| !gone(entry))).map(|entry| async move {
        let seen = viewer.sees(&entry.secret).await;
        (entry, seen)
    });
    let judged: Vec<_> = judged.buffered(AT_ONCE).collect().await;
    let mut page = Page::default();
    for (entry, seen) in judged {
        match seen {
            Ok(true) => page.entries.push(entry),
            Ok(false) => {}
            Err(_) => page.undecided = Some(entry.secret),
        }
    }
    page
}

pub(super) fn state_out() -> Failure {
    let message = "the broker has not reached its state store since it was started; ask again shortly";
    Failure::new(Reason::StateUnavailable, message)
}
