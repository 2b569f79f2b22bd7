//! One vault, request by request: each with a token, through the guard, and answered in the broker's words.

use std::collections::BTreeMap;
use std::sync::Arc;

use azure_core::http::pager::{PagerContinuation, PagerOptions};
use azure_core::http::{ClientOptions, Pager, RetryOptions, Transport, Url};
use azure_security_keyvault_secrets::models::{
    ListSecretPropertiesResult, SecretClientGetSecretOptions, SecretClientListSecretPropertiesOptions,
    SecretClientListSecretPropertiesVersionsOptions, SecretClientUpdateSecretPropertiesOptions,
};
use azure_security_keyvault_secrets::{SecretClient, SecretClientOptions};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Serialize;
use zeroize::Zeroizing;

use super::answer::{self, Bundle, Described, DescribedPage, Unusable};
use super::bearer::Bearer;
use super::failure::{About, OpenError, Words};
use super::wire::Wire;
use crate::config;
use crate::error::{Failure, Reason};
use crate::names::{SecretName, VersionId};
use crate::providers::catalogue::too_many;
use crate::providers::credential::Credential;
use crate::providers::guard::{Guard, Operation};

/// A list is held as a whole, so it has an end.
const MAX_LISTED: usize = 10_000;
/// Key Vault may answer pages that are short or empty.
const MAX_PAGES: usize = 1_000;
/// What JSON makes of one byte at most.
const ESCAPED: usize = 6;
const TAGS_ROOM: usize = 16 << 10;

pub(super) struct Vault {
    url: String,
    client: SecretClient,
    credential: Arc<Credential>,
    bearer: Arc<Bearer>,
    guard: Arc<Guard>,
    words: Words,
}

impl Vault {
    pub(super) fn open(
        settings: &config::AzureStore,
        credential: Arc<Credential>,
        guard: Arc<Guard>,
    ) -> Result<Self, OpenError> {
        let wire = Wire::new(settings)?;
        let bearer = Arc::new(Bearer::new(wire.host()));
        // If no token can be kept, the first call says why.
        let _ = credential.keep(bearer.scope());
        let options = SecretClientOptions {
            client_options: ClientOptions {
                transport: Some(Transport::new(Arc::new(wire))),
                // The guard tries again, where its budget allows.
                retry: RetryOptions::none(),
                ..ClientOptions::default()
            },
            verify_challenge_resource: Some(true),
            ..SecretClientOptions::default()
        };
        let tokens = Arc::clone(&bearer);
        let client = SecretClient::new(&settings.vault_url, tokens, Some(options)).map_err(|_| OpenError::Url)?;
        let url = settings.vault_url.trim_end_matches('/').to_owned();
        let words = Words { vault: url.clone(), credential: settings.credential.clone() };
        Ok(Self { url, client, credential, bearer, guard, words })
    }

    pub(super) async fn get(&self, secret: &SecretName, version: &VersionId) -> Result<Bundle, Failure> {
        let request = || async {
            let secret_version = match version {
                VersionId::Latest => None,
                VersionId::Exact(id) => Some(id.to_string()),
            };
            let options = SecretClientGetSecretOptions { secret_version, ..Default::default() };
            let answer = self.client.get_secret(secret.id(), Some(options)).await.map_err(Sent::Failed)?;
            Ok(Bundle::read(answer.into_body())?)
        };
        self.ask(Operation::Access, About::Value(secret, version), request).await
    }

    pub(super) async fn secrets(&self) -> Result<Vec<Described>, Failure> {
        self.list(About::Secrets, |method_options| {
            let options = SecretClientListSecretPropertiesOptions { method_options, ..Default::default() };
            self.client.list_secret_properties(Some(options))
        })
        .await
    }

    /// None where there is no such secret.
    pub(super) async fn versions(&self, secret: &SecretName) -> Result<Vec<Described>, Failure> {
        self.list(About::Versions(secret), |method_options| {
            let options = SecretClientListSecretPropertiesVersionsOptions { method_options, ..Default::default() };
            self.client.list_secret_properties_versions(secret.id(), Some(options))
        })
        .await
    }

