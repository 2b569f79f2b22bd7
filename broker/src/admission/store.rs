//! The policies in force. A change on disk replaces all of them at once, or nothing.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::policy::{Policies, PolicyError, Sources};
use crate::clock::{SharedClock, Timestamp};
use crate::digest::Digest;

/// A writer who pauses longer than this within a file is taken to have finished it.
const SETTLE: Duration = Duration::from_millis(200);
const READINGS: u32 = 10;

pub struct PolicyStore {
    directory: PathBuf,
    current: ArcSwap<Policies>,
    clock: SharedClock,
    progress: Mutex<Progress>,
}

#[derive(Clone, Debug)]
struct Progress {
    loaded: Timestamp,
    /// What lay on disk when it was last judged.
    judged: Fingerprint,
    /// Why what lies on disk now is not in force.
    rejected: Option<String>,
}

/// What one reading found: the hash of its sources, or why there are none.
type Fingerprint = Result<Digest, String>;

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
        let progress = Mutex::new(Progress { loaded: clock.now(), judged: Ok(policies.hash()), rejected: None });
        Ok(Self { directory, current: ArcSwap::from_pointee(policies), clock, progress })
    }

    pub fn current(&self) -> Arc<Policies> {
        self.current.load_full()
    }

    /// Takes what lies on disk, if it is new and good; tells whether the policies in force changed. Waits for the
    /// files to settle, so it must run where it may block.
    pub fn reload(&self) -> bool {
        let judged = self.progress().judged.clone();
        let read = || Sources::read(&self.directory);
        let Some(reading) = settled(&judged, read, || std::thread::sleep(SETTLE)) else { return false };
        let fingerprint = fingerprint(&reading);
        if fingerprint == Ok(self.current.load().hash()) {
            // What was refused has been taken back.
            let mut progress = self.progress();
            (progress.judged, progress.rejected) = (fingerprint, None);
            return false;
        }
        let outcome = reading.and_then(|sources| Policies::parse(&sources));
        let mut progress = self.progress();
        progress.judged = fingerprint;
        match outcome {
            Ok(policies) => {
                drop(progress);
                self.replace(Arc::new(policies));
                true
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "new policies refused; the last good ones stay in force");
                progress.rejected = Some(error);
                false
            }
        }
    }

    /// All of them at once: a decision under way ends by those that it began with.
    pub(super) fn replace(&self, policies: Arc<Policies>) {
        tracing::info!(hash = %policies.hash(), policies = policies.len(), "policies replaced");
        let mut progress = self.progress();
        (progress.loaded, progress.rejected) = (self.clock.now(), None);
        self.current.store(policies);
    }

    pub fn status(&self) -> PolicyStatus {
        let current = self.current.load();
        let progress = self.progress().clone();
        PolicyStatus {
            hash: current.hash(),
            policies: current.len(),
            loaded: progress.loaded,
            rejected: progress.rejected,
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first reading that equals the one before it; `None` where it is one judged before, or where none settles. A file
/// being rewritten is cut short at first, and policies without their last `forbid` may well be valid.
pub(super) fn settled(
    judged: &Fingerprint,
    read: impl Fn() -> Result<Sources, PolicyError>,
    pause: impl Fn(),
) -> Option<Result<Sources, PolicyError>> {
    let mut previous = fingerprint(&read());
    for _ in 0..READINGS {
        if previous == *judged {
            return None;
        }
        pause();
        let reading = read();
        let found = fingerprint(&reading);
        if found == previous {
            return Some(reading);
        }
        previous = found;
    }
    tracing::warn!("the policy files never rest long enough to be read; put each in place with a rename");
    None
}

fn fingerprint(reading: &Result<Sources, PolicyError>) -> Fingerprint {
    reading.as_ref().map(Sources::hash).map_err(chain)
}

fn chain(error: &PolicyError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl std::fmt::Debug for PolicyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicyStore").field("directory", &self.directory).field("current", &self.current()).finish()
    }
}
