//! State in one file, for one replica.
//!
//! One thread writes. Transactions that arrive while it waits for the disk go into its next commit together, so that
//! many share one sync. Reads take the last committed state and wait for no writer.

mod blocks;
mod file;
mod history;
mod mark;
mod rows;
mod writer;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;

pub use self::file::OpenError;
use self::file::{FileError, StateFile};
use self::history::HistoryReader;
use self::writer::{Request, Writer};
use super::failure::StateError;
use super::key::{Key, Prefix};
use super::leadership::{Fence, Held, Leadership, Term};
use super::settings::EmbeddedSettings;
use super::store::{Entry, ListPage, Listing, Revision, Status, Store};
use super::txn::{Outcome, Txn};
use super::watch::Watch;
use crate::clock::SharedClock;

/// Transactions that wait for the writer; further ones wait to be among them.
const WAITING: usize = 1024;

#[derive(Debug)]
pub struct Embedded {
    file: Arc<StateFile>,
    node: String,
    revisions: watch::Receiver<Revision>,
    term: watch::Sender<Term>,
    /// Absent once closed, or when opened to be looked at.
    writer: Mutex<Option<(mpsc::Sender<Request>, JoinHandle<()>)>>,
}

impl Embedded {
    /// Opens the file, or creates it where there is none. Blocks: for start-up.
    pub fn open(settings: &EmbeddedSettings, node: &str, clock: SharedClock) -> Result<Self, OpenError> {
        let (file, revision) = StateFile::open(&settings.file)?;
        let file = Arc::new(file);
        let (published, revisions) = watch::channel(revision);
        let (requests, waiting) = mpsc::channel(WAITING);
        let writer = Writer::new(Arc::clone(&file), settings, clock, published);
        let thread = std::thread::Builder::new()
            .name("state-writer".to_owned())
            .spawn(move || writer.run(waiting))
            .map_err(|error| OpenError::Io(settings.file.clone(), error))?;
        Ok(Self {
            file,
            node: node.to_owned(),
            revisions,
            term: watch::Sender::new(Term { leader: Some(node.to_owned()), fence: Some(Fence(Held::Alone)) }),
            writer: Mutex::new(Some((requests, thread))),
        })
    }

    /// Opens a file as it lies there, while no broker has it open. Writes nothing and takes no transactions.
    pub fn inspect(path: &Path) -> Result<Self, OpenError> {
        let (file, revision) = StateFile::inspect(path)?;
        let (_, revisions) = watch::channel(revision);
        let (file, node, term) = (Arc::new(file), String::new(), watch::Sender::default());
        Ok(Self { file, node, revisions, term, writer: Mutex::new(None) })
    }

    /// A read that misses the kernel's cache waits for the disk, which the runtime's own threads must not.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&StateFile) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, StateError> {
        let file = Arc::clone(&self.file);
        spawn_blocking(move || file.attempt(work))
            .await
            .map_err(|error| StateError::unavailable("reading it was cut short", error))?
    }

    /// Takes no more transactions; the thread ends once those it has are done.
    fn end(&self) -> Option<JoinHandle<()>> {
        let (requests, thread) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        drop(requests);
        Some(thread)
    }

    fn ended(&self, joined: Option<std::thread::Result<()>>) {
        if joined.is_some_and(|joined| joined.is_err()) {
            tracing::error!("the state's writer did not end in order; report this as a bug");
        }
        self.term.send_replace(Term::default());
        self.file.close();
    }
}

impl Store for Embedded {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, StateError>> {
        let key = key.clone();
        Box::pin(self.read(move |file| rows::get(&*file.readable()?, key)))
    }

    fn list<'a>(&'a self, prefix: &'a Prefix, page: ListPage) -> BoxFuture<'a, Result<Listing, StateError>> {
        let prefix = prefix.clone();
        Box::pin(self.read(move |file| rows::list(&*file.readable()?, &prefix, &page)))
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StateError>> {
        Box::pin(async move {
            txn.check()?;
            let closed = || StateError::Unavailable("it is closed", None);
            let requests = {
                let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
                writer.as_ref().map(|(requests, _)| requests.clone()).ok_or_else(closed)?
            };
            let (answer, answered) = oneshot::channel();
            requests.send(Request { txn, answer }).await.map_err(|_| closed())?;
            // Without an answer the writer is gone, and nobody knows how far it came.
            answered.await.unwrap_or(Ok(Outcome::Unknown))
        })
    }

    fn watch(&self, prefix: Prefix, from: Revision) -> Watch {
        Watch::new(HistoryReader::new(Arc::clone(&self.file), prefix, from, self.revisions.clone()))
    }

    fn leadership(&self) -> Leadership {
        Leadership::new(self.term.subscribe())
    }

    fn status(&self) -> Status {
        Status {
            backend: "embedded",
            epoch: Some(self.file.epoch()),
            revision: *self.revisions.borrow(),
            oldest: Some(self.file.oldest()),
            nodes: vec![self.node.clone()],
            leader: self.term.borrow().leader.clone(),
            failing: self.file.failing(),
        }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let thread = self.end();
            // The last commit may take the disk a while.
            let joined = spawn_blocking(move || thread.map(JoinHandle::join)).await;
            self.ended(joined.unwrap_or_else(|error| Some(Err(Box::new(error)))));
        })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let joined = self.end().map(JoinHandle::join);
        self.ended(joined);
    }
}
