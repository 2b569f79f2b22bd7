//! Secrets between the contract's messages and the domain: what is shown, and what is taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyferry_proto::v1::{
    ErrorDetail, GetSecretRequest, GetSecretResponse, ReadSource, Secret, SecretFilter, SecretVersion,
    SecretVersionState,
};

use super::proto_time::{duration, timestamp};
use crate::audit::Receipt;
use crate::error::{Failure, Reason};
use crate::names::{NameError, SecretName, VersionId};
use crate::secrets::{Demand, Read, SecretInfo, Source, VersionInfo, VersionState};
use crate::state::{Position, Revision};
use crate::status::{FailureExt as _, ReasonExt as _};

const MAX_PAYLOAD: usize = 65_536;
const MAX_LABELS: usize = 64;
const MAX_LABEL: usize = 63;

/// The answer, made from an audit receipt; the payload is shared, not copied.
pub(super) fn disclosed(read: &Read, receipt: &Receipt) -> GetSecretResponse {
    let version = &read.fetched.version;
    let (revision, epoch) = place(read.position);
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
        revision,
        epoch,
        fresh_until_time: Some(timestamp(read.fresh_until)),
        create_time: version.created.map(timestamp),
        expire_time: version.expires.map(timestamp),
        content_type: version.content_type.as_deref().unwrap_or_default().to_owned(),
    }
}

/// The revision and the epoch; zero and none while no part of the log is known.
pub(super) fn place(position: Option<Position>) -> (i64, String) {
    position.map_or_else(Default::default, |Position { epoch, revision }| {
        (i64::try_from(revision.get()).unwrap_or(i64::MAX), epoch.to_string())
    })
}

/// A name that did not parse is kept short in records and errors.
pub(super) fn printable(name: &str) -> &str {
    &name[..name.floor_char_boundary(128)]
}

pub(super) fn secret_message(info: SecretInfo) -> Secret {
    Secret {
        name: info.name.to_string(),
        labels: Arc::unwrap_or_clone(info.labels),
        create_time: info.created.map(timestamp),
        ..Secret::default()
    }
}

pub(super) fn version_message(secret: &SecretName, info: VersionInfo, latest: bool) -> SecretVersion {
    SecretVersion {
        name: secret.version(VersionId::Exact(info.id)).to_string(),
        state: match info.state {
            VersionState::Enabled => SecretVersionState::Enabled,
            VersionState::Disabled => SecretVersionState::Disabled,
            VersionState::Destroyed => SecretVersionState::Destroyed,
        }
        .into(),
        create_time: info.created.map(timestamp),
        not_before_time: info.not_before.map(timestamp),
        expire_time: info.expires.map(timestamp),
        latest,
    }
}

pub(crate) fn error_detail(failure: &Failure) -> ErrorDetail {
    ErrorDetail {
        code: failure.reason().code().into(),
        reason: failure.reason().into(),
        message: failure.message().to_owned(),
        retry_delay: failure.retry_delay().and_then(|delay| delay.try_into().ok()),
        ..ErrorDetail::default()
    }
}

pub(super) fn demand(request: &GetSecretRequest) -> Result<Demand<'_>, Failure> {
    let max_age = request.max_age.as_ref().map(|age| duration("max_age", age)).transpose()?;
    let min_revision = u64::try_from(request.min_revision).map_err(|_| {
        Failure::bad_field(Reason::InvalidArgument, "min_revision", "is negative; write 0 or a revision you were told")
    })?;
    Ok(Demand { max_age, min_revision: Revision::new(min_revision), epoch: &request.epoch })
}

pub(super) fn bad_name(field: &'static str) -> impl FnOnce(NameError) -> Failure {
    move |error| Failure::bad_field(Reason::InvalidName, field, error.to_string())
}

/// Repeats are recognised by the state store, which this version does not have yet.
pub(super) fn check_payload(payload: &[u8], crc32c: Option<i64>) -> Result<(), Failure> {
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

pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Failure> {
    let fits = |text: &str| text.chars().count() <= MAX_LABEL && !text.chars().any(char::is_control);
    let good =
        labels.len() <= MAX_LABELS && labels.iter().all(|(key, value)| !key.is_empty() && fits(key) && fits(value));
    if good {
        return Ok(());
    }
    let description = format!("takes at most {MAX_LABELS} labels, keys and values of at most {MAX_LABEL} characters");
    Err(Failure::bad_field(Reason::InvalidArgument, "labels", description))
}

pub(super) fn check_filter(filter: &SecretFilter) -> Result<(), Failure> {
    if filter.prefix.len() <= 255 && filter.labels.len() <= 16 {
        return Ok(());
    }
    let description = "takes a prefix of at most 255 characters and at most 16 labels";
    Err(Failure::bad_field(Reason::InvalidArgument, "filter", description))
}

pub(super) fn selected(filter: &SecretFilter, info: &SecretInfo) -> bool {
    info.name.id().starts_with(&filter.prefix)
        && filter.labels.iter().all(|(key, value)| info.labels.get(key) == Some(value))
}
