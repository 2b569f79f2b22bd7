//! What `latest` is, for one load: the store's word, unless a rotation has added what is not to be read yet.
//!
//! The log says which version that is, and this replica may hear it late. So a version of a rotated secret that it has
//! not heard of is served only after a look at the record itself. A rotation is on record before it adds a version:
//! whoever finds the version first and looks then, finds the rotation too.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::newest::{Confirmed, Newest, fetch_latest};
use super::pins::{Pins, Ward, Word};
use super::provider::{Fetched, Provider};
use crate::error::{Failure, Reason};
use crate::names::{SecretName, VersionId};

/// A reader waits for it, who may have what was known instead.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Latest<'a> {
    pub(super) provider: &'a dyn Provider,
    pub(super) secret: &'a SecretName,
    pub(super) pins: &'a Pins,
    pub(super) confirmed: &'a Confirmed,
    /// What readers were given last.
    pub(super) read: Option<Newest>,
}

impl Latest<'_> {
    pub(super) async fn fetch(self) -> Result<Fetched, Failure> {
        let word = self.pins.of(self.secret);
        let ward = self.pins.ward(self.secret);
        if word.withholds {
            return match (self.by(&word).await, ward) {
                // Its rotation may be over, unheard of here.
                (Err(refusal), Some(ward)) if is_refusal(&refusal) => self.instead_of(refusal, ward).await,
                (fetched, _) => fetched,
            };
        }
        let fetched = self.of_store().await;
        let Some(ward) = ward else { return fetched };
        match &fetched {
            Ok(fetched) if self.is_known(&fetched.version.id, &word) => {}
            Err(failure) if !is_refusal(failure) => {}
            Ok(_) | Err(_) => return self.unheard_of(fetched, &word, ward).await,
        }
        fetched
    }

    /// The store speaks of a version that this replica has not heard of.
    async fn unheard_of(
        &self,
        fetched: Result<Fetched, Failure>,
        word: &Word,
        ward: &dyn Ward,
    ) -> Result<Fetched, Failure> {
        match self.ask(ward).await {
            Some(now) if now.withholds => self.by(&now).await,
            Some(now) => self.newer(fetched, &now, word).await,
            None if fetched.is_err() => fetched,
            None if word.current.is_some() => match self.by(word).await {
                Err(refusal) if is_refusal(&refusal) => Err(unsure(self.secret)),
                known => known,
            },
            None => Err(unsure(self.secret)),
        }
    }

    /// Nobody is adding one, so the store's is somebody's own; unless the store lags behind what is on record.
    async fn newer(&self, fetched: Result<Fetched, Failure>, now: &Word, word: &Word) -> Result<Fetched, Failure> {
        let told = fetched.as_ref().ok().map(|fetched| &fetched.version.id);
        let is_news = |current: &Arc<str>| told != Some(current) && !self.is_known(current, word);
        if !now.current.as_ref().is_some_and(is_news) {
            return fetched;
        }
        match (fetched, self.by(now).await) {
            (Ok(told), Ok(current)) if Newest::from(&told.version).is_older_than(&Newest::from(&current.version)) => {
                Ok(current)
            }
            (Err(_), Ok(current)) => Ok(current),
            (fetched, _) => fetched,
        }
    }

    /// What was read before is not taken back either.
    async fn of_store(&self) -> Result<Fetched, Failure> {
        let known = Newest::of(self.confirmed.of(self.secret), self.read.clone());
        fetch_latest(self.provider, self.secret, known).await
    }

    /// The store first, the record then: so nothing was added in between.
    async fn instead_of(&self, refusal: Failure, ward: &dyn Ward) -> Result<Fetched, Failure> {
        let fetched = self.of_store().await;
        match self.ask(ward).await {
            Some(now) if now.withholds => self.by(&now).await,
            Some(_) => fetched,
            None => Err(refusal),
        }
    }

    async fn by(&self, word: &Word) -> Result<Fetched, Failure> {
        let Some(current) = &word.current else {
            let message =
                format!("{} has no version yet that is current; its first rotation is under way", self.secret);
            return Err(Failure::new(Reason::VersionNotFound, message));
        };
        self.provider.fetch(self.secret, &VersionId::Exact(Arc::clone(current))).await
    }

    /// Told of by the log, by a call to this broker, or read before.
    fn is_known(&self, version: &Arc<str>, word: &Word) -> bool {
        let confirmed = self.confirmed.of(self.secret);
        let known = [&confirmed, &self.read].into_iter().flatten().map(|newest| &newest.id);
        known.chain(&word.current).any(|known| known == version)
    }

    async fn ask(&self, ward: &dyn Ward) -> Option<Word> {
        match timeout(PATIENCE, ward.word(self.secret)).await {
            Ok(Ok(word)) => Some(word),
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

fn is_refusal(failure: &Failure) -> bool {
    matches!(failure.reason(), Reason::VersionNotFound | Reason::VersionDisabled | Reason::VersionDestroyed)
}

fn unsure(secret: &SecretName) -> Failure {
    let message = format!(
        "whether the newest version of {secret} may be read yet is on record in the broker's state, which does not \
         answer; retry shortly, or read a version by its id"
    );
    Failure::new(Reason::StateUnavailable, message).retry_after(PATIENCE)
}
