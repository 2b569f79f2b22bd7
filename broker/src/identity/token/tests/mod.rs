//! Token verification from outside: its rules, its keys, published vectors, and mutations.

mod fuzz;
mod key_server;
mod keys;
mod rules;
mod signing;
mod times;
mod wycheproof;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use signing::SigningKey;

use super::{Algorithm, IssuerSettings, KeySource, Rejection, Token, TokenVerifier};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::error::Reason;

const START: u64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.test/tenant/";
const AUDIENCE: &str = "https://keyferry.test";

/// Moves by hand only.
#[derive(Debug)]
struct ManualClock {
    base: Instant,
    passed: AtomicU64,
}

impl ManualClock {
    fn new() -> Arc<Self> {
        Arc::new(Self { base: SystemClock.monotonic(), passed: AtomicU64::new(0) })
    }

    fn advance(&self, span: Duration) {
        self.passed.fetch_add(u64::try_from(span.as_micros()).unwrap(), Ordering::SeqCst);
    }

    fn secs(&self) -> u64 {
        self.now().as_secs()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(START * 1_000_000 + self.passed.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Instant {
        self.base + Duration::from_micros(self.passed.load(Ordering::SeqCst))
    }
}

fn settings(keys: KeySource) -> IssuerSettings {
    IssuerSettings {
        name: "acme".to_owned(),
        url: ISSUER.to_owned(),
        audiences: vec!["other".to_owned(), AUDIENCE.to_owned()],
        algorithms: Algorithm::ALL.to_vec(),
        keys,
        leeway: Duration::from_secs(30),
        maximum_lifetime: Duration::from_secs(3600),
        id_claim: "sub".to_owned(),
        refresh_interval: Duration::from_secs(20),
        maximum_key_age: Duration::from_secs(24 * 3600),
    }
}

fn payload() -> Value {
    json!({ "iss": ISSUER, "sub": "system:serviceaccount:shop:cart", "aud": AUDIENCE, "iat": START, "exp": START + 600 })
}

/// One issuer with a pinned ES256 key, which most rules need no more than.
struct Pinned {
    clock: Arc<ManualClock>,
    key: SigningKey,
    verifier: Arc<TokenVerifier>,
    files: tempfile::TempDir,
}

impl Pinned {
    async fn new() -> Self {
        Self::with(SigningKey::es256("one"), |_| {}).await
    }

    async fn with(key: SigningKey, change: impl FnOnce(&mut IssuerSettings)) -> Self {
        let files = tempfile::tempdir().unwrap();
        publish(files.path(), &[&key.jwk]);
        let mut settings = settings(KeySource::Pinned(files.path().join("keys.json")));
        change(&mut settings);
        let clock = ManualClock::new();
        let verifier = TokenVerifier::start(vec![settings], clock.clone()).await.unwrap();
        Self { clock, key, verifier, files }
    }

    async fn verify(&self, token: &str) -> Result<Arc<Token>, Rejection> {
        self.verifier.verify(token).await
    }

    /// Verifies a token whose payload was changed.
    async fn payload(&self, change: impl FnOnce(&mut Value)) -> Result<Arc<Token>, Rejection> {
        let mut payload = payload();
        change(&mut payload);
        self.verify(&self.key.sign(&payload)).await
    }

    /// Verifies a token whose header was changed.
    async fn header(&self, change: impl FnOnce(&mut Value)) -> Result<Arc<Token>, Rejection> {
        let mut header = self.key.header();
        change(&mut header);
        self.verify(&self.key.sign_text(&header.to_string(), &payload().to_string())).await
    }
}

fn publish(directory: &Path, keys: &[&Value]) {
    std::fs::write(directory.join("keys.json"), json!({ "keys": keys }).to_string()).unwrap();
}

#[track_caller]
fn assert_refused(outcome: Result<Arc<Token>, Rejection>, reason: Reason, says: &str) {
    let rejection = outcome.expect_err("it was accepted");
    let message = rejection.to_string();
    assert_eq!(rejection.reason(), reason, "{message}");
    assert!(message.contains(says), "{message:?} does not say {says:?}");
}
