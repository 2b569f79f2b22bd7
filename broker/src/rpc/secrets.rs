//! `SecretService`: proto in, domain call, proto out.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use keyferry_proto::v1::batch_get_secrets_result::Result as Entry;
use keyferry_proto::v1::secret_service_server::SecretService;
use keyferry_proto::v1::{
    AddSecretVersionRequest, AddSecretVersionResponse, BatchGetSecretsRequest, BatchGetSecretsResponse,
    BatchGetSecretsResult, DisableSecretVersionRequest, DisableSecretVersionResponse, EnableSecretVersionRequest,
    EnableSecretVersionResponse, ErrorDetail, GetSecretRequest, GetSecretResponse, ListSecretVersionsRequest,
    ListSecretVersionsResponse, ListSecretsRequest, ListSecretsResponse, ReadSource, Secret, SecretFilter,
    SecretVersion, SecretVersionState,
};
use tonic::{Request, Response, Status};

use super::call::{Call, answer, reply};
use super::page_token::{Binding, PageTokens, page_size};
use super::proto_time::{duration, timestamp};
use crate::admission::{Action, Permit, Resource};
use crate::audit::{Decision, Item, Receipt};
use crate::error::{Detail, Failure, Reason};
use crate::names::{NameError, SecretName, StoreName, VersionId, VersionName};
use crate::secrets::{Demand, Labels, Page, Read, SecretBytes, SecretInfo, Secrets, Source, VersionInfo, VersionState};
use crate::status::ReasonExt;

