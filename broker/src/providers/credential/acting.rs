//! Tokens of a service account that the broker may act as: one for each that asks, and none of the broker's own rights.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::impersonation::{self, Impersonation, LONGEST};
use super::wire::Http;
use super::{Broken, Credential, GOOGLE_CLOUD_SCOPE, Symptom, Token, TokenSource};
use crate::clock::SharedClock;
use crate::error::{Failure, Reason};

/// A service account, and the credential that is granted its tokens.
pub struct ServiceAccount {
    credential: Arc<Credential>,
    impersonation: Impersonation,
    clock: SharedClock,
}

impl ServiceAccount {
    pub fn new(credential: Arc<Credential>, email: &str, iam_url: &str, clock: SharedClock) -> Result<Self, Broken> {
        let (url, service_account) = (iam_url.to_owned(), email.to_owned());
        let impersonation = Impersonation { http: Http::new()?, url, service_account };
        Ok(Self { credential, impersonation, clock })
    }

    pub fn email(&self) -> &str {
        &self.impersonation.service_account
    }

    /// A new token that admits to nothing but `scope`, for so long.
    pub async fn token(&self, scope: &str, life: Duration) -> Result<Token, Failure> {
        let own = self.credential.token(GOOGLE_CLOUD_SCOPE).await?;
        let outcome = match self.act(&own, scope, life).await {
            // What it was refused for was not done, so it is asked again with another.
            Err(broken) if broken.symptom == Symptom::TokenRefused => {
                self.credential.refused(GOOGLE_CLOUD_SCOPE, &own);
                self.act(&self.credential.token(GOOGLE_CLOUD_SCOPE).await?, scope, life).await
            }
            outcome => outcome,
        };
        outcome.map_err(|broken| broken.failure("the token", Reason::ProviderDenied))
    }

    async fn act(&self, own: &Token, scope: &str, life: Duration) -> Result<Token, Broken> {
        let caller = own.subject.as_deref().unwrap_or("the broker's own identity");
        self.impersonation.access_token(own, scope, life, caller, self.clock.now()).await
    }
}

/// For what the broker itself asks a cloud in the account's name.
impl TokenSource for ServiceAccount {
    fn chain(&self) -> Vec<&'static str> {
        vec![impersonation::LINK]
    }

    fn obtain<'a>(&'a self, scope: &'a str) -> BoxFuture<'a, Result<Token, Broken>> {
        Box::pin(async move {
            let own = self.credential.token(GOOGLE_CLOUD_SCOPE).await;
            let own = own.map_err(|failure| Broken::passing(impersonation::LINK, failure.message()))?;
            let outcome = self.act(&own, scope, LONGEST).await;
            if outcome.as_ref().is_err_and(|broken| broken.symptom == Symptom::TokenRefused) {
                self.credential.refused(GOOGLE_CLOUD_SCOPE, &own);
            }
            outcome
        })
    }
}

impl std::fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ServiceAccount").field(&self.email()).finish()
    }
}
