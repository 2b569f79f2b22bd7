//! Our own issuer: tokens for databases that verify them by OpenID Connect discovery.
//!
//! The key that signs is a secret of a store. Its newest version signs, once it was published for long enough to be
//! known wherever a token is verified; the one before stays published until no token lives that it signed.

mod key;
mod plan;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use bytes::Bytes;
use serde::Serialize;
use serde_json::json;

use self::key::SigningKey;
use self::plan::Pace;
use super::kept::{Kept, OwnSecret, Reading};
use super::settings::SigningSettings;
use super::users::{Account, fill_random};
use crate::clock::{SharedClock, Timestamp};
use crate::error::{Failure, Reason};
use crate::names::VersionId;
use crate::secrets::{Page, SecretBytes, VersionInfo, VersionState};

/// Databases allow no skew: `iat` and `nbf` lie this far back.
const BACKDATED: Duration = Duration::from_secs(30);
/// Versions that are looked at: more are never in force together.
const VERSIONS: usize = 16;

/// Clones share the keys.
#[derive(Clone, Debug)]
pub struct Issuer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    url: String,
    secret: OwnSecret,
    refresh_interval: Duration,
    pace: Pace,
    keys: Kept<Keys>,
    discovery: Bytes,
    /// What the last good keys look like to the world; there whatever becomes of the store.
    published: ArcSwapOption<Bytes>,
    clock: SharedClock,
}

/// The keys in force.
#[derive(Debug)]
struct Keys {
    /// The newest first.
    all: Vec<Key>,
    signer: usize,
}

#[derive(Clone, Debug)]
struct Key {
    version: Arc<str>,
    created: Timestamp,
    signing: Arc<SigningKey>,
}

/// What a token is to say.
#[derive(Debug)]
pub struct Claims<'a> {
    pub subject: &'a str,
    pub audience: &'a str,
    /// Who asked for it: an audit at the database leads back to the broker's.
    pub caller: &'a str,
    pub role: &'a str,
    pub now: Timestamp,
    pub until: Timestamp,
}

#[allow(missing_debug_implementations, reason = "holds a secret")]
pub struct Signed {
    pub token: SecretBytes,
    /// Its `jti`.
    pub id: String,
    pub expires: Timestamp,
}

#[derive(Serialize)]
struct Written<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: u64,
    iat: u64,
    nbf: u64,
    jti: &'a str,
    act: Actor<'a>,
    role: &'a str,
}

/// RFC 8693: who acts as the subject.
#[derive(Serialize)]
struct Actor<'a> {
    sub: &'a str,
}

impl Issuer {
    /// `longest_life` is that of any token. Nothing is read until `keep` runs.
    pub fn new(settings: &SigningSettings, secret: OwnSecret, longest_life: Duration, clock: SharedClock) -> Self {
        let SigningSettings { url, refresh_interval, maximum_key_age, .. } = settings;
        let discovery = json!({
            "issuer": url,
            "jwks_uri": format!("{}{}", url.trim_end_matches('/'), Self::JWKS_PATH),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256", "RS256"],
        });
        Self(Arc::new(Inner {
            url: url.clone(),
            secret,
            refresh_interval: *refresh_interval,
            // The last replica reads it an interval later, caches in between keep it for another; one to spare.
            pace: Pace { ahead: *refresh_interval * 3, after: longest_life + *refresh_interval * 2 },
            keys: Kept::new(*maximum_key_age, Arc::clone(&clock)),
            discovery: discovery.to_string().into(),
            published: ArcSwapOption::empty(),
            clock,
        }))
    }

    pub const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";
    pub const JWKS_PATH: &str = "/.well-known/jwks.json";

    /// Where the issuer's own paths begin.
    pub fn base_path(&self) -> &str {
        let after_scheme = self.0.url.strip_prefix("https://").unwrap_or_default();
        let path = after_scheme.find('/').and_then(|at| after_scheme.get(at..)).unwrap_or_default();
        path.trim_end_matches('/')
    }

    pub fn discovery(&self) -> Bytes {
        self.0.discovery.clone()
    }

    /// `None` until keys were read for the first time.
    pub fn jwks(&self) -> Option<Bytes> {
        self.0.published.load().as_deref().cloned()
    }

    /// How long others may keep the keys.
    pub fn cacheable_for(&self) -> Duration {
        self.0.refresh_interval
    }

    /// Follows the secret for ever; its owner cancels it.
    pub async fn keep(self) {
        loop {
            self.refresh().await;
            self.0.keys.pause(self.0.refresh_interval).await;
        }
    }

    pub async fn refresh(&self) {
        let inner = &self.0;
        let reading = inner.read().await;
        if let Some(keys) = &reading.value {
            inner.published.store(Some(Arc::new(keys.jwks())));
        }
        inner.keys.settle(reading, &inner.secret.name);
    }

