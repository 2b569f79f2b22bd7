//! Google's iamcredentials: from one's own token to those of a service account.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::api_error::ApiError;
use super::metadata::ID_TOKEN_LINK;
use super::wire::{self, Answer, Http};
use super::{Broken, Symptom, Token, token};
use crate::clock::Timestamp;

pub(super) const LINK: &str = "impersonation";
/// The longest that Google grants without an organisation's exception.
pub(super) const LONGEST: Duration = Duration::from_secs(3600);

pub(super) struct Impersonation {
    pub(super) http: Http,
    pub(super) url: String,
    pub(super) service_account: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccessToken {
    access_token: String,
    expire_time: String,
}

#[derive(Deserialize)]
struct IdToken {
    token: String,
}

impl Impersonation {
    /// `caller` is whom IAM takes the holder of `own` for.
    pub(super) async fn access_token(
        &self,
        own: &Token,
        scope: &str,
        life: Duration,
        caller: &str,
        now: Timestamp,
    ) -> Result<Token, Broken> {
        let body = json!({ "scope": [scope], "lifetime": format!("{}s", life.as_secs()) });
        let answer = self.call(LINK, own, "generateAccessToken", &body, caller).await?;
        let answer: AccessToken =
            serde_json::from_slice(&answer.body).map_err(|_| token::unreadable(LINK, "an access token"))?;
        // A time that cannot be read is one that has passed.
        let until = answer.expire_time.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_second).unwrap_or_default();
        let until = Timestamp::from_secs(u64::try_from(until).unwrap_or_default());
        let mut token = token::token(LINK, answer.access_token, until.since(now), now)?;
        token.subject = Some(self.service_account.as_str().into());
        Ok(token)
    }

    pub(super) async fn id_token(&self, own: &Token, audience: &str) -> Result<Zeroizing<String>, Broken> {
        let body = json!({ "audience": audience, "includeEmail": true });
        let caller = own.subject.as_deref().unwrap_or("the broker's own identity");
        let answer = self.call(ID_TOKEN_LINK, own, "generateIdToken", &body, caller).await?;
        let answer: IdToken =
            serde_json::from_slice(&answer.body).map_err(|_| token::unreadable(ID_TOKEN_LINK, "an ID token"))?;
        let value = Zeroizing::new(answer.token);
        token::check_value(ID_TOKEN_LINK, &value)?;
        Ok(value)
    }

    async fn call(
        &self,
        link: &'static str,
        own: &Token,
        method: &str,
        body: &Value,
        caller: &str,
    ) -> Result<Answer, Broken> {
        let account = &self.service_account;
        let url = format!("{}/v1/projects/-/serviceAccounts/{account}:{method}", self.url.trim_end_matches('/'));
        let request = self.http.post_json(link, &url, body)?.bearer_auth(own.value());
        let answer = wire::send(link, request).await?;
        answer.check_passing(link)?;
        if answer.status == StatusCode::OK {
            return Ok(answer);
        }
        let error = ApiError::read(&answer.body);
        let message = match (error.status.as_str(), error.reason.as_str()) {
            (_, "SERVICE_DISABLED") => format!(
                "the IAM Service Account Credentials API is off in the project of {account}; enable \
                 iamcredentials.googleapis.com there"
            ),
            (_, "ACCESS_TOKEN_SCOPE_INSUFFICIENT") => format!(
                "the broker's own token may not call IAM; give the machine the scope {}",
                super::GOOGLE_CLOUD_SCOPE
            ),
            ("PERMISSION_DENIED", _) => format!(
                "{caller} may not act as {account}, or there is no such account; grant it \
                 roles/iam.workloadIdentityUser (or roles/iam.serviceAccountTokenCreator) on that account, with the \
                 principal's case exactly as here"
            ),
            ("NOT_FOUND", _) => format!("there is no service account {account}; correct service_account, or create it"),
            ("UNAUTHENTICATED", _) => {
                let message = format!(
                    "Google refuses the token that is to act as {account}; check that sts_url and iam_url are of one \
                     cloud"
                );
                return Err(Broken { symptom: Symptom::TokenRefused, ..Broken::lasting(link, message) });
            }
            ("INVALID_ARGUMENT", _) => format!(
                "Google refuses the scope, the audience, the life or the name {account}; correct what is configured"
            ),
            ("FAILED_PRECONDITION", _) => format!("service account {account} is disabled; enable it"),
            _ => format!(
                "{} answers {} and not as iamcredentials does; correct iam_url",
                self.url,
                answer.status.as_u16()
            ),
        };
        Err(Broken::lasting(link, message))
    }
}
