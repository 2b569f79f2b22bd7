//! The TLS material in use, and its replacement while calls go on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::files::{Files, Fingerprint};
use super::material::{Material, TlsError};
use super::settings::TlsSettings;
use super::stats::{TransportStats, count};
use crate::clock::{SharedClock, Timestamp};
use crate::digest::Digest;

/// Files are put to use only when two readings this far apart agree, so a file being written is left alone.
const SETTLE: Duration = Duration::from_millis(200);
const SETTLE_READINGS: usize = 10;

/// Certificate, key, client CAs and revocation lists: swapped together, and the last good ones stay.
#[derive(Debug)]
pub struct Tls {
    settings: TlsSettings,
    clock: SharedClock,
    stats: Arc<TransportStats>,
    generation: AtomicU64,
    state: RwLock<State>,
    /// What the last look at the files found; held while one is under way.
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct State {
    current: Arc<Material>,
    failure: Option<ReloadFailure>,
}

#[derive(Debug)]
struct Seen {
    last: Fingerprint,
    in_use: Fingerprint,
}

/// Why the files as they are now are not in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadFailure {
    pub message: String,
    pub at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct TlsStatus {
    pub generation: u64,
    pub loaded_at: Timestamp,
    /// The server certificate's own facts.
    pub thumbprint: Digest,
    pub serial: String,
    pub not_after: Timestamp,
    pub client_cas: usize,
    pub client_crls: usize,
    /// When the first of the revocation lists runs out.
    pub crl_update_due: Option<Timestamp>,
    pub warnings: Vec<String>,
    pub failure: Option<ReloadFailure>,
}

/// What a look at the files led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reload {
    Unchanged,
    Swapped {
        generation: u64,
    },
    /// The files are bad, and what was in use still is.
    Kept(ReloadFailure),
}

impl Tls {
    pub fn load(settings: &TlsSettings, clock: SharedClock) -> Result<Arc<Self>, TlsError> {
        let reading = Files::read(settings);
        let fingerprint = Fingerprint::of(&reading);
        let material = Material::build(&reading?, settings, &clock, 1)?;
        announce(&material);
        Ok(Arc::new(Self {
            settings: settings.clone(),
            clock,
            stats: Arc::default(),
            generation: AtomicU64::new(1),
            state: RwLock::new(State { current: Arc::new(material), failure: None }),
            seen: Mutex::new(Seen { last: fingerprint, in_use: fingerprint }),
        }))
    }

    pub fn current(&self) -> Arc<Material> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner).current)
    }

    /// Grows with every swap; one atomic load.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn stats(&self) -> &Arc<TransportStats> {
        &self.stats
    }

    pub(super) fn clock(&self) -> SharedClock {
        Arc::clone(&self.clock)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn status(&self) -> TlsStatus {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let material = &state.current;
        TlsStatus {
            generation: material.generation(),
            loaded_at: material.loaded_at(),
            thumbprint: material.certificate().thumbprint(),
            serial: material.certificate().serial().to_owned(),
            not_after: material.certificate().not_after(),
            client_cas: material.client_cas(),
            client_crls: material.crl_updates().len(),
            crl_update_due: material.crl_updates().iter().min().copied(),
            warnings: material.warnings().to_vec(),
            failure: state.failure.clone(),
        }
    }

    /// Looks at the files every `reload_interval` until cancelled. Contents are compared, not names or times, so a swapped
    /// symlink and a file written in place are both seen.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let look_again = async {
            loop {
                sleep(self.settings.reload_interval).await;
                self.reload().await;
            }
        };
        stop.run_until_cancelled(look_again).await;
    }

    /// Looks at the files now.
    pub async fn reload(self: &Arc<Self>) -> Reload {
        let mut seen = self.seen.lock().await;
        let Some((reading, fingerprint)) = self.settled(seen.last).await else {
            return Reload::Unchanged;
        };
        if fingerprint == seen.in_use {
            seen.last = fingerprint;
            // Someone put the old files back: what is in use is what is there, and no fault remains.
            self.write(|state| state.failure = None);
            return Reload::Unchanged;
        }
        let Some(replacement) = self.blocking(|tls| tls.replacement(&reading?)).await else {
            return Reload::Unchanged;
        };
        seen.last = fingerprint;
        match replacement {
            Ok(material) => {
                let generation = material.generation();
                seen.in_use = fingerprint;
                announce(&material);
                self.write(|state| *state = State { current: Arc::new(material), failure: None });
                // After the material, so that who sees the new number finds the new material.
                self.generation.store(generation, Ordering::Release);
                count(&self.stats.reloads);
                Reload::Swapped { generation }
            }
            Err(error) => {
                let failure = ReloadFailure { message: error.full_text(), at: self.clock.now() };
                tracing::error!(error = %failure.message, "TLS files not reloaded, the last good ones stay in use");
                count(&self.stats.reload_failures);
                self.write(|state| state.failure = Some(failure.clone()));
                Reload::Kept(failure)
            }
        }
    }

    fn replacement(&self, files: &Files) -> Result<Material, TlsError> {
        let current = self.current();
        let generation = current.generation() + 1;
        let material = Material::build(files, &self.settings, &self.clock, generation)?;
        let (new, old) = (material.certificate().not_after(), current.certificate().not_after());
        if new <= self.clock.now() && old > self.clock.now() {
            let path = self.settings.certificate.clone();
            return Err(TlsError::Expired { path, expired: new });
        }
        Ok(material)
    }

    /// What the files hold once they stop changing; `None` while they still do, or if that is what was `seen` before.
    async fn settled(self: &Arc<Self>, seen: Fingerprint) -> Option<(Result<Files, TlsError>, Fingerprint)> {
        let mut previous = self.read().await?.1;
        if previous == seen {
            return None;
        }
        for _ in 0..SETTLE_READINGS {
            sleep(SETTLE).await;
            let (reading, fingerprint) = self.read().await?;
            if fingerprint == seen {
                return None;
            }
            if fingerprint == previous {
                return Some((reading, fingerprint));
            }
            previous = fingerprint;
        }
        None
    }

    async fn read(self: &Arc<Self>) -> Option<(Result<Files, TlsError>, Fingerprint)> {
        self.blocking(|tls| {
            let reading = Files::read(&tls.settings);
            let fingerprint = Fingerprint::of(&reading);
            (reading, fingerprint)
        })
        .await
    }

    /// Runs `work` where it may block; `None` only when the runtime is shutting down.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        let tls = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&tls)).await.ok()
    }

    fn write(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
    }
}

fn announce(material: &Material) {
    tracing::info!(
        generation = material.generation(),
        thumbprint = %material.certificate().thumbprint(),
        serial = material.certificate().serial(),
        not_after = %material.certificate().not_after(),
        client_cas = material.client_cas(),
        client_crls = material.crl_updates().len(),
        "TLS files loaded"
    );
    for warning in material.warnings() {
        tracing::warn!(generation = material.generation(), warning, "TLS files in use need attention");
    }
}
