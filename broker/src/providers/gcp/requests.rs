//! The requests that a store sends, each through the guard and with a token that lives.

use std::sync::Arc;

use bytes::Bytes;
use google_cloud_gax::client_builder::{self, internal::with_follow_redirects};
use google_cloud_gax::error::Error;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_secretmanager_v1::client::SecretManagerService;
use google_cloud_secretmanager_v1::model::SecretPayload;

use super::method::{self, Method};
use super::path::{Parent, SecretPath};
use super::token::{self, FromRequest, SCOPE};
use super::{refusal, told};
use crate::error::{Failure, Reason};
use crate::names::{SecretName, StoreName};
use crate::providers::catalogue::too_many;
use crate::providers::credential::{Credential, Token};
use crate::providers::guard::Guard;
use crate::secrets::{Fetched, Listing, Page, SecretBytes, SecretInfo, VersionInfo};

/// The most that Google answers at once.
const LARGEST_PAGE: i32 = 25_000;
/// A list is held as a whole, so it has an end.
const MAX_LISTED: usize = 50_000;
/// Google may answer pages that are short or empty.
const MAX_PAGES: usize = 100;

/// One store's requests.
pub(super) struct Requests {
    client: SecretManagerService,
    credential: Arc<Credential>,
    guard: Arc<Guard>,
}

impl Requests {
    pub(super) async fn new(
        endpoint: Option<String>,
        credential: Arc<Credential>,
        guard: Arc<Guard>,
    ) -> client_builder::Result<Self> {
        // The guard tries again, and ends what takes too long.
        let builder = SecretManagerService::builder().with_credentials(FromRequest).with_retry_policy(NeverRetry);
        let builder = match endpoint {
            Some(endpoint) => builder.with_endpoint(endpoint),
            None => builder,
        };
        // A token goes where it is sent and no further.
        let builder = with_follow_redirects(builder, false);
        Ok(Self { client: builder.build().await?, credential, guard })
    }

    pub(super) async fn access(&self, path: &str, secret: &SecretName) -> Result<Fetched, Failure> {
        let request = || self.client.access_secret_version().set_name(path).send();
        told::fetched(self.repeat(&method::ACCESS, secret.as_str(), request).await?, secret)
    }

    pub(super) async fn version(&self, path: &str, secret: &SecretName) -> Result<VersionInfo, Failure> {
        let request = || self.client.get_secret_version().set_name(path).send();
        told::version(&self.repeat(&method::GET_VERSION, secret.as_str(), request).await?, secret)
    }

    pub(super) async fn versions(
        &self,
        path: &SecretPath,
        page: Page,
        secret: &SecretName,
    ) -> Result<Listing<VersionInfo>, Failure> {
        let (size, token) = (page_size(&page), page.token.unwrap_or_default());
        let list = || self.client.list_secret_versions().set_parent(path.as_str());
        let request = || list().set_page_size(size).set_page_token(&token).send();
        let listed = self.repeat(&method::LIST_VERSIONS, secret.as_str(), request).await?;
        let items = listed.versions.iter().map(|version| told::version(version, secret)).collect::<Result<_, _>>()?;
        Ok(Listing { items, next: told::next(listed.next_page_token) })
    }

    pub(super) async fn secret(&self, path: &SecretPath, secret: &SecretName) -> Result<SecretInfo, Failure> {
        let request = || self.client.get_secret().set_name(path.as_str()).send();
        told::secret(self.repeat(&method::GET_SECRET, secret.as_str(), request).await?, secret)
    }

    /// All of them, in Google's order, which is that of their creation.
    pub(super) async fn secrets(&self, parent: &Parent, store: &StoreName) -> Result<Vec<SecretInfo>, Failure> {
        let (mut secrets, mut token) = (Vec::new(), String::new());
        for _ in 0..MAX_PAGES {
            let list = || self.client.list_secrets().set_parent(parent.as_str());
            let request = || list().set_page_size(LARGEST_PAGE).set_page_token(&token).send();
            let listed = self.repeat(&method::LIST_SECRETS, store.as_str(), request).await?;
            let found = listed.secrets.into_iter().map(|secret| told::listed(secret, store));
            secrets.extend(found.collect::<Result<Vec<_>, _>>()?);
            match told::next(listed.next_page_token) {
                _ if secrets.len() > MAX_LISTED => break,
                Some(next) => token = next,
                None => return Ok(secrets),
            }
        }
        Err(too_many(store.as_str(), MAX_LISTED))
    }

    /// Sent once: a second one could become a second version.
    pub(super) async fn add(
        &self,
        path: &SecretPath,
        payload: SecretBytes,
        secret: &SecretName,
    ) -> Result<VersionInfo, Failure> {
        let checksum = i64::from(crc32c::crc32c(payload.expose()));
        // Shares the buffer that zeroes itself.
        let data = Bytes::from_owner(Exposed(payload));
        let request = || {
            let payload = SecretPayload::new().set_data(data.clone()).set_data_crc32c(checksum);
            self.client.add_secret_version().set_parent(path.as_str()).set_payload(payload).send()
        };
        let add = &method::ADD_VERSION;
        let send =
            |token| self.guard.once(add.operation, secret.as_str(), attempt(add, secret.as_str(), token, &request));
        told::version(&self.with_live_token(send).await?, secret)
    }

    pub(super) async fn set_enabled(
        &self,
        path: &str,
        secret: &SecretName,
        enabled: bool,
    ) -> Result<VersionInfo, Failure> {
        let changed = if enabled {
            let request = || self.client.enable_secret_version().set_name(path).send();
            self.repeat(&method::ENABLE, secret.as_str(), request).await?
        } else {
            let request = || self.client.disable_secret_version().set_name(path).send();
            self.repeat(&method::DISABLE, secret.as_str(), request).await?
        };
        told::version(&changed, secret)
    }

    /// Sends what may be sent again when it fails in passing.
    async fn repeat<T, F>(&self, method: &Method, resource: &str, request: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let request = &request;
        let send = |token: Token| {
            let again = move || attempt(method, resource, token.clone(), request);
            self.guard.call(method.operation, resource, again)
        };
        self.with_live_token(send).await
    }

    /// A token can be refused before its time. What it was refused for was not done, so it is sent again with another.
    async fn with_live_token<T, F>(&self, send: impl Fn(Token) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let token = self.credential.token(SCOPE).await?;
        match send(token.clone()).await {
            Err(failure) if failure.reason() == Reason::ProviderCredential => {
                self.credential.refused(SCOPE, &token);
                send(self.credential.token(SCOPE).await?).await
            }
            sent => sent,
        }
    }
}

async fn attempt<T, F>(method: &Method, resource: &str, token: Token, request: &impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Error>>,
{
    let subject = token.subject.clone();
    let sent = token::with(token, request()).await;
    sent.map_err(|error| refusal::failure(error, method, resource, subject.as_deref()))
}

fn page_size(page: &Page) -> i32 {
    i32::try_from(page.size).unwrap_or(i32::MAX)
}

struct Exposed(SecretBytes);

impl AsRef<[u8]> for Exposed {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}
