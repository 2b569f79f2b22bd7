//! One service of a cloud: how often it was asked, and what is wrong with it and with the tokens that it issues.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Request;
use keyferry_broker::clock::Timestamp;
use serde_json::{Value, json};

use crate::doubles::faults::{Fault, Faults};

const LIFETIME_SECONDS: u64 = 3600;

#[derive(Debug, Default)]
pub struct Service {
    faults: Faults,
    flaw: Mutex<Option<Flaw>>,
    requests: AtomicUsize,
}

/// What may be wrong with the tokens that a service issues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// They ended an hour ago.
    Expired,
    /// They are for another audience than the one asked for.
    OtherAudience,
}

impl Service {
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    pub fn flaw(&self, flaw: Flaw) {
        *self.flaw.lock().unwrap() = Some(flaw);
    }

    pub fn current_flaw(&self) -> Option<Flaw> {
        *self.flaw.lock().unwrap()
    }

    /// Nothing is wrong any more.
    pub fn heal(&self) {
        self.faults.clear();
        *self.flaw.lock().unwrap() = None;
    }

    /// All requests so far, answered or not.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn asked(&self) -> Option<Fault> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.faults.next()
    }

    /// When a token issued now begins and ends, in seconds.
    pub(super) fn life(&self, now: Timestamp) -> (u64, u64) {
        let begin = match self.current_flaw() {
            Some(Flaw::Expired) => now.as_secs() - 2 * LIFETIME_SECONDS,
            Some(Flaw::OtherAudience) | None => now.as_secs(),
        };
        (begin, begin + LIFETIME_SECONDS)
    }

    /// The claims that every token has, with `more` over them.
    pub(super) fn claims(&self, issuer: &str, audience: &str, now: Timestamp, more: Value) -> Value {
        let (begin, end) = self.life(now);
        let other = self.current_flaw() == Some(Flaw::OtherAudience);
        let audience = if other { "https://another.test" } else { audience };
        let mut claims = json!({ "iss": issuer, "aud": audience, "iat": begin, "nbf": begin, "exp": end });
        if let Value::Object(more) = more {
            claims.as_object_mut().unwrap().extend(more);
        }
        claims
    }
}

/// The fields of a query or a form; the first of a name counts.
#[derive(Debug)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(super) fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    pub(super) fn of_query<T>(request: &Request<T>) -> Self {
        Self::parse(request.uri().query().unwrap_or_default().as_bytes())
    }

    /// Empty is as good as missing.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

pub(crate) fn header<'a, T>(request: &'a Request<T>, name: &str) -> &'a str {
    request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
