//! The security token service: another issuer's token for a federated access token.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::json;

use super::oauth::{Refusal, refusal};
use super::{Google, GoogleService, PoolProvider};
use crate::doubles::http::{Answer, json as answer};
use crate::doubles::identity::presented::{Distrust, Presented};
use crate::doubles::identity::service::Fields;

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const SUBJECT_TOKENS: [&str; 2] = ["urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token"];

impl Google {
    pub(super) async fn exchange(&self, request: &Request<Bytes>) -> Answer {
        if request.method() != Method::POST {
            return refusal(StatusCode::NOT_FOUND, "invalid_request", "Only POST is answered here.");
        }
        match self.exchanged(&Fields::parse(request.body())).await {
            Ok(answer) => answer,
            Err((error, description)) => refusal(StatusCode::BAD_REQUEST, error, &description),
        }
    }

    async fn exchanged(&self, form: &Fields) -> Result<Answer, Refusal> {
        let field = |name: &str| {
            form.get(name).ok_or_else(|| ("invalid_request", format!("Invalid value for \"{name}\". It is required.")))
        };
        if field("grant_type")? != EXCHANGE {
            return Err(("unsupported_grant_type", "The grant type is not supported.".to_owned()));
        }
        if field("requested_token_type")? != ACCESS_TOKEN || !SUBJECT_TOKENS.contains(&field("subject_token_type")?) {
            return Err(("invalid_request", "The token type is not supported.".to_owned()));
        }
        let scopes = field("scope")?.split(' ').map(str::to_owned).collect();
        let provider = self.provider(field("audience")?)?;
        let presented = Presented::parse(field("subject_token")?)
            .ok_or_else(|| ("invalid_grant", "Unable to parse the ID Token.".to_owned()))?;
        self.judge(&provider, &presented).await?;
        let principal = provider.principal(presented.claim("sub"));
        let (token, _) = self.issue(GoogleService::Sts, principal, scopes, 3599);
        Ok(answer(
            StatusCode::OK,
            &json!({
                "access_token": token, "issued_token_type": ACCESS_TOKEN, "token_type": "Bearer", "expires_in": 3599,
            }),
        ))
    }

    fn provider(&self, audience: &str) -> Result<PoolProvider, Refusal> {
        if !names_a_provider(audience) {
            let description = "Invalid value for \"audience\". \
                               This value should be the full resource name of the Identity Provider.";
            return Err(("invalid_request", description.to_owned()));
        }
        let directory = self.directory.lock().unwrap();
        let provider = directory.providers.iter().find(|provider| provider.audience() == audience);
        provider.filter(|provider| !provider.disabled).cloned().ok_or_else(|| {
            let description = "The target service indicated by the \"audience\" parameters is invalid. This might \
                               either be because the pool or provider is disabled or deleted or because it doesn't \
                               exist.";
            ("invalid_target", description.to_owned())
        })
    }

    async fn judge(&self, provider: &PoolProvider, presented: &Presented) -> Result<(), Refusal> {
        let refused = |description: String| Err(("invalid_grant", description));
        let (issuer, now) = (presented.claim("iss"), self.clock.now());
        if issuer != provider.issuer {
            return refused(format!(
                "The issuer in ID Token {issuer} does not match the expected ones: {}",
                provider.issuer
            ));
        }
        let own = provider.audience();
        let default = [own.clone(), format!("https:{own}")];
        let allowed = if provider.allowed_audiences.is_empty() { &default[..] } else { &provider.allowed_audiences };
        if !presented.is_for(allowed) {
            return refused(format!(
                "The audience in ID Token [{}] does not match the expected audience {}.",
                presented.claim("aud"),
                allowed.join(", ")
            ));
        }
        match presented.verify(issuer, now).await {
            Ok(()) => {}
            Err(Distrust::IssuerUnreachable) => {
                return refused("Error connecting to the given credential's issuer.".to_owned());
            }
            Err(Distrust::UnknownKey | Distrust::Signature) => {
                return refused("The ID Token's signature is invalid.".to_owned());
            }
            Err(Distrust::Outdated) => {
                return refused(format!("ID Token issued at {} is stale to sign-in.", presented.claims["iat"]));
            }
        }
        match &provider.condition {
            Some((claim, value)) if presented.claim(claim) != value => {
                Err(("unauthorized_client", "The given credential is rejected by the attribute condition.".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

/// `//iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER`
fn names_a_provider(audience: &str) -> bool {
    let parts: Vec<_> = audience.split('/').collect();
    let [_, _, host, projects, number, locations, location, pools, pool, providers, provider] = parts[..] else {
        return false;
    };
    audience.starts_with("//")
        && [host, projects, locations, location, pools, providers]
            == ["iam.googleapis.com", "projects", "locations", "global", "workloadIdentityPools", "providers"]
        && [number, pool, provider].iter().all(|part| !part.is_empty())
        && number.bytes().all(|byte| byte.is_ascii_digit())
}
