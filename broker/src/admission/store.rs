//! The policies in force. A change on disk replaces all of them at once, or nothing.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::policy::{Policies, PolicyError};
use crate::clock::{SharedClock, Timestamp};
use crate::digest::Digest;

pub struct PolicyStore {
    directory: PathBuf,
    current: ArcSwap<Policies>,
    clock: SharedClock,
    progress: Mutex<Progress>,
}

#[derive(Clone, Debug)]
struct Progress {
    loaded: Timestamp,
    /// Why what lies on disk now is not in force.
    rejected: Option<String>,
}

#[derive(Clone, Debug)]
pub struct PolicyStatus {
    pub hash: Digest,
    pub policies: usize,
    pub loaded: Timestamp,
    pub rejected: Option<String>,
}

impl PolicyStore {
    pub fn open(directory: PathBuf, clock: SharedClock) -> Result<Self, PolicyError> {
        let policies = Policies::load(&directory)?;
        let progress = Mutex::new(Progress { loaded: clock.now(), rejected: None });
        Ok(Self { directory, current: ArcSwap::from_pointee(policies), clock, progress })
    }

    pub fn current(&self) -> Arc<Policies> {
        self.current.load_full()
    }

    /// Takes what lies on disk, if it is new and good; tells whether the policies in force changed.
    pub fn reload(&self) -> bool {
        let outcome = Policies::load(&self.directory);
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(policies) => {
                progress.rejected = None;
                if policies.hash() == self.current.load().hash() {
                    return false;
                }
                tracing::info!(hash = %policies.hash(), policies = policies.len(), "policies replaced");
                progress.loaded = self.clock.now();
                self.current.store(Arc::new(policies));
                true
            }
            Err(error) => {
                let error = error.to_string();
                if progress.rejected.as_ref() != Some(&error) {
                    tracing::error!(error, "new policies refused; the last good ones stay in force");
                    progress.rejected = Some(error);
                }
                false
            }
        }
    }

    pub fn status(&self) -> PolicyStatus {
        let current = self.current.load();
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
        PolicyStatus {
            hash: current.hash(),
            policies: current.len(),
            loaded: progress.loaded,
            rejected: progress.rejected,
        }
    }
}

impl std::fmt::Debug for PolicyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicyStore").field("directory", &self.directory).field("current", &self.current()).finish()
    }
}
