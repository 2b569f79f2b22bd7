//! `SecretService`: proto in, domain call, proto out.

use std::sync::Arc;

use keyferry_proto::v1::batch_get_secrets_result::Result as Entry;
use keyferry_proto::v1::secret_service_server::SecretService;
use keyferry_proto::v1::{
    AddSecretVersionRequest, AddSecretVersionResponse, BatchGetSecretsRequest, BatchGetSecretsResponse,
    BatchGetSecretsResult, DisableSecretVersionRequest, DisableSecretVersionResponse, EnableSecretVersionRequest,
    EnableSecretVersionResponse, GetSecretRequest, GetSecretResponse, ListSecretVersionsRequest,
    ListSecretVersionsResponse, ListSecretsRequest, ListSecretsResponse, Secret, SecretFilter, SecretVersion,
};
use tonic::{Request, Response, Status};

use super::call::{Call, answer, reply};
use super::page_token::{Binding, PageTokens, page_size};
use super::secret_access::{Attempt, Wanted, admit};
use super::secret_messages::{
    bad_name, check_filter, check_labels, check_payload, disclosed, error_detail, refuse_request_id, revision,
    secret_message, selected, version_message,
};
use crate::admission::{Action, Permit, Resource};
use crate::audit::Receipt;
use crate::error::{Failure, Reason};
use crate::names::{SecretName, StoreName, VersionId, VersionName};
use crate::secrets::{Changed, Labels, Page, Revision, SecretBytes, Secrets};

/// Pages of a store that one call goes through, when most of what they hold is not for the caller.
const MAX_STORE_PAGES: usize = 10;

/// The service, on the stores and the gate that each call brings along.
#[derive(Clone, Debug)]
pub struct SecretRpc {
    pub secrets: Secrets,
    pub page_tokens: Arc<PageTokens>,
}

#[tonic::async_trait]
impl SecretService for SecretRpc {
    async fn get_secret(&self, request: Request<GetSecretRequest>) -> Result<Response<GetSecretResponse>, Status> {
        answer(request, |call, message| async move {
            let read = self.read(&call, &message).await?;
            call.draft.note(|record| {
                record.version = Some(Arc::clone(&read.fetched.version.id));
                record.source = read.source.as_str();
            });
            let epoch = self.epoch();
            Ok(move |receipt: &Receipt| disclosed(&read, &epoch, receipt))
        })
        .await
    }

    async fn batch_get_secrets(
        &self,
        request: Request<BatchGetSecretsRequest>,
    ) -> Result<Response<BatchGetSecretsResponse>, Status> {
        answer(request, |call, message| async move {
            let attempts = self.read_all(&call, message.requests).await?;
            call.draft.note(|record| record.items = attempts.iter().map(Attempt::item).collect());
            let epoch = self.epoch();
            Ok(move |receipt: &Receipt| {
                let result = |attempt: Attempt| BatchGetSecretsResult {
                    name: attempt.name,
                    result: Some(match attempt.result {
                        Ok(read) => Entry::Secret(disclosed(&read, &epoch, receipt)),
                        Err(failure) => Entry::Error(error_detail(&failure)),
                    }),
                };
                BatchGetSecretsResponse { results: attempts.into_iter().map(result).collect() }
            })
        })
        .await
    }

    async fn list_secrets(
        &self,
        request: Request<ListSecretsRequest>,
    ) -> Result<Response<ListSecretsResponse>, Status> {
        reply(request, |call, message| async move {
            let store = StoreName::parse(&message.parent).map_err(bad_name("parent"))?;
            let filter = message.filter.unwrap_or_default();
            check_filter(&filter)?;
            let binding = list_binding(&call, store.as_str(), &filter);
            let place = self.page_tokens.open(&message.page_token, binding)?;
            let size = page_size(message.page_size)?;
            let permit = call.admit(Resource::Store(store))?;
            let (secrets, next) = self.visible(&call, &permit, &filter, Page { size, token: place }).await?;
            let next_page_token = self.seal(next.as_deref(), binding)?;
            Ok(ListSecretsResponse { secrets, next_page_token })
        })
        .await
    }

    async fn list_secret_versions(
        &self,
        request: Request<ListSecretVersionsRequest>,
    ) -> Result<Response<ListSecretVersionsResponse>, Status> {
        reply(request, |call, message| async move {
            let secret = SecretName::parse(&message.parent).map_err(bad_name("parent"))?;
            let binding = list_binding(&call, secret.as_str(), &SecretFilter::default());
            let place = self.page_tokens.open(&message.page_token, binding)?;
            let size = page_size(message.page_size)?;
            let first = place.is_none();
            let wanted = Wanted { secret: &secret, wrong: Ok(()), creation: None };
            let permit = admit(&self.secrets, &call, wanted).await?;
            let listing = self.secrets.versions(&permit, Page { size, token: place }).await?;
            let next_page_token = self.seal(listing.next.as_deref(), binding)?;
            let versions = listing
                .items
                .into_iter()
                .enumerate()
                .map(|(index, version)| version_message(&secret, version, first && index == 0))
                .collect();
            Ok(ListSecretVersionsResponse { versions, next_page_token })
        })
        .await
    }

