//! What Google tells, in the seam's types. What cannot be so is garbage, whoever sent it.

use std::sync::Arc;

use google_cloud_secretmanager_v1::model;
use google_cloud_secretmanager_v1::model::secret_version::State;
use google_cloud_wkt as wkt;

use super::{path, refusal};
use crate::clock::Timestamp;
use crate::error::{Failure, Reason};
use crate::names::{SecretName, StoreName};
use crate::secrets::{Fetched, Labels, SecretBytes, SecretInfo, VersionInfo, VersionState};

/// Takes over the payload's buffer, so that it is zeroed with the secret.
pub(super) fn fetched(answer: model::AccessSecretVersionResponse, secret: &SecretName) -> Result<Fetched, Failure> {
    let garbage = || refusal::garbage(secret.as_str());
    let version = version_info(&answer.name, VersionState::Enabled, None, secret)?;
    let payload = answer.payload.ok_or_else(garbage)?;
    let told = payload.data_crc32c;
    let payload = SecretBytes::new(payload.data.into());
    let crc32c = crc32c::crc32c(payload.expose());
    // Versions from before Google kept checksums have none.
    if told.is_some_and(|told| told != i64::from(crc32c)) {
        let message = format!("{secret}/versions/{} does not match its checksum; try again later", version.id);
        return Err(Failure::new(Reason::PayloadCorrupt, message));
    }
    Ok(Fetched { version, payload, crc32c })
}

pub(super) fn version(version: &model::SecretVersion, secret: &SecretName) -> Result<VersionInfo, Failure> {
    let state = match version.state {
        State::Enabled => VersionState::Enabled,
        State::Disabled => VersionState::Disabled,
        State::Destroyed => VersionState::Destroyed,
        State::Unspecified | State::UnknownValue(_) | _ => return Err(refusal::garbage(secret.as_str())),
    };
    version_info(&version.name, state, version.create_time, secret)
}

pub(super) fn secret(told: model::Secret, asked: &SecretName) -> Result<SecretInfo, Failure> {
    match path::told_secret(&told.name) {
        Some(id) if id == asked.id() => Ok(secret_info(told, asked.clone())),
        _ => Err(refusal::garbage(asked.as_str())),
    }
}

pub(super) fn listed(told: model::Secret, store: &StoreName) -> Result<SecretInfo, Failure> {
    let name = path::told_secret(&told.name).and_then(|id| store.secret(id).ok());
    Ok(secret_info(told, name.ok_or_else(|| refusal::garbage(store.as_str()))?))
}

pub(super) fn next(token: String) -> Option<String> {
    Some(token).filter(|token| !token.is_empty())
}

fn version_info(
    name: &str,
    state: VersionState,
    created: Option<wkt::Timestamp>,
    asked: &SecretName,
) -> Result<VersionInfo, Failure> {
    match path::told_version(name) {
        Some((secret, id)) if secret == asked.id() => Ok(VersionInfo {
            id: Arc::from(id),
            state,
            created: created.and_then(timestamp),
            not_before: None,
            expires: None,
            content_type: None,
        }),
        _ => Err(refusal::garbage(asked.as_str())),
    }
}

fn secret_info(told: model::Secret, name: SecretName) -> SecretInfo {
    let labels = Labels::new(told.labels.into_iter().collect());
    SecretInfo { name, labels, created: told.create_time.and_then(timestamp) }
}

fn timestamp(time: wkt::Timestamp) -> Option<Timestamp> {
    let (secs, nanos) = (u64::try_from(time.seconds()).ok()?, u64::try_from(time.nanos()).ok()?);
    Some(Timestamp::from_micros(secs.checked_mul(1_000_000)?.checked_add(nanos / 1_000)?))
}
