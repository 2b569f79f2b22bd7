//! The status for people: a line for each part, and tables under the stores.

use keyferry_proto::v1::{
    BrokerStatus, CacheStatus, CloudCredentialStatus, EnvoyRejection, EnvoyResourceStatus, ErrorDetail,
    EventSourceStatus, HealthState, LeaseCounts, QuotaLedgerEntry, ReloadStatus, StoreKind, StoreStatus,
};

use super::{circuit, health, operation};
use crate::cli::printable;
use crate::cli::text::{shown, table, told};

pub(super) fn status(status: &BrokerStatus) -> String {
    let mut lines = vec![headline(status), String::new()];
    lines.extend(table(&parts(status)));
    for store in &status.stores {
        lines.push(String::new());
        lines.extend(of_store(store));
    }
    // Names and messages come over the network.
    printable(&lines.join("\n"))
}

fn headline(status: &BrokerStatus) -> String {
    let version = status.build.as_ref().map_or("", |build| &build.version);
    let state = if status.draining { "draining" } else { "serving" };
    format!("keyferry {version}, node {}, {state} since {}", status.node, shown(status.start_time.as_ref()))
}

/// What it is, its name, its health, and the rest as one sentence.
fn parts(status: &BrokerStatus) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = |what: &str, name: &str, state: HealthState, about: String, error: Option<&ErrorDetail>| {
        let about = match error {
            Some(error) => format!("{about}; {}", told(error)),
            None => about,
        };
        rows.push(vec![what.to_owned(), name.to_owned(), health(state).to_owned(), about]);
    };
    if let Some(tls) = &status.tls {
        let until = shown(tls.certificate_not_after_time.as_ref());
        let about = format!("certificate until {until}, {} client CAs", tls.client_ca_count);
        let (state, error) = reloading(tls.certificate.as_ref());
        row("tls", "", state, about, error);
    }
    for issuer in &status.issuers {
        let (state, error) = reloading(issuer.keys.as_ref());
        row("issuer", &issuer.name, state, format!("{} keys, {}", issuer.key_count, issuer.issuer_url), error);
    }
    if let Some(policy) = &status.policy {
        let (state, error) = reloading(policy.reload.as_ref());
        let hash = policy.hash.get(..16).unwrap_or_default();
        row("policy", "", state, format!("{} policies, hash {hash}", policy.policy_count), error);
    }
    if let Some(audit) = &status.audit {
        let about = format!("record {}, {} waiting", audit.sequence, audit.pending_count);
        row("audit", "", audit.health(), about, audit.last_error.as_ref());
    }
    if let Some(state) = &status.state {
        let about = format!("{}, revision {}, {} set aside", state.backend, state.revision, state.quarantined_count);
        row("state", "", state.health(), about, state.last_error.as_ref());
    }
    for database in &status.databases {
        let about = format!("last answer {}", shown(database.success_time.as_ref()));
        row("database", &database.name, database.health(), about, database.last_error.as_ref());
    }
    if let Some(leases) = status.leases.as_ref().filter(|_| !status.databases.is_empty()) {
        let state = if leases.failing_count > 0 { HealthState::Degraded } else { HealthState::Healthy };
        row("leases", "", state, of_leases(leases), None);
    }
    if let Some(cache) = &status.cache {
        row("cache", "", HealthState::Healthy, of_cache(cache), None);
    }
    for resource in &status.envoy_resources {
        row("envoy", &resource.name, resource.health(), of_resource(resource), resource.last_error.as_ref());
    }
    rows
}

fn of_resource(resource: &EnvoyResourceStatus) -> String {
    let refused = resource.rejections.iter().map(|rejection| {
        let EnvoyRejection { node, version, message, .. } = rejection;
        format!("; {node} refused {version}: {message}")
    });
    format!(
        "{}, version {}, {} streams{}",
        resource.kind,
        resource.version,
        resource.stream_count,
        refused.collect::<String>()
    )
}

fn of_leases(leases: &LeaseCounts) -> String {
    let overdue = leases.oldest_overdue_time.as_ref();
    let overdue = overdue.map(|at| format!("; the oldest should have ended at {}", shown(Some(at))));
    format!(
        "{} pending, {} active, {} being revoked, {} of them tried more than once{}",
        leases.pending_count,
        leases.active_count,
        leases.revoking_count,
        leases.failing_count,
        overdue.unwrap_or_default()
    )
}

fn of_cache(cache: &CacheStatus) -> String {
    format!(
        "{} entries, {} of {} bytes; {} hits, {} misses, {} joined, {} stale, {} evicted",
        cache.entry_count,
        cache.size_bytes,
        cache.max_bytes,
        cache.hit_count,
        cache.miss_count,
        cache.joined_count,
        cache.stale_count,
        cache.evicted_count
    )
}

