//! The token endpoint for what lies in files: a service account's key, a person's refresh token.

use bytes::Bytes;
use http::{Request, StatusCode};
use serde_json::{Value, json};

use super::access::service_account;
use super::{Google, GoogleService};
use crate::doubles::http::{Answer, json as answer};
use crate::doubles::identity::presented::{Distrust, Presented};
use crate::doubles::identity::service::Fields;

/// Google's own clients name it as audience wherever they find the endpoint.
const PUBLIC_URL: &str = "https://oauth2.googleapis.com/token";

/// OAuth's word for it, and Google's sentence.
pub(super) type Refusal = (&'static str, String);

pub(super) fn refusal(status: StatusCode, error: &str, description: &str) -> Answer {
    answer(status, &json!({ "error": error, "error_description": description }))
}

impl Google {
    pub(super) fn grant(&self, request: &Request<Bytes>) -> Answer {
        let form = Fields::parse(request.body());
        let granted = match form.get("grant_type") {
            Some("urn:ietf:params:oauth:grant-type:jwt-bearer") => self.by_assertion(&form),
            Some("refresh_token") => self.by_refresh_token(&form),
            _ => Err(("unsupported_grant_type", "Invalid grant_type.".to_owned())),
        };
        match granted {
            Ok(granted) => answer(StatusCode::OK, &granted),
            Err((error, description)) => {
                let unknown = error == "invalid_client";
                let status = if unknown { StatusCode::UNAUTHORIZED } else { StatusCode::BAD_REQUEST };
                refusal(status, error, &description)
            }
        }
    }

    /// What a token admits to, and whom: for APIs that are not told otherwise.
    pub(super) fn token_info(&self, request: &Request<Bytes>) -> Answer {
        let query = Fields::of_query(request);
        match query.get("access_token").and_then(|token| self.access(token)) {
            Some(access) => answer(StatusCode::OK, &access.told()),
            None => refusal(StatusCode::BAD_REQUEST, "invalid_token", "Invalid Value"),
        }
    }

    fn by_assertion(&self, form: &Fields) -> Result<Value, Refusal> {
        let refused = |description: &str| ("invalid_grant", description.to_owned());
        let presented = form.get("assertion").and_then(Presented::parse);
        let presented = presented.ok_or_else(|| refused("Bad Request"))?;
        let email = presented.claim("iss").to_owned();
        let (id, keys) = {
            let directory = self.directory.lock().unwrap();
            let account = directory.find(&email).ok_or_else(|| refused("Invalid grant: account not found"))?;
            (account.id.clone(), json!({ "keys": account.keys }))
        };
        presented.verify_by(&keys, self.clock.now()).map_err(|distrust| match distrust {
            Distrust::Outdated => refused(
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. \
                 Check your iat and exp values in the JWT claim.",
            ),
            Distrust::IssuerUnreachable | Distrust::UnknownKey | Distrust::Signature => {
                refused("Invalid JWT Signature.")
            }
        })?;
        if !presented.is_for(&[PUBLIC_URL.to_owned(), format!("{}/token", self.url)]) {
            return Err(refused("Invalid JWT: Failed audience check."));
        }
        if let Some(audience) = presented.claims["target_audience"].as_str() {
            let more = json!({ "azp": email, "sub": id, "email": email, "email_verified": true });
            return Ok(json!({ "id_token": self.id_token(GoogleService::OAuth, audience, more) }));
        }
        let scopes: Vec<_> = presented.claim("scope").split_whitespace().map(str::to_owned).collect();
        if scopes.is_empty() {
            return Err(("invalid_scope", "Invalid OAuth scope or ID token audience provided.".to_owned()));
        }
        Ok(self.granted(service_account(&email), scopes))
    }

    fn by_refresh_token(&self, form: &Fields) -> Result<Value, Refusal> {
        let user = self.directory.lock().unwrap().user(form.get("client_id").unwrap_or_default());
        let user = user.ok_or_else(|| ("invalid_client", "The OAuth client was not found.".to_owned()))?;
        if form.get("client_secret") != Some(user.client_secret.as_str()) {
            return Err(("invalid_client", "Unauthorized".to_owned()));
        }
        if form.get("refresh_token") != Some(user.refresh_token.as_str()) {
            return Err(("invalid_grant", "Bad Request".to_owned()));
        }
        // Whatever was consented to at sign-in.
        Ok(self.granted(user.member(), vec![super::access::CLOUD_PLATFORM.to_owned()]))
    }

    fn granted(&self, principal: String, scopes: Vec<String>) -> Value {
        let scope = scopes.join(" ");
        let (token, _) = self.issue(GoogleService::OAuth, principal, scopes, 3599);
        json!({ "access_token": token, "expires_in": 3599, "scope": scope, "token_type": "Bearer" })
    }
}
