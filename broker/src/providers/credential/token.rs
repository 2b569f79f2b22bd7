//! A bearer token, and how the answers that bring one are read.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Broken, Symptom};
use crate::clock::Timestamp;

/// Longer than any cloud's, and short enough for a header.
const LONGEST: usize = 16 * 1024;
/// Whatever an answer says: none lives longer, the managed identities' day included.
const LONGEST_LIFE: Duration = Duration::from_secs(25 * 3600);

/// A bearer token for one scope.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "is a credential")]
pub struct Token {
    value: Arc<Zeroizing<String>>,
    pub expires: Timestamp,
    /// Whom the cloud takes the broker for, where the token's issuer tells.
    pub subject: Option<Arc<str>>,
}

impl Token {
    pub fn new(value: String, expires: Timestamp, subject: Option<Arc<str>>) -> Self {
        Self { value: Arc::new(Zeroizing::new(value)), expires, subject }
    }

    pub fn value(&self) -> &str {
        &self.value
    }
}

/// What OAuth token endpoints and both metadata services answer.
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: Option<Seconds>,
    /// Since the epoch; App Service tells no other.
    expires_on: Option<Seconds>,
}

/// Azure's managed identities write numbers as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

impl Seconds {
    fn value(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
        }
    }
}

pub(super) fn read_answer(link: &'static str, body: &[u8], now: Timestamp) -> Result<Token, Broken> {
    let answer: Answer = serde_json::from_slice(body).map_err(|_| unreadable(link, "an access token"))?;
    let within = answer.expires_in.as_ref().and_then(Seconds::value).map(Duration::from_secs);
    let until = answer.expires_on.as_ref().and_then(Seconds::value).map(Timestamp::from_secs);
    // A span survives a clock that is wrong, a point in time does not.
    let life = within.or(until.map(|until| until.since(now)));
    token(link, answer.access_token, life.unwrap_or_default(), now)
}

pub(super) fn token(link: &'static str, value: String, life: Duration, now: Timestamp) -> Result<Token, Broken> {
    check_value(link, &value)?;
    if life.is_zero() {
        let message = "the answer's token has no end, or one that has passed; set this host's clock right, \
                       and check that the configured address is the cloud's";
        return Err(Broken { symptom: Symptom::Garbled, ..Broken::lasting(link, message) });
    }
    Ok(Token::new(value, now.plus(life.min(LONGEST_LIFE)), None))
}

/// It will stand in a header, or in another request's body.
pub(super) fn check_value(link: &'static str, value: &str) -> Result<(), Broken> {
    if value.is_empty() || value.len() > LONGEST || !value.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(unreadable(link, "a token of visible characters"));
    }
    Ok(())
}

pub(super) fn unreadable(link: &'static str, expected: &str) -> Broken {
    let message = format!("the answer is not {expected}; check that the configured address is the cloud's own");
    Broken { symptom: Symptom::Garbled, ..Broken::lasting(link, message) }
}
