//! What the rotation log says of `latest`: a store calls a version so before its rotation has made it current.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::future::BoxFuture;

use crate::error::Failure;
use crate::names::SecretName;

/// What is on record of a secret's `latest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// The newest version that counts.
    pub current: Option<Arc<str>>,
    /// The store may have a newer one, which is not to be read unasked.
    pub withholds: bool,
}

/// The seam to the rotation log, asked where what was heard of it may not be all.
pub trait Ward: Send + Sync + std::fmt::Debug {
    /// As it is on record at this moment, at whichever replica it was put there.
    fn word<'a>(&'a self, secret: &'a SecretName) -> BoxFuture<'a, Result<Word, Failure>>;
}

/// Secrets to which rotations add versions.
#[derive(Debug)]
pub struct Guarded {
    pub secrets: HashSet<SecretName>,
    pub ward: Arc<dyn Ward>,
}

/// As far as this replica has heard. Few at any time; looked at by loads alone.
pub(super) struct Pins {
    words: RwLock<HashMap<SecretName, Word>>,
    guarded: Option<Guarded>,
}

impl Pins {
    pub(super) fn new(guarded: Option<Guarded>) -> Self {
        Self { words: RwLock::default(), guarded }
    }

    pub(super) fn of(&self, secret: &SecretName) -> Word {
        self.words.read().unwrap_or_else(PoisonError::into_inner).get(secret).cloned().unwrap_or_default()
    }

    /// Whoever can say more of this secret than was heard here.
    pub(super) fn ward(&self, secret: &SecretName) -> Option<&dyn Ward> {
        self.guarded.as_ref().filter(|guarded| guarded.secrets.contains(secret)).map(|guarded| &*guarded.ward)
    }

    /// Whether a word of this secret is kept.
    pub(super) fn keep(&self, secret: &SecretName, word: &Word) -> bool {
        word.withholds || self.ward(secret).is_some()
    }

    /// Whether that changes what `latest` is.
    pub(super) fn set(&self, secret: &SecretName, word: Word) -> bool {
        let before = self.of(secret);
        if before == word {
            return false;
        }
        let is_news = before.withholds || word.withholds;
        let mut words = self.words.write().unwrap_or_else(PoisonError::into_inner);
        if self.keep(secret, &word) {
            words.insert(secret.clone(), word);
        } else {
            words.remove(secret);
        }
        is_news
    }

    pub(super) fn replace(&self, words: HashMap<SecretName, Word>) {
        *self.words.write().unwrap_or_else(PoisonError::into_inner) = words;
    }
}
