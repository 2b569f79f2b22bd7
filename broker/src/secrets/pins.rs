//! Which secrets' `latest` is not the store's to say: a rotation added a version that is not to be read unasked yet.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::names::SecretName;

/// Few at any time. Looked at by loads alone.
#[derive(Debug, Default)]
pub(super) struct Pins(RwLock<HashMap<SecretName, Arc<str>>>);

impl Pins {
    pub(super) fn of(&self, secret: &SecretName) -> Option<Arc<str>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(secret).cloned()
    }

    /// Whether that changes anything.
    pub(super) fn set(&self, secret: &SecretName, version: Option<Arc<str>>) -> bool {
        if self.of(secret) == version {
            return false;
        }
        let mut pins = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match version {
            Some(version) => pins.insert(secret.clone(), version),
            None => pins.remove(secret),
        };
        true
    }

    pub(super) fn replace(&self, pins: HashMap<SecretName, Arc<str>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = pins;
    }
}