    pub async fn check(&self) -> Result<(), Failure> {
        self.signer().await.map(drop)
    }

    pub async fn issue(&self, claims: &Claims<'_>) -> Result<Signed, Failure> {
        let key = self.signer().await?;
        let mut random = [0; 16];
        fill_random(&mut random)?;
        let id = BASE64URL.encode(random);
        let begin = claims.now.as_secs().saturating_sub(BACKDATED.as_secs());
        let expires = claims.until.as_secs();
        let written = Written {
            iss: &self.0.url,
            sub: claims.subject,
            aud: claims.audience,
            exp: expires,
            iat: begin,
            nbf: begin,
            jti: &id,
            act: Actor { sub: claims.caller },
            role: claims.role,
        };
        let written = serde_json::to_vec(&written).map_err(|error| {
            Failure::new(Reason::Internal, "a token could not be written; report this").caused_by(error)
        })?;
        let token = key.sign(&written)?;
        Ok(Signed { token: SecretBytes::new(token.into_bytes()), id, expires: Timestamp::from_secs(expires) })
    }

    async fn signer(&self) -> Result<Arc<SigningKey>, Failure> {
        let keys = self.0.keys.get().await?;
        let signer = keys.all.get(keys.signer).map(|key| Arc::clone(&key.signing));
        signer.ok_or_else(|| self.account().failure.unwrap_or_else(|| self.0.no_key()))
    }

    pub fn account(&self) -> Account {
        self.0.keys.account()
    }
}

impl Inner {
    async fn read(&self) -> Reading<Keys> {
        let now = self.clock.now();
        match self.read_keys(now).await {
            Ok((all, fault)) => {
                let failure = fault.or_else(|| all.is_empty().then(|| self.no_key()));
                Reading { value: Some(Keys::new(all, self.pace, now)), failure, confirmed: true, withdrawn: false }
            }
            Err(failure) => {
                // Time goes on for the keys that are known.
                let known = self.keys.last().map(|keys| Keys::new(keys.all.clone(), self.pace, now));
                Reading { value: known, failure: Some(failure), confirmed: false, withdrawn: false }
            }
        }
    }

    /// With what is wrong with a version that was left out.
    async fn read_keys(&self, now: Timestamp) -> Result<(Vec<Key>, Option<Failure>), Failure> {
        let page = Page { size: VERSIONS, token: None };
        let listed = self.secret.store.versions(&self.secret.name, page).await;
        let listed = listed.map_err(|failure| self.secret.unreadable(failure))?.items;
        let (held, mut keys, mut fault) = (self.keys.last(), Vec::<Key>::new(), None);
        // What somebody took out of use ends the row: nothing older comes back in its place.
        for version in listed.iter().filter(|version| version.state != VersionState::Destroyed) {
            let is_over = keys.last().is_some_and(|next| self.pace.is_over_before(next.created, now));
            if is_over || version.state != VersionState::Enabled {
                break;
            }
            let known = held.iter().flat_map(|keys| &keys.all).find(|key| key.version == version.id);
            match known {
                Some(known) => keys.push(known.clone()),
                None => match self.fetch(version, now).await? {
                    Ok(key) => keys.push(key),
                    Err(failure) => fault = fault.or(Some(failure)),
                },
            }
        }
        Ok((keys, fault))
    }

    /// The inner failure is the version's own.
    async fn fetch(&self, version: &VersionInfo, now: Timestamp) -> Result<Result<Key, Failure>, Failure> {
        let id = VersionId::exact(&version.id).map_err(|error| {
            Failure::new(Reason::Internal, "a store's own version has no name; report this").caused_by(error)
        })?;
        let fetched = self.secret.fetch(&id).await.map_err(|unread| unread.failure)?;
        Ok(match SigningKey::parse(fetched.payload.expose()) {
            Ok(signing) => {
                let created = version.created.unwrap_or(now);
                Ok(Key { version: Arc::clone(&version.id), created, signing: Arc::new(signing) })
            }
            Err(error) => Err(self.secret.unusable(error)),
        })
    }

    fn no_key(&self) -> Failure {
        self.secret.unusable("has no newest version that signs; enable it, or add one")
    }
}

impl Keys {
    fn new(mut all: Vec<Key>, pace: Pace, now: Timestamp) -> Self {
        let created: Vec<_> = all.iter().map(|key| key.created).collect();
        let plan = pace.plan(&created, now);
        all.truncate(plan.map_or(0, |plan| plan.published));
        Self { all, signer: plan.map_or(0, |plan| plan.signer) }
    }

    fn jwks(&self) -> Bytes {
        let keys: Vec<_> = self.all.iter().map(|key| key.signing.public()).collect();
        json!({ "keys": keys }).to_string().into()
    }
}
