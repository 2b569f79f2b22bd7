//! What `GetStatus` shows: the parts' own accounts, in the contract's words.

use keyferry_proto::v1::{
    AuditStatus, BrokerStatus, BuildInfo, ErrorDetail, ErrorReason, HealthState, PolicyStatus, ReloadStatus, StoreKind,
    StoreStatus, TlsStatus,
};

use crate::admission::PolicyStore;
use crate::app::Parts;
use crate::audit::Log;
use crate::rpc::timestamp;
use crate::transport::Tls;

pub fn status(parts: &Parts) -> BrokerStatus {
    BrokerStatus {
        build: Some(BuildInfo { version: env!("CARGO_PKG_VERSION").to_owned(), ..BuildInfo::default() }),
        node: parts.node.clone(),
        start_time: Some(timestamp(parts.started)),
        server_time: Some(timestamp(parts.clock.now())),
        draining: parts.drain.is_draining(),
        tls: Some(tls(&parts.tls)),
        policy: Some(policy(parts.gate.policies())),
        audit: Some(audit(&parts.log)),
        stores: parts
            .stores
            .iter()
            .map(|name| StoreStatus {
                name: name.to_string(),
                kind: StoreKind::Local.into(),
                health: HealthState::Healthy.into(),
                ..StoreStatus::default()
            })
            .collect(),
        ..BrokerStatus::default()
    }
}

/// Why calls should go elsewhere for now, a line each.
pub fn obstacles(parts: &Parts) -> Vec<String> {
    let draining = parts.drain.is_draining().then(|| "draining: this replica is shutting down".to_owned());
    let failing = parts.log.health().failing;
    let audit = failing.map(|failing| format!("audit: the log cannot be written since {}", failing.since));
    draining.into_iter().chain(audit).collect()
}

fn tls(tls: &Tls) -> TlsStatus {
    let status = tls.status();
    let reload = |failed: bool| ReloadStatus {
        health: degraded_if(failed),
        load_time: Some(timestamp(status.loaded_at)),
        attempt_time: status.failure.as_ref().map(|failure| timestamp(failure.at)),
        last_error: status.failure.as_ref().map(|failure| trouble(&failure.message)),
        expire_time: None,
    };
    let failed = status.failure.is_some();
    TlsStatus {
        // They are read and swapped as one, so they share one account.
        certificate: Some(reload(failed)),
        client_ca: Some(reload(failed)),
        crl: (status.client_crls > 0).then(|| reload(failed)),
        certificate_sha256: status.thumbprint.to_string(),
        certificate_not_after_time: Some(timestamp(status.not_after)),
        client_ca_count: i32::try_from(status.client_cas).unwrap_or(i32::MAX),
    }
}

fn policy(policies: &PolicyStore) -> PolicyStatus {
    let status = policies.status();
    PolicyStatus {
        reload: Some(ReloadStatus {
            health: degraded_if(status.rejected.is_some()),
            load_time: Some(timestamp(status.loaded)),
            last_error: status.rejected.as_deref().map(trouble),
            ..ReloadStatus::default()
        }),
        hash: status.hash.to_string(),
        policy_count: i32::try_from(status.policies).unwrap_or(i32::MAX),
    }
}

fn audit(log: &Log) -> AuditStatus {
    let health = log.health();
    AuditStatus {
        health: if health.failing.is_some() {
            HealthState::Unhealthy.into()
        } else {
            degraded_if(health.head_failing.is_some() || health.loss.is_some())
        },
        sequence: i64::try_from(health.last_sequence).unwrap_or(i64::MAX),
        pending_count: i32::try_from(health.queued).unwrap_or(i32::MAX),
        last_error: health.failing.map(|failing| trouble(&failing.reason)),
        ..AuditStatus::default()
    }
}

fn degraded_if(bad: bool) -> i32 {
    if bad { HealthState::Degraded.into() } else { HealthState::Healthy.into() }
}

fn trouble(message: &str) -> ErrorDetail {
    ErrorDetail {
        code: tonic::Code::FailedPrecondition.into(),
        reason: ErrorReason::Unspecified.into(),
        message: message.to_owned(),
        ..ErrorDetail::default()
    }
}
