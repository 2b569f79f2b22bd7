//! What a token that the broker itself obtained says of itself. Nobody's word: for explanations only.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use zeroize::Zeroizing;

/// Longer values are cut: they are shown to people.
const SHOWN: usize = 200;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    issuer: Option<String>,
    subject: Option<String>,
    audience: Option<String>,
    pub(super) email: Option<String>,
}

impl Claims {
    pub(super) fn of(token: &str) -> Self {
        let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok()).map(Zeroizing::new);
        let Some(Value::Object(claims)) = payload.and_then(|payload| serde_json::from_slice(&payload).ok()) else {
            return Self::default();
        };
        let text = |name: &str| claims.get(name).and_then(Value::as_str).map(shown);
        let first = claims.get("aud").and_then(|aud| aud.get(0)).and_then(Value::as_str).map(shown);
        Self { issuer: text("iss"), subject: text("sub"), audience: text("aud").or(first), email: text("email") }
    }

    pub(super) fn issuer(&self) -> &str {
        or_untold(&self.issuer)
    }

    pub(super) fn subject(&self) -> &str {
        or_untold(&self.subject)
    }

    pub(super) fn known_subject(&self) -> Option<Arc<str>> {
        self.subject.as_deref().map(Into::into)
    }

    pub(super) fn audience(&self) -> &str {
        or_untold(&self.audience)
    }
}

fn or_untold(claim: &Option<String>) -> &str {
    claim.as_deref().unwrap_or("(the token does not tell)")
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}
