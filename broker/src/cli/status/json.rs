//! The status for programs: the contract's names, times as text, what is absent as null.

use keyferry_proto::v1::{
    BrokerStatus, CloudCredentialStatus, ErrorDetail, EventSourceStatus, QuotaLedgerEntry, ReloadStatus, StoreKind,
    StoreStatus,
};
use serde_json::{Value, json};

use super::{circuit, health, operation};
use crate::cli::text::reason;
use crate::cli::text::time;

pub(super) fn status(status: &BrokerStatus) -> Value {
    json!({
        "version": status.build.as_ref().map(|build| &build.version),
        "node": status.node,
        "start_time": at(status.start_time.as_ref()),
        "server_time": at(status.server_time.as_ref()),
        "draining": status.draining,
        "tls": status.tls.as_ref().map(|tls| json!({
            "certificate": reload(tls.certificate.as_ref()),
            "certificate_sha256": tls.certificate_sha256,
            "certificate_not_after_time": at(tls.certificate_not_after_time.as_ref()),
            "client_ca": reload(tls.client_ca.as_ref()),
            "client_ca_count": tls.client_ca_count,
            "crl": reload(tls.crl.as_ref()),
        })),
        "issuers": status.issuers.iter().map(|issuer| json!({
            "name": issuer.name,
            "issuer_url": issuer.issuer_url,
            "keys": reload(issuer.keys.as_ref()),
            "key_count": issuer.key_count,
        })).collect::<Vec<_>>(),
        "policy": status.policy.as_ref().map(|policy| json!({
            "reload": reload(policy.reload.as_ref()),
            "hash": policy.hash,
            "policy_count": policy.policy_count,
        })),
        "audit": status.audit.as_ref().map(|audit| json!({
            "health": health(audit.health()),
            "sequence": audit.sequence,
            "pending_count": audit.pending_count,
            "last_error": error(audit.last_error.as_ref()),
        })),
        "state": status.state.as_ref().map(|state| json!({
            "health": health(state.health()),
            "backend": state.backend,
            "epoch": state.epoch,
            "revision": state.revision,
            "compacted_revision": state.compacted_revision,
            "nodes": state.nodes,
            "leader": state.leader,
            "quarantined_count": state.quarantined_count,
            "last_error": error(state.last_error.as_ref()),
        })),
        "stores": status.stores.iter().map(store).collect::<Vec<_>>(),
        "envoy_resources": status.envoy_resources.iter().map(|resource| json!({
            "name": resource.name,
            "kind": resource.kind,
            "secrets": resource.secrets,
            "health": health(resource.health()),
            "version": resource.version,
            "publish_time": at(resource.publish_time.as_ref()),
            "last_error": error(resource.last_error.as_ref()),
            "stream_count": resource.stream_count,
            "rejections": resource.rejections.iter().map(|rejection| json!({
                "caller": rejection.caller,
                "node": rejection.node,
                "version": rejection.version,
                "message": rejection.message,
                "time": at(rejection.time.as_ref()),
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "databases": status.databases.iter().map(|database| json!({
            "name": database.name,
            "health": health(database.health()),
            "success_time": at(database.success_time.as_ref()),
            "sweep_time": at(database.sweep_time.as_ref()),
            "last_error": error(database.last_error.as_ref()),
        })).collect::<Vec<_>>(),
        "leases": status.leases.as_ref().map(|leases| json!({
            "pending_count": leases.pending_count,
            "active_count": leases.active_count,
            "revoking_count": leases.revoking_count,
            "failing_count": leases.failing_count,
            "oldest_overdue_time": at(leases.oldest_overdue_time.as_ref()),
        })),
        "cache": status.cache.as_ref().map(|cache| json!({
            "entry_count": cache.entry_count,
            "size_bytes": cache.size_bytes,
            "max_bytes": cache.max_bytes,
            "hit_count": cache.hit_count,
            "miss_count": cache.miss_count,
            "joined_count": cache.joined_count,
            "stale_count": cache.stale_count,
            "evicted_count": cache.evicted_count,
        })),
    })
}

fn store(store: &StoreStatus) -> Value {
    let kind = Some(store.kind()).filter(|kind| *kind != StoreKind::Unspecified);
    json!({
        "name": store.name,
        "kind": kind.map(|kind| kind.as_str_name().trim_start_matches("STORE_KIND_").to_lowercase()),
        "health": health(store.health()),
        "location": store.location,
        "credential": store.credential.as_ref().map(credential),
        "circuit": circuit(store.circuit()),
        "circuit_retry_time": at(store.circuit_retry_time.as_ref()),
        "quota": store.quota.iter().map(ledger_entry).collect::<Vec<_>>(),
        "success_time": at(store.success_time.as_ref()),
        "last_error": error(store.last_error.as_ref()),
        "event_sources": store.event_sources.iter().map(event_source).collect::<Vec<_>>(),
    })
}

fn event_source(source: &EventSourceStatus) -> Value {
    json!({
        "source": source.source,
        "health": health(source.health()),
        "receive_time": at(source.receive_time.as_ref()),
        "last_error": error(source.last_error.as_ref()),
    })
}

fn ledger_entry(entry: &QuotaLedgerEntry) -> Value {
    json!({
        "operation": operation(entry.operation()),
        "window_seconds": entry.window.as_ref().map(|window| window.seconds),
        "limit": entry.limit,
        "used": entry.used,
        "left": entry.left,
        "forecast": entry.forecast,
        "exhaust_time": at(entry.exhaust_time.as_ref()),
        "throttled_count": entry.throttled_count,
        "refused_count": entry.refused_count,
    })
}

fn credential(credential: &CloudCredentialStatus) -> Value {
    json!({
        "health": health(credential.health()),
        "subject": credential.subject,
        "chain": credential.chain,
        "failed_link": credential.failed_link,
        "refresh_time": at(credential.refresh_time.as_ref()),
        "expire_time": at(credential.expire_time.as_ref()),
        "rebuild_count": credential.rebuild_count,
        "last_error": error(credential.last_error.as_ref()),
    })
}

fn reload(reload: Option<&ReloadStatus>) -> Option<Value> {
    reload.map(|reload| {
        json!({
            "health": health(reload.health()),
            "load_time": at(reload.load_time.as_ref()),
            "attempt_time": at(reload.attempt_time.as_ref()),
            "expire_time": at(reload.expire_time.as_ref()),
            "last_error": error(reload.last_error.as_ref()),
        })
    })
}

fn error(error: Option<&ErrorDetail>) -> Option<Value> {
    error.map(|error| json!({ "reason": reason(error), "message": error.message }))
}

fn at(at: Option<&prost_types::Timestamp>) -> Option<String> {
    at.and_then(time)
}