const MAX_BATCH: usize = 100;
const MAX_PAYLOAD: usize = 65_536;
const BATCH_PARALLELISM: usize = 16;
const MAX_LABELS: usize = 64;
const MAX_LABEL: usize = 63;

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
            Ok(move |receipt: &Receipt| disclosed(&read, receipt))
        })
        .await
    }

    async fn batch_get_secrets(
        &self,
        request: Request<BatchGetSecretsRequest>,
    ) -> Result<Response<BatchGetSecretsResponse>, Status> {
        answer(request, |call, message| async move {
            let outcomes = self.read_all(&call, &message.requests).await?;
            let names = message.requests.into_iter().map(|read| read.name);
            let entries: Vec<_> = names.zip(outcomes).collect();
            call.draft.note(|record| {
                (record.resource, record.decision) = (None, Decision::None);
                record.items = entries.iter().map(|(name, outcome)| item(name, outcome)).collect();
            });
            Ok(move |receipt: &Receipt| BatchGetSecretsResponse {
                results: entries
                    .into_iter()
                    .map(|(name, outcome)| BatchGetSecretsResult {
                        name,
                        result: Some(match outcome {
                            Ok(read) => Entry::Secret(disclosed(&read, receipt)),
                            Err(failure) => Entry::Error(error_detail(&failure)),
                        }),
                    })
                    .collect(),
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
            let permit = call.admit(Resource::Store(store.clone()))?;
            let listing = self.secrets.list(&permit, Page { size, token: place }).await?;
            let secrets = listing
                .items
                .into_iter()
                .filter(|info| selected(&filter, info))
                .filter(|info| {
                    let resource = Resource::Secret(info.name.clone(), Arc::clone(&info.labels));
                    call.may(Action::ListSecrets, resource)
                })
                .map(secret_message)
                .collect();
            let next_page_token = self.seal(listing.next.as_deref(), binding)?;
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
            let permit = self.admit(&call, &secret).await?;
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
            let permit = self.admit(&call, &secret).await?;
            let payload = SecretBytes::new(message.payload.to_vec());
            let labels: Labels = Arc::new(message.labels);
            let creation = message.allow_missing.then_some(labels);
            if message.validate_only {
                self.check_add(&permit, creation.is_some()).await?;
                return Ok(AddSecretVersionResponse::default());
            }
            let added = self.secrets.add(&permit, payload, creation).await?;
            call.draft.note(|record| record.version = Some(Arc::clone(&added.id)));
            let version = Some(version_message(&secret, added, true));
            Ok(AddSecretVersionResponse { version, ..AddSecretVersionResponse::default() })
        })
        .await
    }

    async fn enable_secret_version(
        &self,
        request: Request<EnableSecretVersionRequest>,
    ) -> Result<Response<EnableSecretVersionResponse>, Status> {
        reply(request, |call, message| async move {
            refuse_request_id(&message.request_id)?;
            let version = self.switch(&call, &message.name, true, message.validate_only).await?;
            Ok(EnableSecretVersionResponse { version: Some(version), ..EnableSecretVersionResponse::default() })
        })
        .await
    }

    async fn disable_secret_version(
        &self,
        request: Request<DisableSecretVersionRequest>,
    ) -> Result<Response<DisableSecretVersionResponse>, Status> {
        reply(request, |call, message| async move {
            refuse_request_id(&message.request_id)?;
            let version = self.switch(&call, &message.name, false, message.validate_only).await?;
            Ok(DisableSecretVersionResponse { version: Some(version), ..DisableSecretVersionResponse::default() })
        })
        .await
    }
}

impl SecretRpc {
    /// One read, with the permit it needs.
    async fn read(&self, call: &Call, request: &GetSecretRequest) -> Result<Read, Failure> {
        let (name, _) = VersionName::parse_or_latest(&request.name).map_err(bad_name("name"))?;
        let demand = demand(request)?;
        let permit = self.admit(call, &name.secret).await?;
        self.secrets.get(&permit, &name.version, demand).await
    }

    async fn read_all(
        &self,
        call: &Call,
        requests: &[GetSecretRequest],
    ) -> Result<Vec<Result<Read, Failure>>, Failure> {
        if !(1..=MAX_BATCH).contains(&requests.len()) {
            let description = format!("has {} entries; send 1 to {MAX_BATCH}", requests.len());
            return Err(Failure::bad_field(Reason::InvalidArgument, "requests", description));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = requests.iter().find(|request| !seen.insert(&request.name)) {
            let description = format!("names {:?} twice; name each secret once", printable(&twice.name));
            return Err(Failure::bad_field(Reason::InvalidArgument, "requests", description));
        }
        let reads: Vec<_> = requests.iter().map(|request| self.read(call, request)).collect();
        Ok(stream::iter(reads).buffered(BATCH_PARALLELISM).collect().await)
    }

    async fn admit(&self, call: &Call, secret: &SecretName) -> Result<Permit, Failure> {
        let labels = self.secrets.labels(secret).await?;
        call.admit(Resource::Secret(secret.clone(), labels))
    }

    async fn check_add(&self, permit: &Permit, may_create: bool) -> Result<(), Failure> {
        match self.secrets.describe(permit).await {
            Err(failure) if may_create && failure.reason() == Reason::SecretNotFound => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    async fn switch(&self, call: &Call, name: &str, enable: bool, dry: bool) -> Result<SecretVersion, Failure> {
        let name = VersionName::parse(name).map_err(bad_name("name"))?;
        let VersionId::Exact(id) = &name.version else {
            let description = "ends in \"latest\", which may mean another version by now; name the version by its id";
            return Err(Failure::bad_field(Reason::InvalidName, "name", description));
        };
        call.draft.note(|record| record.version = Some(Arc::clone(id)));
        let permit = self.admit(call, &name.secret).await?;
        let info = if dry {
            self.secrets.version(&permit, id).await?
        } else {
            self.secrets.set_enabled(&permit, &name.version, enable).await?
        };
        Ok(version_message(&name.secret, info, false))
    }

    fn seal(&self, place: Option<&str>, binding: Binding) -> Result<String, Failure> {
        place.map_or(Ok(String::new()), |place| self.page_tokens.seal(place, binding))
    }
}

/// The answer, made from an audit receipt; the payload is shared, not copied.
fn disclosed(read: &Read, receipt: &Receipt) -> GetSecretResponse {
    let version = &read.fetched.version;
    GetSecretResponse {
        name: read.secret.version(VersionId::Exact(Arc::clone(&version.id))).to_string(),
        payload: read.fetched.payload.disclose(receipt),
        payload_crc32c: i64::from(read.fetched.crc32c),
        source: match read.source {
            Source::Cache => ReadSource::Cache,
            Source::Provider => ReadSource::Provider,
            Source::Stale => ReadSource::Stale,
        }
        .into(),
        load_time: Some(timestamp(read.loaded)),
        create_time: Some(timestamp(version.created)),
        ..GetSecretResponse::default()
    }
}

fn item(name: &str, outcome: &Result<Read, Failure>) -> Item {
    match outcome {
        Ok(read) => Item {
            resource: read.secret.shared(),
            version: Some(Arc::clone(&read.fetched.version.id)),
            decision: Decision::Allow,
            outcome: "OK",
            source: read.source.as_str(),
        },
        Err(failure) => Item {
            resource: printable(name).into(),
            version: None,
            decision: if failure.reason() == Reason::AccessDenied { Decision::Deny } else { Decision::None },
            outcome: failure.reason().name(),
            source: "",
        },
    }
}

/// A name that did not parse is kept short in records and errors.
fn printable(name: &str) -> &str {
    &name[..name.floor_char_boundary(128)]
}

fn secret_message(info: SecretInfo) -> Secret {
    Secret {
        name: info.name.to_string(),
        labels: Arc::unwrap_or_clone(info.labels),
        create_time: Some(timestamp(info.created)),
        ..Secret::default()
    }
}

fn version_message(secret: &SecretName, info: VersionInfo, latest: bool) -> SecretVersion {
    SecretVersion {
        name: secret.version(VersionId::Exact(info.id)).to_string(),
        state: match info.state {
            VersionState::Enabled => SecretVersionState::Enabled,
            VersionState::Disabled => SecretVersionState::Disabled,
            VersionState::Destroyed => SecretVersionState::Destroyed,
        }
        .into(),
        create_time: Some(timestamp(info.created)),
        latest,
        ..SecretVersion::default()
    }
}

fn error_detail(failure: &Failure) -> ErrorDetail {
    let delay = match failure.detail() {
        Detail::RetryAfter(delay) | Detail::Quota { retry_after: delay, .. } => Some(*delay),
        Detail::None | Detail::BadField { .. } => failure.reason().retry_delay(),
    };
    ErrorDetail {
        code: failure.reason().code().into(),
        reason: failure.reason().into(),
        message: failure.message().to_owned(),
        retry_delay: delay.and_then(|delay| delay.try_into().ok()),
        ..ErrorDetail::default()
    }
}

fn demand(request: &GetSecretRequest) -> Result<Demand, Failure> {
    let max_age = request.max_age.as_ref().map(|age| duration("max_age", age)).transpose()?;
    let min_revision = u64::try_from(request.min_revision).map_err(|_| {
        Failure::bad_field(Reason::InvalidArgument, "min_revision", "is negative; write 0 or a revision you were told")
    })?;
    Ok(Demand { max_age, min_revision })
}

fn bad_name(field: &'static str) -> impl FnOnce(NameError) -> Failure {
    move |error| Failure::bad_field(Reason::InvalidName, field, error.to_string())
}

/// Repeats are recognised by the state store, which this version does not have yet.
fn refuse_request_id(request_id: &str) -> Result<(), Failure> {
    if request_id.is_empty() {
        return Ok(());
    }
    let description = "cannot be honoured by this version, which would forget it in a restart; leave it empty";
    Err(Failure::bad_field(Reason::Unimplemented, "request_id", description))
}

fn check_payload(payload: &[u8], crc32c: Option<i64>) -> Result<(), Failure> {
    if payload.len() > MAX_PAYLOAD {
        let description = format!("has {} bytes; at most {MAX_PAYLOAD} can be kept", payload.len());
        return Err(Failure::bad_field(Reason::InvalidArgument, "payload", description));
    }
    if crc32c.is_some_and(|sent| sent != i64::from(crc32c::crc32c(payload))) {
        let description = "does not match the payload as it arrived; it was damaged on its way, or computed otherwise";
        return Err(Failure::bad_field(Reason::PayloadCorrupt, "payload_crc32c", description));
    }
    Ok(())
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Failure> {
    let fits = |text: &str| text.chars().count() <= MAX_LABEL && !text.chars().any(char::is_control);
    let good =
        labels.len() <= MAX_LABELS && labels.iter().all(|(key, value)| !key.is_empty() && fits(key) && fits(value));
    if good {
        return Ok(());
    }
    let description = format!("takes at most {MAX_LABELS} labels, keys and values of at most {MAX_LABEL} characters");
    Err(Failure::bad_field(Reason::InvalidArgument, "labels", description))
}

fn check_filter(filter: &SecretFilter) -> Result<(), Failure> {
    if filter.prefix.len() <= 255 && filter.labels.len() <= 16 {
        return Ok(());
    }
    let description = "takes a prefix of at most 255 characters and at most 16 labels";
    Err(Failure::bad_field(Reason::InvalidArgument, "filter", description))
}

fn selected(filter: &SecretFilter, info: &SecretInfo) -> bool {
    info.name.id().starts_with(&filter.prefix)
        && filter.labels.iter().all(|(key, value)| info.labels.get(key) == Some(value))
}

fn list_binding(call: &Call, parent: &str, filter: &SecretFilter) -> Binding {
    let mut parts = vec![call.caller.id(), call.method.path, parent, &filter.prefix];
    parts.extend(filter.labels.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]));
    Binding::of(&parts)
}
