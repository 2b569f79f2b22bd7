//! `refreshSecret` of Azure's management API, from the request to what has become of it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use reqwest::{RequestBuilder, Url};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::settings::{GatewaySettings, Source};
use crate::error::{Failure, Reason};
use crate::providers::credential::wire::{self, Answer, Http};
use crate::providers::credential::{Broken, Credential, Token};

const LINK: &str = "api-management";
const VERSION: &str = "api-version=2024-05-01";
/// Seconds are usual.
const LONGEST_REFRESH: Duration = Duration::from_secs(120);
/// Between two looks at a refresh under way, where Azure does not say.
const POLL_PAUSE: Duration = Duration::from_secs(2);
const LEAST_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Management {
    http: Http,
    url: Url,
    service: String,
    credential: Arc<Credential>,
    scope: String,
    timeout: Duration,
}

/// A named value, an operation under way, or an error: whatever Azure answers.
#[derive(Deserialize, Default)]
struct Told {
    status: Option<String>,
    error: Option<ArmError>,
    properties: Option<Properties>,
}

#[derive(Deserialize)]
struct ArmError {
    #[serde(default)]
    code: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    key_vault: Option<KeyVault>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyVault {
    secret_identifier: String,
    last_status: Option<ArmError>,
}

impl Management {
    pub(super) fn new(settings: &GatewaySettings, credential: Arc<Credential>) -> Result<Self, Broken> {
        let GatewaySettings { service, management_url, scope, request_timeout, .. } = settings;
        let misplaced = |_| Broken::lasting(LINK, "management_url is no URL; correct it");
        Ok(Self {
            http: Http::new()?,
            url: Url::parse(management_url).map_err(misplaced)?,
            service: service.clone(),
            credential,
            scope: scope.clone(),
            timeout: *request_timeout,
        })
    }

    /// Returns once the gateway has taken the newest version out of the vault.
    pub(super) async fn refresh(&self, id: &str, source: &Source) -> Result<(), Failure> {
        let refreshed = timeout(LONGEST_REFRESH, self.refreshed(id)).await.map_err(|_| {
            let seconds = LONGEST_REFRESH.as_secs();
            let message = format!("API Management has not refreshed {id} within {seconds} s; it is asked again");
            Failure::new(Reason::ProviderUnavailable, message)
        })?;
        self.check(id, source, refreshed?.properties)
    }

    /// What the named value is after it.
    async fn refreshed(&self, id: &str) -> Result<Told, Failure> {
        let named_value = format!("{}/namedValues/{id}", self.service);
        let request = self.http.post(LINK, &self.at(&format!("{named_value}/refreshSecret")));
        let mut answer = self.send(id, request).await?;
        let mut operation = None;
        loop {
            let told = self.told(&answer)?;
            match told.status.as_deref() {
                Some("Failed" | "Canceled") => return Err(self.refusal(id, answer.status, told.error.as_ref(), "")),
                Some("Succeeded") | None if answer.status != StatusCode::ACCEPTED => {
                    if told.properties.is_some() {
                        return Ok(told);
                    }
                    if operation.is_none() {
                        return Err(self.garbled());
                    }
                    // The operation tells of itself only.
                    let request = self.http.get(LINK, &self.at(&named_value), &[]);
                    return self.told(&self.send(id, request).await?);
                }
                // Under way.
                Some(_) | None => {}
            }
            if let Some(location) = &answer.location {
                operation = Some(self.own(location)?);
            }
            let Some(operation) = &operation else { return Err(self.garbled()) };
            sleep(answer.retry_after.unwrap_or(POLL_PAUSE).max(LEAST_PAUSE)).await;
            answer = self.send(id, self.http.get(LINK, operation, &[])).await?;
        }
    }

    /// An answer that is yet to come may have no body.
    fn told(&self, answer: &Answer) -> Result<Told, Failure> {
        if answer.body.is_empty() || answer.status == StatusCode::ACCEPTED {
            return Ok(Told::default());
        }
        serde_json::from_slice(&answer.body).map_err(|_| self.garbled())
    }

    /// The token goes nowhere but where it is configured to go.
    fn own(&self, location: &str) -> Result<String, Failure> {
        let location = self.url.join(location).ok().filter(|location| location.origin() == self.url.origin());
        location.map(String::from).ok_or_else(|| {
            let message = "API Management says to ask on at another host, which would get the broker's token; correct \
                           management_url, or find out who answers there";
            Failure::new(Reason::ProviderDenied, message)
        })
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}?{VERSION}", self.url.as_str().trim_end_matches('/'))
    }

