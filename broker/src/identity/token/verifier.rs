//! From a bearer token to a [`Token`], in the order in which nothing unproven is believed.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::cache::Cache;
use super::claims::Claims;
use super::compact::{Compact, MAX_TOKEN, TOO_LONG};
use super::issuer::{Issuer, IssuerStatus, KeysInForce};
use super::json::{self, Json};
use super::jwk::Key;
use super::key_set::Candidates;
use super::mark::{Mark, Marker};
use super::registered::Registered;
use super::rejection::{Quoted, Rejection};
use super::settings::{IssuerError, IssuerSettings};
use super::verified::{Signer, Token};
use crate::clock::SharedClock;
use crate::digest::Digest;

/// For verified tokens: some 33,000 of a usual size.
const MAX_CACHED_BYTES: usize = 48 * 1024 * 1024;

/// Dropping it ends its tasks.
pub struct TokenVerifier {
    issuers: Vec<Arc<Issuer>>,
    by_url: HashMap<String, usize>,
    cache: Cache,
    marker: Marker,
    clock: SharedClock,
    changed: watch::Sender<u64>,
    tasks: Mutex<JoinSet<()>>,
}

/// A refusal that newer keys may turn around is told apart.
pub(super) enum Refusal {
    Final(Rejection),
    Keys { issuer: usize, rejection: Rejection },
}

impl TokenVerifier {
    /// Starts fetching keys and does not wait for them: an issuer that is down now must not keep the broker from
    /// serving the callers of the others.
    pub async fn start(issuers: Vec<IssuerSettings>, clock: SharedClock) -> Result<Arc<Self>, IssuerError> {
        IssuerSettings::check_all(&issuers)?;
        let changed = watch::Sender::new(0);
        let issuers: Vec<_> = issuers
            .into_iter()
            .map(|settings| Arc::new(Issuer::new(settings, Arc::clone(&clock), changed.clone())))
            .collect();
        for issuer in &issuers {
            issuer.load_pinned().await?;
        }
        let tasks = issuers.iter().map(|issuer| Arc::clone(issuer).keep_fresh()).collect();
        let by_url = issuers.iter().enumerate().map(|(index, issuer)| (issuer.settings.url.clone(), index)).collect();
        let cache = Cache::new(MAX_CACHED_BYTES);
        Ok(Arc::new(Self { issuers, by_url, cache, marker: Marker::new(), clock, changed, tasks: Mutex::new(tasks) }))
    }

    /// Waits only where the token's key is not among those in force and a fetch may bring it.
    pub async fn verify(&self, bearer: &str) -> Result<Arc<Token>, Rejection> {
        // Before any work is done on it.
        if bearer.len() > MAX_TOKEN {
            return Err(TOO_LONG);
        }
        let mark = self.marker.mark(bearer);
        if let Some(token) = mark.and_then(|mark| self.cached(&mark)) {
            return Ok(token);
        }
        let token = match self.check(bearer) {
            Err(Refusal::Keys { issuer, .. }) => {
                self.issuers[issuer].ask_for_keys().await;
                self.check(bearer)
            }
            other => other,
        };
        let token = Arc::new(token?);
        if let Some(mark) = mark {
            self.cache.insert(mark, &token, self.clock.now());
        }
        Ok(token)
    }

    /// For an open stream: whether the token that opened it would be accepted still.
    pub fn recheck(&self, token: &Token) -> Result<(), Rejection> {
        let issuer = &self.issuers[token.signer.issuer];
        let now = self.clock.now();
        if token.ends() <= now {
            let ago = now.since(token.expires()).as_secs();
            return Err(Rejection::Expired { ago, now, leeway: issuer.settings.leeway.as_secs() });
        }
        if self.stands(token) {
            return Ok(());
        }
        let name = issuer.settings.name.clone();
        Err(match issuer.keys() {
            None => Rejection::KeysUnavailable { issuer: name },
            Some(_) => Rejection::KeyWithdrawn { issuer: name },
        })
    }

    /// Changes whenever some issuer's keys do: the moment to [recheck](Self::recheck) what is open.
    pub fn key_changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Fetches every issuer's keys now, and returns when that is done or has taken too long.
    pub async fn refresh(&self) {
        let mut refreshes: JoinSet<()> =
            self.issuers.iter().map(Arc::clone).map(|issuer| async move { issuer.refresh().await }).collect();
        while refreshes.join_next().await.is_some() {}
    }

    pub fn status(&self) -> Vec<IssuerStatus> {
        self.issuers.iter().map(|issuer| issuer.status()).collect()
    }

