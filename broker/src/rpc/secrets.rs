//! `SecretService`: proto in, domain call, proto out.

use std::collections::BTreeMap;
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
    bad_name, check_filter, check_labels, check_payload, disclosed, error_detail, place, secret_message, selected,
    version_message,
};
use crate::admission::{Action, Permit, Resource};
use crate::audit::Receipt;
use crate::digest::Digest;
use crate::error::{Failure, Reason};
use crate::names::{SecretName, StoreName, VersionId, VersionName};
use crate::requests::RequestId;
use crate::rotation::{Changed, Changes};
use crate::secrets::{Labels, Page, SecretBytes, Secrets, VersionInfo};

/// Pages of a store that one call goes through, when most of what they hold is not for the caller.
const MAX_STORE_PAGES: usize = 10;

/// The service, on the stores and the gate that each call brings along.
#[derive(Clone, Debug)]
pub struct SecretRpc {
    pub secrets: Secrets,
    pub changes: Changes,
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
            Ok(move |receipt: &Receipt| disclosed(&read, receipt))
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
            Ok(move |receipt: &Receipt| {
                let result = |attempt: Attempt| BatchGetSecretsResult {
                    name: attempt.name,
                    result: Some(match attempt.result {
                        Ok(read) => Entry::Secret(disclosed(&read, receipt)),
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
            let word = self.secrets.word(&secret);
            let message = |(index, version): (usize, VersionInfo)| {
                let newest = first && index == 0;
                let latest = if word.withholds { word.current.as_ref() == Some(&version.id) } else { newest };
                version_message(&secret, version, latest)
            };
            let versions = listing.items.into_iter().enumerate().map(message).collect();
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
            let request = request_id(&call, &message.request_id, &added(&message))?;
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
            let Changed { version, position } = self.changes.add(permit, request, payload, creation).await?;
            call.draft.note(|record| record.version = Some(Arc::clone(&version.id)));
            let version = Some(version_message(&secret, version, true));
            let (revision, epoch) = place(position);
            Ok(AddSecretVersionResponse { version, revision, epoch })
        })
        .await
    }

    async fn enable_secret_version(
        &self,
        request: Request<EnableSecretVersionRequest>,
    ) -> Result<Response<EnableSecretVersionResponse>, Status> {
        reply(request, |call, EnableSecretVersionRequest { name, request_id, validate_only }| async move {
            let (version, place) = self.switch(&call, Switch { name, request_id, validate_only, enable: true }).await?;
            let (revision, epoch) = place;
            Ok(EnableSecretVersionResponse { version: Some(version), revision, epoch })
        })
        .await
    }

    async fn disable_secret_version(
        &self,
        request: Request<DisableSecretVersionRequest>,
    ) -> Result<Response<DisableSecretVersionResponse>, Status> {
        reply(request, |call, DisableSecretVersionRequest { name, request_id, validate_only }| async move {
            let (version, place) =
                self.switch(&call, Switch { name, request_id, validate_only, enable: false }).await?;
            let (revision, epoch) = place;
            Ok(DisableSecretVersionResponse { version: Some(version), revision, epoch })
        })
        .await
    }
}

/// A version that is to be readable, or no longer.
struct Switch {
    name: String,
    request_id: String,
    validate_only: bool,
    enable: bool,
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

    /// The version as it is now, and the place of the change in the log.
    async fn switch(&self, call: &Call, wanted: Switch) -> Result<(SecretVersion, (i64, String)), Failure> {
        let Switch { name, request_id: id, validate_only, enable } = wanted;
        let request = request_id(call, &id, name.as_bytes())?;
        let name = VersionName::parse(&name).map_err(bad_name("name"))?;
        let VersionId::Exact(id) = &name.version else {
            let description = "ends in \"latest\", which may mean another version by now; name the version by its id";
            return Err(Failure::bad_field(Reason::InvalidName, "name", description));
        };
        call.draft.note(|record| record.version = Some(Arc::clone(id)));
        let wrong = self.secrets.check_version(&name.secret, &name.version);
        let permit = admit(&self.secrets, call, Wanted { secret: &name.secret, wrong, creation: None }).await?;
        let (info, position) = if validate_only {
            (self.secrets.version(&permit, id).await?, None)
        } else {
            call.announce().await?;
            let changed = self.changes.set_enabled(permit, request, name.version.clone(), enable).await?;
            (changed.version, changed.position)
        };
        Ok((version_message(&name.secret, info, false), place(position)))
    }

    fn seal(&self, place: Option<&str>, binding: Binding) -> Result<String, Failure> {
        place.map_or(Ok(String::new()), |place| self.page_tokens.seal(place, binding))
    }
}

/// What two additions differ by; their ids apart. Maps are in no order on the wire.
fn added(message: &AddSecretVersionRequest) -> Vec<u8> {
    let labels: BTreeMap<_, _> = message.labels.iter().collect();
    let rest = (&message.parent, Digest::of(&message.payload).0, message.allow_missing, labels, message.validate_only);
    serde_json::to_vec(&rest).unwrap_or_default()
}

fn request_id(call: &Call, id: &str, rest: &[u8]) -> Result<Option<RequestId>, Failure> {
    RequestId::parse(id, &[call.method.path.as_bytes(), rest])
}

fn list_binding(call: &Call, parent: &str, filter: &SecretFilter) -> Binding {
    let mut parts = vec![call.caller.id(), call.method.path, parent, &filter.prefix];
    parts.extend(filter.labels.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]));
    Binding::of(&parts)
}
