//! What the broker says of itself: the parts' own accounts, for `GetStatus`, for metrics and for health.

mod credentials;
mod databases;
mod envoy;
mod events;
mod gateways;
mod overview;
mod rotations;
mod stores;
mod watches;

pub use overview::overview;

use keyferry_proto::v1::{
    AuditStatus, BrokerStatus, BuildInfo, CacheStatus, ErrorDetail, ErrorReason, HealthState, IssuerStatus,
    PolicyStatus, ReloadStatus, StateStatus, StoreStatus, TlsStatus,
};

use crate::admission::PolicyStore;
use crate::app::{Parts, StoreSummary};
use crate::audit::Log;
use crate::identity::token;
use crate::names::StoreName;
use crate::rpc::timestamp;
use crate::secrets::CacheAccount;
use crate::state::State;
use crate::telemetry::{Samples, names};
use crate::transport::{HandshakeFailure, Tls, TransportStats};

pub fn status(parts: &Parts) -> BrokerStatus {
    BrokerStatus {
        build: Some(BuildInfo { version: env!("CARGO_PKG_VERSION").to_owned(), ..BuildInfo::default() }),
        node: parts.node.clone(),
        start_time: Some(timestamp(parts.started)),
        server_time: Some(timestamp(parts.clock.now())),
        draining: parts.drain.is_draining(),
        tls: Some(tls(&parts.tls)),
        issuers: parts.tokens.status().iter().map(issuer).collect(),
        policy: Some(policy(parts.gate.policies())),
        audit: Some(audit(&parts.log)),
        stores: parts.stores.iter().map(|(name, summary)| store(parts, name, summary)).collect(),
        state: Some(state(&parts.state)),
        databases: databases::status(&parts.leases, &parts.database_tokens),
        leases: databases::counts(&parts.leases),
        cache: Some(cache(parts.secrets.cache_accounts())),
        rotations: Some(rotations::counts(&parts.engine, &parts.watches)),
        envoy_resources: envoy::status(&parts.envoy),
        ..BrokerStatus::default()
    }
}

/// The same accounts as numbers, for metrics.
pub fn samples(parts: &Parts, out: &mut Samples) {
    let stats = parts.tls.stats();
    connections("grpc", stats, out);
    out.set(&names::TLS_RELOADS, &["ok"], stats.reloads());
    out.set(&names::TLS_RELOADS, &["failed"], stats.reload_failures());
    out.set(&names::CERTIFICATE_EXPIRY, &[], parts.tls.status().not_after.as_secs());

    let audit = parts.log.health();
    out.set(&names::AUDIT_HEALTHY, &[], audit.failing.is_none());
    out.set(&names::AUDIT_LINES, &[], audit.written_lines);
    out.set(&names::AUDIT_BYTES, &[], audit.written_bytes);
    out.set(&names::AUDIT_QUEUED, &[], audit.queued);
    out.set(&names::AUDIT_LOSSES, &[], audit.losses);

    let state = parts.state.status();
    out.set(&names::STATE_HEALTHY, &[], state.failing.is_none());
    out.set(&names::STATE_REVISION, &[], state.revision.get());
    out.set(&names::STATE_LEADER, &[], parts.state.leadership().term().fence.is_some());
    out.set(&names::STATE_QUARANTINED, &[], parts.state.quarantined() as u64);

    let policy = parts.gate.policies().status();
    let hash = policy.hash.to_string();
    out.set(&names::POLICIES, &[], policy.policies as u64);
    out.set(&names::POLICY_INFO, &[hash.get(..16).unwrap_or_default()], 1_u64);
    out.set(&names::POLICY_LOADED, &[], policy.loaded.as_secs());
    out.set(&names::POLICY_REJECTED, &[], policy.rejected.is_some());

    for (name, cache) in ["values", "labels"].into_iter().zip(parts.secrets.cache_accounts()) {
        let results = [("hit", cache.hits), ("miss", cache.misses), ("joined", cache.joined), ("stale", cache.stale)];
        for (result, count) in results {
            out.set(&names::CACHE_READS, &[name, result], count);
        }
        out.set(&names::CACHE_ENTRIES, &[name], cache.entries);
        out.set(&names::CACHE_BYTES, &[name], cache.bytes);
        out.set(&names::CACHE_MAX_BYTES, &[name], cache.max_bytes);
        out.set(&names::CACHE_EVICTED, &[name], cache.evicted);
    }
    out.set(&names::DRAINING, &[], parts.drain.is_draining());
    stores::samples(&parts.guards, out);
    credentials::samples(&parts.credentials, out);
    databases::samples(&parts.leases, &parts.database_tokens, out);
    events::samples(&parts.sources, out);
    rotations::samples(&parts.engine, out);
    gateways::samples(&parts.gateways, out);
    watches::samples(&parts.watches, out);
    envoy::samples(&parts.envoy, out);
}

