//! The well-known codes in the errors of OAuth endpoints and of Google's APIs. Their prose stays behind: it is only
//! searched, because one code stands for several mistakes.

use serde_json::Value;

/// `{"error": "invalid_grant", "error_description": …}`
#[derive(Default)]
pub(super) struct OAuthError {
    code: String,
    description: String,
    /// Entra's numbers.
    pub(super) aadsts: Option<u64>,
}

/// `{"error": {"status": "PERMISSION_DENIED", "details": […]}}`
pub(crate) struct ApiError {
    pub(crate) status: String,
    pub(crate) reason: String,
}

impl OAuthError {
    pub(super) fn read(body: &[u8]) -> Self {
        let Ok(body) = serde_json::from_slice::<Value>(body) else {
            return Self::default();
        };
        let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let description = text("error_description");
        let listed = body.get("error_codes").and_then(|codes| codes.get(0)).and_then(Value::as_u64);
        Self {
            code: text("error"),
            aadsts: listed.or_else(|| aadsts_in(&description)),
            description: description.to_ascii_lowercase(),
        }
    }

    /// Empty where it is none that OAuth or token exchange knows: what is shown must not be the other side's text.
    pub(super) fn code(&self) -> &'static str {
        const KNOWN: [&str; 8] = [
            "invalid_request",
            "invalid_client",
            "invalid_grant",
            "invalid_scope",
            "invalid_target",
            "invalid_resource",
            "unauthorized_client",
            "access_denied",
        ];
        KNOWN.into_iter().find(|known| *known == self.code).unwrap_or_default()
    }

    pub(super) fn tells_of(&self, word: &str) -> bool {
        self.description.contains(word)
    }
}

fn aadsts_in(description: &str) -> Option<u64> {
    let rest = description.split_once("AADSTS")?.1;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

impl ApiError {
    pub(crate) fn read(body: &[u8]) -> Self {
        let body = serde_json::from_slice::<Value>(body).unwrap_or_default();
        let error = body.get("error").unwrap_or(&Value::Null);
        // Older APIs have it in another list.
        let lists = ["details", "errors"].into_iter().filter_map(|list| error.get(list)?.as_array());
        let reason = lists.flatten().filter_map(|detail| detail.get("reason")?.as_str()).next().unwrap_or_default();
        let status = error.get("status").and_then(Value::as_str).unwrap_or_default();
        Self { status: status.to_owned(), reason: reason.to_owned() }
    }
}