fn of_store(store: &StoreStatus) -> Vec<String> {
    let mut head = format!("{}  {}", store.name, health(store.health()));
    if store.kind() != StoreKind::Unspecified {
        head.push_str(&format!(", {}", store.kind().as_str_name().trim_start_matches("STORE_KIND_").to_lowercase()));
    }
    if !store.location.is_empty() {
        head.push_str(&format!(" {}", store.location));
    }
    let mut lines = vec![head];
    if let Some(state) = circuit(store.circuit()) {
        let retry = store.circuit_retry_time.as_ref().map(|at| format!(", tried again at {}", shown(Some(at))));
        let success = shown(store.success_time.as_ref());
        lines.push(format!("  circuit     {state}{}; last answer {success}", retry.unwrap_or_default()));
    }
    lines.extend(store.credential.iter().map(of_credential));
    lines.extend(store.event_sources.iter().map(of_source));
    lines.extend(store.last_error.iter().map(|error| format!("  last error  {}", told(error))));
    if !store.quota.is_empty() {
        let header = ["class", "window", "limit", "used", "left", "forecast", "throttled", "refused", "used up"];
        let header = header.map(str::to_owned).to_vec();
        let rows: Vec<_> = std::iter::once(header).chain(store.quota.iter().map(ledger_row)).collect();
        lines.extend(table(&rows).into_iter().map(|row| format!("  {row}")));
    }
    lines
}

fn of_source(source: &EventSourceStatus) -> String {
    let error = source.last_error.as_ref().map(|error| format!("; {}", told(error)));
    let (state, last) = (health(source.health()), shown(source.receive_time.as_ref()));
    format!("  {:<11} {state}, last {last}{}", source.source, error.unwrap_or_default())
}

fn ledger_row(entry: &QuotaLedgerEntry) -> Vec<String> {
    let window = entry.window.as_ref().map_or(0, |window| window.seconds);
    let counts = [entry.limit, entry.used, entry.left, entry.forecast, entry.throttled_count, entry.refused_count];
    let mut row = vec![operation(entry.operation()).to_owned(), format!("{window}s")];
    row.extend(counts.map(|count| count.to_string()));
    row.push(entry.exhaust_time.as_ref().map_or_else(|| "no".to_owned(), |at| shown(Some(at))));
    row
}

fn of_credential(credential: &CloudCredentialStatus) -> String {
    let mut line = format!("  credential  {}, by {}", health(credential.health()), credential.chain.join(" > "));
    if !credential.subject.is_empty() {
        line.push_str(&format!(", as {}", credential.subject));
    }
    if credential.expire_time.is_some() {
        line.push_str(&format!(", until {}", shown(credential.expire_time.as_ref())));
    }
    if let Some(error) = &credential.last_error {
        line.push_str(&format!("; {} failed: {}", credential.failed_link, told(error)));
    }
    line
}

fn reloading(reload: Option<&ReloadStatus>) -> (HealthState, Option<&ErrorDetail>) {
    reload.map_or((HealthState::Unspecified, None), |reload| (reload.health(), reload.last_error.as_ref()))
}

#[cfg(test)]
mod tests {
    use keyferry_proto::v1::{BuildInfo, CircuitState, ErrorReason, ProviderOperation};

    use super::*;

    #[test]
    fn a_store_is_shown_with_its_circuit_its_credential_and_its_ledger() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let error = |message: &str| ErrorDetail {
            reason: ErrorReason::ProviderUnavailable.into(),
            message: message.to_owned(),
            ..ErrorDetail::default()
        };
        let entry = |class: ProviderOperation, used| QuotaLedgerEntry {
            operation: class.into(),
            window: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            limit: 45_000,
            used,
            left: 45_000 - used,
            forecast: 60_000,
            exhaust_time: at(1_800_000_030).filter(|_| used > 0),
            throttled_count: 3,
            refused_count: 2,
        };
        let store = StoreStatus {
            name: "stores/prod".into(),
            kind: StoreKind::Gcp.into(),
            health: HealthState::Unhealthy.into(),
            location: "my-project".into(),
            circuit: CircuitState::Open.into(),
            circuit_retry_time: at(1_800_000_000),
            credential: Some(CloudCredentialStatus {
                health: HealthState::Degraded.into(),
                subject: "broker@my-project".into(),
                chain: vec!["sts".into(), "impersonation".into()],
                failed_link: "sts".into(),
                last_error: Some(error("wrong \u{1b}[2J audience")),
                ..CloudCredentialStatus::default()
            }),
            quota: vec![entry(ProviderOperation::Access, 44_000), entry(ProviderOperation::Write, 0)],
            last_error: Some(error("stores/prod did not answer")),
            ..StoreStatus::default()
        };
        let build = Some(BuildInfo { version: "1.2.3".into(), ..BuildInfo::default() });
        let shown = status(&BrokerStatus {
            node: "a".into(),
            start_time: at(1_800_000_000),
            build,
            stores: vec![store],
            ..BrokerStatus::default()
        });
        let expected = "\
keyferry 1.2.3, node a, serving since 2027-01-15T08:00:00.000000Z


stores/prod  unhealthy, gcp my-project
  circuit     open, tried again at 2027-01-15T08:00:00.000000Z; last answer never
  credential  degraded, by sts > impersonation, as broker@my-project; sts failed: PROVIDER_UNAVAILABLE: wrong \u{fffd}[2J audience
  last error  PROVIDER_UNAVAILABLE: stores/prod did not answer
  class   window  limit  used   left   forecast  throttled  refused  used up
  access  60s     45000  44000  1000   60000     3          2        2027-01-15T08:00:30.000000Z
  write   60s     45000  0      45000  60000     3          2        no";
        assert_eq!(shown, expected);
    }
}