    async fn add_secret_version(
        &self,
        request: Request<AddSecretVersionRequest>,
    ) -> Result<Response<AddSecretVersionResponse>, Status> {
        reply(request, |call, message| async move {
            let secret = SecretName::parse(&message.parent).map_err(bad_name("parent"))?;
            refuse_request_id(&message.request_id)?;
            check_payload(&message.payload, message.payload_crc32c)?;
            check_labels(&message.labels)?;
            let payload = SecretBytes::new(message.payload.to_vec());
            let labels: Labels = Arc::new(message.labels);
            let creation = message.allow_missing.then_some(labels);
            let wrong = self.secrets.check_addition(&secret, &payload);
            let wanted = Wanted { secret: &secret, wrong, creation: creation.as_ref() };
            let permit = admit(&self.secrets, &call, wanted).await?;
            if message.validate_only {
                self.check_add(&permit, &secret, creation.is_some()).await?;
                return Ok(AddSecretVersionResponse::default());
            }
            call.announce().await?;
            let Changed { version, revision: at } = self.secrets.add(&permit, payload, creation).await?;
            call.draft.note(|record| record.version = Some(Arc::clone(&version.id)));
            let version = Some(version_message(&secret, version, true));
            Ok(AddSecretVersionResponse { version, revision: revision(at), epoch: self.epoch().to_string() })
        })
        .await
    }

    async fn enable_secret_version(
        &self,
        request: Request<EnableSecretVersionRequest>,
    ) -> Result<Response<EnableSecretVersionResponse>, Status> {
        reply(request, |call, message| async move {
            refuse_request_id(&message.request_id)?;
            let (version, revision) = self.switch(&call, &message.name, true, message.validate_only).await?;
            Ok(EnableSecretVersionResponse { version: Some(version), revision, epoch: self.epoch().to_string() })
        })
        .await
    }

    async fn disable_secret_version(
        &self,
        request: Request<DisableSecretVersionRequest>,
    ) -> Result<Response<DisableSecretVersionResponse>, Status> {
        reply(request, |call, message| async move {
            refuse_request_id(&message.request_id)?;
            let (version, revision) = self.switch(&call, &message.name, false, message.validate_only).await?;
            Ok(DisableSecretVersionResponse { version: Some(version), revision, epoch: self.epoch().to_string() })
        })
        .await
    }
}

impl SecretRpc {
    /// Goes on until the page is full of what the caller may see, so that its length does not tell what is hidden.
    async fn visible(
        &self,
        call: &Call,
        permit: &Permit,
        filter: &SecretFilter,
        mut page: Page,
    ) -> Result<(Vec<Secret>, Option<String>), Failure> {
        let (wanted, mut secrets) = (page.size, Vec::new());
        for _ in 0..MAX_STORE_PAGES {
            let listing = self.secrets.list(permit, page).await?;
            for info in listing.items.into_iter().filter(|info| selected(filter, info)) {
                let resource = Resource::Secret(info.name.clone(), Arc::clone(&info.labels));
                if call.may(Action::ListSecrets, &resource) {
                    secrets.push(secret_message(info));
                }
            }
            page = Page { size: wanted - secrets.len(), token: listing.next };
            if page.size == 0 || page.token.is_none() {
                break;
            }
            // A thousand decisions in a row would keep other calls waiting.
            tokio::task::yield_now().await;
        }
        Ok((secrets, page.token))
    }

    async fn check_add(&self, permit: &Permit, secret: &SecretName, may_create: bool) -> Result<(), Failure> {
        match self.secrets.describe(permit).await {
            Err(failure) if may_create && failure.reason() == Reason::SecretNotFound => {
                self.secrets.check_creation(secret)
            }
            outcome => outcome.map(drop),
        }
    }

    /// The version as it is now, and the revision of the change.
    async fn switch(&self, call: &Call, name: &str, enable: bool, dry: bool) -> Result<(SecretVersion, i64), Failure> {
        let name = VersionName::parse(name).map_err(bad_name("name"))?;
        let VersionId::Exact(id) = &name.version else {
            let description = "ends in \"latest\", which may mean another version by now; name the version by its id";
            return Err(Failure::bad_field(Reason::InvalidName, "name", description));
        };
        call.draft.note(|record| record.version = Some(Arc::clone(id)));
        let wrong = self.secrets.check_version(&name.secret, &name.version);
        let permit = admit(&self.secrets, call, Wanted { secret: &name.secret, wrong, creation: None }).await?;
        let (info, at) = if dry {
            (self.secrets.version(&permit, id).await?, Revision::default())
        } else {
            call.announce().await?;
            let changed = self.secrets.set_enabled(&permit, &name.version, enable).await?;
            (changed.version, changed.revision)
        };
        Ok((version_message(&name.secret, info, false), revision(at)))
    }

    fn epoch(&self) -> Arc<str> {
        Arc::clone(self.secrets.revisions().epoch())
    }

    fn seal(&self, place: Option<&str>, binding: Binding) -> Result<String, Failure> {
        place.map_or(Ok(String::new()), |place| self.page_tokens.seal(place, binding))
    }
}

fn list_binding(call: &Call, parent: &str, filter: &SecretFilter) -> Binding {
    let mut parts = vec![call.caller.id(), call.method.path, parent, &filter.prefix];
    parts.extend(filter.labels.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]));
    Binding::of(&parts)
}
