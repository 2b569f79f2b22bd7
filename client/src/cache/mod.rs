mod shelf;

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use self::shelf::{Due, Shelf};
use crate::{Client, Error, Read, Reason, Secret, Watch, WatchOptions};

/// Secrets kept in this process: for as long as the broker calls them fresh, and beyond that up to a bound while it does not
/// answer for them. Each is read once, however many wait for it, and zeroed once it is dropped. See [`Client::cache`].
pub struct SecretCache {
    client: Client,
    shelf: Arc<Mutex<Shelf>>,
    watching: Option<AbortHandle>,
}

/// What a [`SecretCache`] has of a secret.
#[derive(Clone, Debug)]
pub struct Cached {
    secret: Arc<Secret>,
    is_stale: bool,
}

/// For a broker that may not answer, while there is a value to fall back on.
const PATIENCE: Duration = Duration::from_secs(1);
/// Before a watch that was refused is tried again.
const AGAIN: Duration = Duration::from_secs(60);
const MAX_BYTES: usize = 16 << 20;

impl SecretCache {
    pub(crate) fn new(client: Client, max_stale: Duration) -> Self {
        let shelf = Arc::new(Mutex::new(Shelf::new(max_stale, MAX_BYTES)));
        Self { client, shelf, watching: None }
    }

    /// At most this much, names and values together; what was not asked for longest goes first. 16 MiB where nothing is said.
    #[must_use]
    pub fn max_bytes(self, bytes: usize) -> Self {
        self.shelf().max_bytes = bytes;
        self
    }

    /// Drops what this watch tells of: a value is then no older than its last event, as soon as that is heard.
    #[must_use]
    pub fn watching(mut self, options: WatchOptions) -> Self {
        let heeding = tokio::spawn(heed(self.client.watch(options), Arc::clone(&self.shelf)));
        if let Some(before) = self.watching.replace(heeding.abort_handle()) {
            before.abort();
        }
        self
    }

    /// A secret named as in [`Client::get_secret`]. What the broker refuses is dropped.
    pub async fn get(&self, name: &str) -> Result<Cached, Error> {
        let deadline = self.client.deadline();
        timeout(deadline, self.find(name)).await.unwrap_or_else(|_| Err(Error::Deadline(deadline, None)))
    }

    async fn find(&self, name: &str) -> Result<Cached, Error> {
        let flight = match self.shelf().find(name) {
            Ok(cached) => return Ok(cached),
            Err(due) => due.flight,
        };
        let _alone = flight.lock().await;
        // Whoever was before may have brought it.
        let due = match self.shelf().find(name) {
            Ok(cached) => return Ok(cached),
            Err(due) => due,
        };
        let reading = self.read(name, &due);
        let outcome = if due.has_fallback {
            let patience = PATIENCE.min(self.client.deadline() / 2);
            timeout(patience, reading).await.unwrap_or(Err(Error::Deadline(patience, None)))
        } else {
            reading.await
        };
        match outcome {
            Ok(secret) => Ok(self.shelf().keep(name, &due, secret)),
            Err(error) => self.shelf().fall_back(name, error),
        }
    }

    async fn read(&self, name: &str, due: &Due) -> Result<Secret, Error> {
        let (revision, epoch) = due.heard.clone().unwrap_or_default();
        match self.client.get_secret(Read::of(name).min_revision(revision, epoch)).await {
            // What was heard is of a log that is no more.
            Err(error) if error.reason() == Some(Reason::EpochChanged) => {
                self.shelf().forget_heard(name, due);
                self.client.get_secret(Read::of(name).max_age(Duration::ZERO)).await
            }
            outcome => outcome,
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        lock(&self.shelf)
    }
}

fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn heed(mut watch: Watch, shelf: Arc<Mutex<Shelf>>) {
    loop {
        match watch.next().await {
            Ok(told) => lock(&shelf).hear(&told),
            // Until then freshness alone says what may be kept.
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the cache hears of no rotations");
                sleep(AGAIN).await;
            }
        }
    }
}

impl Cached {
    /// Whether it is past what the broker called fresh: it, or the store behind it, does not answer.
    pub fn is_stale(&self) -> bool {
        self.is_stale
    }
}

impl Deref for Cached {
    type Target = Secret;

    fn deref(&self) -> &Secret {
        &self.secret
    }
}

impl Drop for SecretCache {
    fn drop(&mut self) {
        if let Some(watching) = &self.watching {
            watching.abort();
        }
    }
}

impl fmt::Debug for SecretCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretCache").field("client", &self.client).finish_non_exhaustive()
    }
}
