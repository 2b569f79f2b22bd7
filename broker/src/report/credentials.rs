//! What is told of the broker's own credentials, as a message and as numbers.

use keyferry_proto::v1::{CloudCredentialStatus, ErrorDetail, ErrorReason, HealthState};

use crate::app::Credentials;
use crate::clock::Timestamp;
use crate::providers::credential::{Credential, CredentialHealth};
use crate::rpc::timestamp;
use crate::telemetry::{Samples, names};

pub(super) fn status(credential: &Credential) -> CloudCredentialStatus {
    let status = credential.status();
    let health = match status.health {
        CredentialHealth::Unknown => HealthState::Unspecified,
        CredentialHealth::Healthy => HealthState::Healthy,
        CredentialHealth::Degraded => HealthState::Degraded,
        CredentialHealth::Unhealthy => HealthState::Unhealthy,
    };
    CloudCredentialStatus {
        health: health.into(),
        subject: status.subject.as_deref().unwrap_or_default().to_owned(),
        chain: status.chain.iter().map(|&link| link.to_owned()).collect(),
        failed_link: status.broken.as_ref().map_or("", |broken| broken.link).to_owned(),
        refresh_time: status.refreshed.map(timestamp),
        expire_time: status.expires.map(timestamp),
        last_error: status.broken.as_ref().map(|broken| ErrorDetail {
            code: tonic::Code::Unavailable.into(),
            reason: ErrorReason::ProviderCredential.into(),
            message: broken.message.clone(),
            ..ErrorDetail::default()
        }),
        rebuild_count: i32::try_from(status.rebuilds).unwrap_or(i32::MAX),
    }
}

pub(super) fn samples(credentials: &Credentials, out: &mut Samples) {
    for credential in credentials.values() {
        let status = credential.status();
        let label = [&*status.name];
        if status.health != CredentialHealth::Unknown {
            out.set(&names::CREDENTIAL_HEALTHY, &label, status.health == CredentialHealth::Healthy);
        }
        out.set_nonzero(&names::CREDENTIAL_EXPIRY, &label, status.expires.map_or(0, Timestamp::as_secs));
        out.set(&names::CREDENTIAL_FAILURES, &label, status.failures);
    }
}