    /// How many verified tokens are kept, and the bytes that they take.
    pub fn cached_tokens(&self) -> (usize, usize) {
        self.cache.size()
    }

    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }

    fn cached(&self, mark: &Mark) -> Option<Arc<Token>> {
        let token = self.cache.get(mark, self.clock.now())?;
        if self.stands(&token) {
            return Some(token);
        }
        self.cache.remove(mark);
        None
    }

    /// Whether the key that signed it is in force.
    fn stands(&self, token: &Token) -> bool {
        let signer = &token.signer;
        self.issuers[signer.issuer].keys_hold(|keys| {
            if signer.is_confirmed(keys.generation) {
                return true;
            }
            let holds = keys.set.contains(&signer.key);
            if holds {
                signer.confirm(keys.generation);
            }
            holds
        })
    }

    /// With the keys in force now.
    pub(super) fn check(&self, bearer: &str) -> Result<Token, Refusal> {
        let compact = Compact::parse(bearer)?;
        let payload = json::read_object(&compact.payload)
            .map_err(|error| Rejection::Malformed(format!("its payload is {error}").into()))?;
        // Read before it is proven, to find the keys that prove it.
        let index = self.issuer(payload.get("iss"))?;
        let issuer = &self.issuers[index];
        let settings = &issuer.settings;
        if !settings.algorithms.contains(&compact.algorithm) {
            let (issuer, algorithm) = (settings.name.clone(), compact.algorithm);
            return Err(Rejection::AlgorithmNotAllowed { issuer, algorithm }.into());
        }
        let Some(keys) = issuer.keys() else {
            let rejection = Rejection::KeysUnavailable { issuer: settings.name.clone() };
            return Err(Refusal::Keys { issuer: index, rejection });
        };
        let key = signing_key(index, issuer, &keys, &compact)?;
        let registered = Registered::check(&payload, settings, self.clock.now())?;
        let claims = Claims::flatten(&payload)?;
        let signer = Signer::new(index, key.fingerprint(), keys.generation);
        Ok(Token::new(settings, registered, claims, Digest::of(bearer.as_bytes()), signer))
    }

    fn issuer(&self, seen: Option<&Json>) -> Result<usize, Rejection> {
        let seen = seen
            .and_then(Json::as_str)
            .ok_or(Rejection::Malformed("it has no iss, or one that is not a string".into()))?;
        self.by_url
            .get(seen)
            .copied()
            .ok_or_else(|| Rejection::IssuerUnknown { seen: Quoted::new(seen), resembles: self.resembling(seen) })
    }

    fn resembling(&self, seen: &str) -> Option<String> {
        let essence = |url: &str| {
            let url = url.to_ascii_lowercase();
            url.trim_start_matches("https://").trim_end_matches('/').trim_end_matches("/v2.0").to_owned()
        };
        let seen = essence(seen);
        let issuer = self.issuers.iter().find(|issuer| essence(&issuer.settings.url) == seen)?;
        Some(issuer.settings.name.clone())
    }
}

/// The key whose signature the token bears.
fn signing_key<'a>(
    index: usize,
    issuer: &Issuer,
    keys: &'a KeysInForce,
    compact: &Compact<'_>,
) -> Result<&'a Key, Refusal> {
    let name = issuer.settings.name.clone();
    let candidates = match keys.set.candidates(compact.key_id.as_deref(), compact.algorithm) {
        Candidates::Some(candidates) => candidates,
        Candidates::Unknown => {
            let rejection = unknown_key(issuer, keys, compact.key_id.as_deref().unwrap_or_default());
            return Err(Refusal::Keys { issuer: index, rejection });
        }
        Candidates::Unfit => {
            return Err(Rejection::AlgorithmUnfit { issuer: name, algorithm: compact.algorithm }.into());
        }
        Candidates::Ambiguous(fitting) => return Err(Rejection::KeyAmbiguous { issuer: name, fitting }.into()),
    };
    candidates
        .into_iter()
        .find(|key| key.verifies(compact.algorithm, compact.signed, &compact.signature))
        .ok_or(Refusal::Final(Rejection::Signature { issuer: name }))
}

fn unknown_key(issuer: &Issuer, keys: &KeysInForce, key: &str) -> Rejection {
    Rejection::KeyUnknown {
        issuer: issuer.settings.name.clone(),
        key: Quoted::new(key),
        known: keys.set.len(),
        age: issuer.age(keys).as_secs(),
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self::Final(rejection)
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Final(rejection) | Refusal::Keys { rejection, .. } => rejection,
        }
    }
}

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenVerifier").field("issuers", &self.by_url.keys()).finish_non_exhaustive()
    }
}