    /// Sent once: a second one would add a second version.
    pub(super) async fn set(
        &self,
        secret: &SecretName,
        value: &str,
        content_type: Option<&str>,
        tags: &BTreeMap<String, String>,
    ) -> Result<Described, Failure> {
        let about = About::Addition(secret);
        let body = Addition { value, content_type, tags }.body().map_err(|error| self.words.garbage(error))?;
        let send = || {
            self.guard.once(Operation::Write, secret.as_str(), async {
                let answer = self.client.set_secret(secret.id(), body.clone().into(), None).await;
                let answer =
                    answer.map_err(|error| self.words.failure(about, self.bearer.subject().as_deref(), error))?;
                answer::read(answer.into_body()).map_err(|error| self.words.unsure(secret, error))
            })
        };
        self.with_token(send).await
    }

    /// Repeated, it changes nothing more.
    pub(super) async fn switch(&self, secret: &SecretName, version: &str, enabled: bool) -> Result<Described, Failure> {
        let body = Bytes::from(format!(r#"{{"attributes":{{"enabled":{enabled}}}}}"#));
        let request = || async {
            let secret_version = Some(version.to_owned());
            let options = SecretClientUpdateSecretPropertiesOptions { secret_version, ..Default::default() };
            let sent = self.client.update_secret_properties(secret.id(), body.clone().into(), Some(options));
            Ok(answer::read(sent.await.map_err(Sent::Failed)?.into_body())?)
        };
        self.ask(Operation::Write, About::Change(secret, version), request).await
    }

    /// For an answer that does not say what it has to.
    pub(super) fn garbage(&self) -> Failure {
        self.words.garbage(Unusable)
    }

    /// Page by page, each of them one request.
    async fn list(
        &self,
        about: About<'_>,
        pager: impl Fn(PagerOptions<'static>) -> azure_core::Result<Pager<ListSecretPropertiesResult>>,
    ) -> Result<Vec<Described>, Failure> {
        let (mut listed, mut next) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let request = || async {
                let options = PagerOptions { continuation: next.clone(), ..PagerOptions::default() };
                let mut pages = pager(options).map_err(Sent::Failed)?.into_pages();
                let page = pages.next().await.ok_or(Unusable)?.map_err(Sent::Failed)?;
                Ok(answer::read::<DescribedPage>(page.into_body())?)
            };
            let page = match self.ask(Operation::Metadata, about, request).await {
                Err(failure) if failure.reason() == Reason::SecretNotFound => return Ok(Vec::new()),
                page => page?,
            };
            listed.extend(page.value);
            if listed.len() > MAX_LISTED {
                break;
            }
            match page.next_link.filter(|link| !link.is_empty()) {
                None => return Ok(listed),
                Some(link) => next = Some(PagerContinuation::Link(self.join(&link)?)),
            }
        }
        Err(too_many(&self.url, MAX_LISTED))
    }

    fn join(&self, link: &str) -> Result<Url, Failure> {
        self.client.endpoint().join(link).map_err(|_| self.garbage())
    }

    /// One request, which may be repeated.
    async fn ask<T, F>(&self, operation: Operation, about: About<'_>, request: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Sent>>,
    {
        let sent = || async {
            request().await.map_err(|error| match error {
                Sent::Failed(error) => self.words.failure(about, self.bearer.subject().as_deref(), error),
                Sent::Unusable(error) => self.words.garbage(error),
            })
        };
        let subject = about.secret().map_or(&*self.url, SecretName::as_str);
        self.with_token(|| self.guard.call(operation, subject, sent)).await
    }

    /// A token that the vault refuses though it should live is replaced, once.
    async fn with_token<T, F>(&self, send: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let token = self.credential.token(self.bearer.scope()).await?;
        self.bearer.carry(token.clone());
        match send().await {
            Err(failure) if failure.reason() == Reason::ProviderCredential => {
                self.credential.refused(self.bearer.scope(), &token);
                self.bearer.carry(self.credential.token(self.bearer.scope()).await?);
                send().await
            }
            answered => answered,
        }
    }
}

/// What became of a request.
enum Sent {
    Failed(azure_core::Error),
    Unusable(Unusable),
}

impl From<Unusable> for Sent {
    fn from(error: Unusable) -> Self {
        Self::Unusable(error)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Addition<'a> {
    value: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    tags: &'a BTreeMap<String, String>,
}

impl Addition<'_> {
    /// Sized once, as a buffer that grew would leave the value in the one it left, and wiped when the last holder ends.
    fn body(&self) -> Result<Bytes, Unusable> {
        let mut body = Zeroizing::new(Vec::with_capacity(self.value.len() * ESCAPED + TAGS_ROOM));
        serde_json::to_writer(&mut *body, self).map_err(|_| Unusable)?;
        Ok(Bytes::from_owner(body))
    }
}