    async fn send(&self, id: &str, request: Result<RequestBuilder, Broken>) -> Result<Answer, Failure> {
        let broken = |broken: Broken| broken.failure("the way to API Management", Reason::ProviderDenied);
        let token = self.credential.token(&self.scope).await?;
        let request = request.map_err(broken)?.bearer_auth(token.value()).timeout(self.timeout);
        let answer = wire::send(LINK, request).await.map_err(broken)?;
        answer.check_passing(LINK).map_err(|passing| {
            let failure = broken(passing);
            answer.retry_after.map_or(failure.clone(), |delay| failure.retry_after(delay))
        })?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        if answer.status == StatusCode::UNAUTHORIZED {
            self.credential.refused(&self.scope, &token);
        }
        let told: Told = serde_json::from_slice(&answer.body).unwrap_or_default();
        Err(self.refusal(id, answer.status, told.error.as_ref(), whom(&token)))
    }

    fn refusal(&self, id: &str, status: StatusCode, error: Option<&ArmError>, subject: &str) -> Failure {
        let service = &self.service;
        let (reason, message) = match status.as_u16() {
            401 => (
                Reason::ProviderCredential,
                format!("Azure refuses the token of {subject}; see that scope belongs to management_url"),
            ),
            403 => (
                Reason::ProviderDenied,
                format!(
                    "Azure does not let {subject} refresh {id}; assign it a role on {service} with \
                     Microsoft.ApiManagement/service/namedValues/refreshSecret/action and /read, as docs/apim.md shows"
                ),
            ),
            404 => (
                Reason::ProviderDenied,
                format!("there is no named value {id} in {service}; create it, or correct named_values or service"),
            ),
            409 | 412 => (
                Reason::ProviderUnavailable,
                format!("API Management is changing {id} or itself; it is asked again when it has come to an end"),
            ),
            200..300 => (
                Reason::ProviderUnavailable,
                format!("API Management began to refresh {id} and gave up; its activity log says why"),
            ),
            _ => (
                Reason::ProviderDenied,
                format!("API Management refuses to refresh {id}; see that it is a named value of type Key Vault"),
            ),
        };
        let code = error.map_or("no code", |error| printable(&error.code));
        Failure::new(reason, message).caused_by(format!("Azure answered {}, {code}", status.as_u16()))
    }

    /// An answer can be good, and the value another one or none.
    fn check(&self, id: &str, source: &Source, properties: Option<Properties>) -> Result<(), Failure> {
        let Source { secret, identifier } = source;
        let denied = |message: String| Err(Failure::new(Reason::ProviderDenied, message));
        let Some(KeyVault { secret_identifier, last_status }) = properties.and_then(|properties| properties.key_vault)
        else {
            return denied(format!("the named value {id} is not of type Key Vault; make it one of {identifier}"));
        };
        let (found, wanted) = (secret_identifier.to_ascii_lowercase(), identifier.to_ascii_lowercase());
        match found.strip_prefix(&wanted).map(|rest| rest.trim_end_matches('/')) {
            Some("") => {}
            Some(rest) if rest.starts_with('/') => {
                return denied(format!("the named value {id} stays at one version; point it to {identifier} alone"));
            }
            Some(_) | None => {
                let message = format!("the named value {id} is not of {secret}; point it to {identifier}");
                return denied(format!("{message}, or correct named_values"));
            }
        }
        match last_status {
            Some(status) if status.code == "Success" => Ok(()),
            status => {
                let message = format!(
                    "API Management could not take {identifier} out of its vault; give its identity the role Key Vault \
                     Secrets User there, and see that the vault's firewall lets it in"
                );
                let code = status.as_ref().map_or("no status", |status| printable(&status.code));
                Err(Failure::new(Reason::ProviderUnavailable, message).caused_by(format!("its last status is {code}")))
            }
        }
    }

    fn garbled(&self) -> Failure {
        let host = self.url.origin().ascii_serialization();
        let message = format!("{host} does not answer as Azure's management API does; correct management_url");
        Failure::new(Reason::ProviderUnavailable, message)
    }
}

fn whom(token: &Token) -> &str {
    token.subject.as_deref().unwrap_or("the broker")
}

/// A code is a word; anything else stays behind.
fn printable(code: &str) -> &str {
    let is_word = (1..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_word { code } else { "no code" }
}
