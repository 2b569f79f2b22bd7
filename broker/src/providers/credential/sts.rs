//! Google's security token service: somebody else's token for a federated one.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::StatusCode;

use super::api_error::OAuthError;
use super::claims::Claims;
use super::impersonation::{self, Impersonation, LONGEST};
use super::wire::{self, Http};
use super::{Broken, GOOGLE_CLOUD_SCOPE, Token, TokenSource, token};
use crate::clock::SharedClock;

pub(super) const LINK: &str = "sts";

/// Subject token → STS → perhaps a service account.
pub(super) struct Federation {
    pub(super) http: Http,
    pub(super) subject: Arc<dyn TokenSource>,
    /// The scope under which `subject` has the token for Google.
    pub(super) subject_scope: String,
    /// `projects/…/providers/…`
    pub(super) provider: String,
    pub(super) url: String,
    pub(super) impersonation: Option<Impersonation>,
    pub(super) clock: SharedClock,
}

impl TokenSource for Federation {
    fn chain(&self) -> Vec<&'static str> {
        let mut chain = self.subject.chain();
        chain.push(LINK);
        chain.extend(self.impersonation.as_ref().map(|_| impersonation::LINK));
        chain
    }

    fn obtain<'a>(&'a self, scope: &'a str) -> BoxFuture<'a, Result<Token, Broken>> {
        Box::pin(async move {
            let subject = self.subject.obtain(&self.subject_scope).await?;
            let claims = Claims::of(subject.value());
            let principal = self.principal(claims.subject());
            let Some(impersonation) = &self.impersonation else {
                let mut token = self.exchange(&subject, &claims, scope).await?;
                token.subject = Some(principal.into());
                return Ok(token);
            };
            let federated = self.exchange(&subject, &claims, GOOGLE_CLOUD_SCOPE).await?;
            impersonation.access_token(&federated, scope, LONGEST, &principal, self.clock.now()).await
        })
    }
}

impl Federation {
    async fn exchange(&self, subject: &Token, claims: &Claims, scope: &str) -> Result<Token, Broken> {
        let audience = format!("//iam.googleapis.com/{}", self.provider);
        let form: [(&str, &str); 6] = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("audience", &audience),
            ("scope", scope),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("subject_token", subject.value()),
        ];
        let answer = wire::send(LINK, self.http.post_form(LINK, &self.url, &form)?).await?;
        answer.check_passing(LINK)?;
        if answer.status != StatusCode::OK {
            let error = OAuthError::read(&answer.body);
            return Err(Broken::lasting(LINK, self.explain(&error, answer.status, claims)));
        }
        token::read_answer(LINK, &answer.body, self.clock.now())
    }

    /// As IAM policies write it.
    fn principal(&self, subject: &str) -> String {
        let pool = self.provider.split("/providers/").next().unwrap_or_default();
        format!("principal://iam.googleapis.com/{pool}/subject/{subject}")
    }

    fn explain(&self, error: &OAuthError, status: StatusCode, claims: &Claims) -> String {
        let provider = &self.provider;
        let (issuer, subject, audience) = (claims.issuer(), claims.subject(), claims.audience());
        match error.code() {
            "invalid_grant" if error.tells_of("audience") => format!(
                "Google refuses the audience of the token that it was shown; {provider} must allow {audience} exactly \
                 (gcloud iam workload-identity-pools providers update-oidc … --allowed-audiences={audience})"
            ),
            "invalid_grant" if error.tells_of("connecting") || error.tells_of("discovery") => {
                format!("Google cannot fetch the keys of issuer {issuer}; it must be reachable from the internet")
            }
            "invalid_grant" if error.tells_of("issuer") => format!(
                "Google refuses the issuer of the token that it was shown; {provider} must have it as {issuer} exactly, \
                 case and final slash included (--issuer-uri={issuer})"
            ),
            "invalid_grant" if error.tells_of("expired") || error.tells_of("stale") => {
                "Google takes the token that it was shown for expired; set this host's clock right".to_owned()
            }
            "invalid_grant" => format!(
                "Google refuses the token that it was shown; {provider} must trust issuer {issuer}, allow audience \
                 {audience} and map a subject (here {subject}), case included"
            ),
            "unauthorized_client" | "access_denied" => format!(
                "the attribute condition of {provider} rejects the broker; it must admit subject {subject}, case \
                 included (--attribute-condition)"
            ),
            "invalid_target" => format!(
                "there is no {provider}, or it or its pool is disabled or deleted; correct provider (the project by its \
                 number, not its id), or enable it"
            ),
            "invalid_scope" => "Google refuses the scope; ask for one of its OAuth scopes".to_owned(),
            "invalid_request" => format!(
                "Google finds the request malformed; check that provider is written \
                 projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER (here {provider})"
            ),
            "" => format!("{} answers {} and not as Google's STS does; correct sts_url", self.url, status.as_u16()),
            code => format!("Google answers {code}; check {provider}"),
        }
    }
}