/// Of one listener.
pub fn connections(listener: &'static str, stats: &TransportStats, out: &mut Samples) {
    out.set(&names::CONNECTIONS_OPEN, &[listener], stats.open() as u64);
    out.set(&names::CONNECTIONS_ACCEPTED, &[listener], stats.accepted());
    out.set(&names::ACCEPT_ERRORS, &[listener], stats.accept_errors());
    for (reason, count) in [
        ("full", stats.refused_full()),
        ("retired", stats.retired()),
        ("cut_off", stats.cut_off()),
        ("broken", stats.broken()),
        ("timed_out", stats.timed_out()),
        ("flooded", stats.flooded()),
    ] {
        out.set(&names::CONNECTIONS_ENDED, &[listener, reason], count);
    }
    for kind in HandshakeFailure::ALL {
        out.set_nonzero(&names::HANDSHAKE_FAILURES, &[listener, kind.name()], stats.handshake_failures(kind));
    }
}

/// Why calls should go elsewhere for now, a line each. A store that is out is none: it is out for every replica, and
/// what is cached is still answered.
pub fn obstacles(parts: &Parts) -> Vec<String> {
    let draining = parts.drain.is_draining().then(|| "draining: this replica is shutting down".to_owned());
    let failing = parts.log.health().failing;
    let audit = failing.map(|failing| format!("audit: the log cannot be written since {}", failing.since));
    draining.into_iter().chain(audit).collect()
}

fn store(parts: &Parts, name: &StoreName, summary: &StoreSummary) -> StoreStatus {
    let credential = summary.credential.as_ref().and_then(|name| parts.credentials.get(name));
    StoreStatus {
        kind: summary.kind.into(),
        location: summary.location.clone(),
        credential: credential.map(|credential| credentials::status(credential)),
        event_sources: events::status(&parts.sources, name),
        ..stores::status(name, parts.guards.get(name))
    }
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

fn issuer(status: &token::IssuerStatus) -> IssuerStatus {
    IssuerStatus {
        name: status.name.clone(),
        issuer_url: status.url.clone(),
        keys: Some(ReloadStatus {
            health: if status.usable { degraded_if(status.problem.is_some()) } else { HealthState::Unhealthy.into() },
            load_time: status.fetched_at.map(timestamp),
            last_error: status.problem.as_deref().map(trouble),
            ..ReloadStatus::default()
        }),
        key_count: i32::try_from(status.keys).unwrap_or(i32::MAX),
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

/// Entries and room of values and labels together; the reads are those of values, as callers make them.
fn cache([values, labels]: [CacheAccount; 2]) -> CacheStatus {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    CacheStatus {
        entry_count: count(values.entries + labels.entries),
        size_bytes: count(values.bytes + labels.bytes),
        max_bytes: count(values.max_bytes + labels.max_bytes),
        hit_count: count(values.hits),
        miss_count: count(values.misses),
        joined_count: count(values.joined),
        stale_count: count(values.stale),
        evicted_count: count(values.evicted + labels.evicted),
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
        last_error: health
            .failing
            .map(|failing| trouble(&failing.reason))
            .or(health.head_failing.as_deref().map(trouble))
            .or(health
                .loss
                .as_ref()
                .map(|_| trouble("records were lost or put in doubt; `keyferry audit verify` names them"))),
        ..AuditStatus::default()
    }
}

fn state(state: &State) -> StateStatus {
    let status = state.status();
    let quarantined = state.quarantined();
    let count = |revision: u64| i64::try_from(revision).unwrap_or(i64::MAX);
    StateStatus {
        health: match (&status.failing, status.epoch) {
            (Some(_), _) => HealthState::Unhealthy.into(),
            (None, None) => HealthState::Unspecified.into(),
            (None, Some(_)) => degraded_if(quarantined > 0),
        },
        backend: status.backend.to_owned(),
        epoch: status.epoch.map(|epoch| epoch.to_string()).unwrap_or_default(),
        revision: count(status.revision.get()),
        compacted_revision: status.oldest.map(|oldest| count(oldest.get())).unwrap_or_default(),
        nodes: status.nodes,
        leader: status.leader.unwrap_or_default(),
        quarantined_count: i32::try_from(quarantined).unwrap_or(i32::MAX),
        last_error: status.failing.as_deref().map(trouble),
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
