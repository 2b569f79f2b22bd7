//! Every metric that Keyferry reports, declared once: its names, its meaning, its labels.

/// What a metric is called and how its numbers are to be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// As OpenTelemetry writes it.
    pub otel: &'static str,
    /// As Prometheus writes it, with its unit, and `_total` on counters.
    pub prometheus: &'static str,
    pub help: &'static str,
    /// In UCUM, for OpenTelemetry: `s`, `By`, `{call}`.
    pub unit: &'static str,
    pub kind: Kind,
    /// Keys as OpenTelemetry writes them; Prometheus gets `_` for each dot.
    pub labels: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

/// The value of `rpc.method` for methods that do not exist, so that callers cannot invent label values.
pub const OTHER_METHOD: &str = "_OTHER";
pub const RPC_SYSTEM: &str = "rpc.system.name";
pub const RPC_METHOD: &str = "rpc.method";
pub const RPC_STATUS: &str = "rpc.response.status_code";

pub static CALL_DURATION: Metric = Metric {
    otel: "rpc.server.call.duration",
    prometheus: "rpc_server_call_duration_seconds",
    help: "Time from a call's arrival to the end of its answer.",
    unit: "s",
    kind: Histogram,
    labels: &[RPC_SYSTEM, RPC_METHOD, RPC_STATUS],
};

pub static CALLS_IN_FLIGHT: Metric = gauge(
    "keyferry.calls.in_flight",
    "keyferry_calls_in_flight",
    "Calls under way, open streams included.",
    "{call}",
    &[RPC_METHOD],
);

pub static CALL_FAILURES: Metric = counter(
    "keyferry.calls.failures",
    "keyferry_call_failures_total",
    "Calls answered with an error, by its reason in ErrorInfo.",
    "{call}",
    &["reason"],
);

pub static CONNECTIONS_OPEN: Metric = gauge(
    "keyferry.connections.open",
    "keyferry_connections_open",
    "Client connections past their handshake.",
    "{connection}",
    &["listener"],
);

pub static CONNECTIONS_ACCEPTED: Metric = counter(
    "keyferry.connections.accepted",
    "keyferry_connections_accepted_total",
    "Connections taken from a listener.",
    "{connection}",
    &["listener"],
);

pub static CONNECTIONS_ENDED: Metric = counter(
    "keyferry.connections.ended",
    "keyferry_connections_ended_total",
    "Connections that the broker ended or lost, by reason: full, retired, cut_off, broken, timed_out, flooded.",
    "{connection}",
    &["listener", "reason"],
);

pub static ACCEPT_ERRORS: Metric = counter(
    "keyferry.connections.accept_errors",
    "keyferry_accept_errors_total",
    "Times that a listener could not accept, as when out of file descriptors.",
    "{error}",
    &["listener"],
);

pub static HANDSHAKE_FAILURES: Metric = counter(
    "keyferry.tls.handshake.failures",
    "keyferry_tls_handshake_failures_total",
    "TLS handshakes that failed, by what they failed on.",
    "{handshake}",
    &["listener", "kind"],
);

pub static WEB_REQUESTS: Metric = counter(
    "keyferry.web.requests",
    "keyferry_web_requests_total",
    "Requests that the web port answered, by its route and the HTTP status.",
    "{request}",
    &["route", "status"],
);

pub static TLS_RELOADS: Metric = counter(
    "keyferry.tls.reloads",
    "keyferry_tls_reloads_total",
    "Attempts to take over changed certificates, keys, CAs and CRLs, by result.",
    "{reload}",
    &["result"],
);

pub static CERTIFICATE_EXPIRY: Metric = gauge(
    "keyferry.tls.certificate.expiry",
    "keyferry_tls_certificate_expiry_timestamp_seconds",
    "When the server certificate in use expires.",
    "s",
    &[],
);

pub static AUDIT_HEALTHY: Metric = gauge(
    "keyferry.audit.healthy",
    "keyferry_audit_healthy",
    "1 while audit records can be written; at 0 every call is refused.",
    "1",
    &[],
);

pub static AUDIT_LINES: Metric =
    counter("keyferry.audit.lines", "keyferry_audit_lines_total", "Audit lines written, of every kind.", "{line}", &[]);

pub static AUDIT_BYTES: Metric =
    counter("keyferry.audit.io", "keyferry_audit_bytes_total", "Audit bytes written.", "By", &[]);

pub static AUDIT_QUEUED: Metric =
    gauge("keyferry.audit.queued", "keyferry_audit_queued", "Audit records waiting to be written.", "{record}", &[]);

pub static AUDIT_LOSSES: Metric = counter(
    "keyferry.audit.losses",
    "keyferry_audit_losses_total",
    "Times that audit records already committed were put in doubt.",
    "{loss}",
    &[],
);

pub static STATE_HEALTHY: Metric = gauge(
    "keyferry.state.healthy",
    "keyferry_state_healthy",
    "1 while the last access to the state store went well.",
    "1",
    &[],
);

pub static STATE_REVISION: Metric = gauge(
    "keyferry.state.revision",
    "keyferry_state_revision",
    "The newest revision that this replica knows of.",
    "{revision}",
    &[],
);

pub static STATE_LEADER: Metric =
    gauge("keyferry.state.leader", "keyferry_state_leader", "1 while this replica has the leader's duties.", "1", &[]);

pub static STATE_QUARANTINED: Metric = gauge(
    "keyferry.state.quarantined",
    "keyferry_state_quarantined",
    "Records of the state that could not be read and are passed over.",
    "{record}",
    &[],
);

pub static DATABASE_HEALTHY: Metric = gauge(
    "keyferry.database.healthy",
    "keyferry_database_healthy",
    "1 while the broker can make and remove users in the database.",
    "1",
    &["database"],
);

pub static DATABASE_SWEPT: Metric = gauge(
    "keyferry.database.sweep.time",
    "keyferry_database_sweep_timestamp_seconds",
    "When the database's users were last compared with the leases, since the Unix epoch.",
    "s",
    &["database"],
);

pub static LEASES: Metric =
    gauge("keyferry.leases", "keyferry_leases", "Leases of all replicas, by state.", "{lease}", &["state"]);

pub static LEASES_FAILING: Metric = gauge(
    "keyferry.leases.failing",
    "keyferry_leases_failing",
    "Leases whose user could not be removed, tried more than once.",
    "{lease}",
    &[],
);

pub static LEASE_OVERDUE: Metric = gauge(
    "keyferry.leases.overdue.time",
    "keyferry_leases_overdue_timestamp_seconds",
    "When the first of those leases should have ended that have not, since the Unix epoch; absent when there is none.",
    "s",
    &[],
);

pub static STREAMS: Metric =
    gauge("keyferry.watch.streams", "keyferry_watch_streams", "Watches open at this replica.", "{stream}", &[]);

pub static SUBSCRIBERS: Metric = gauge(
    "keyferry.watch.subscribers",
    "keyferry_watch_subscribers",
    "Subscribers known, of all replicas, those included that went away lately.",
    "{subscriber}",
    &[],
);

pub static SUBSCRIBERS_STREAMED: Metric = gauge(
    "keyferry.watch.subscribers.connected",
    "keyferry_watch_subscribers_connected",
    "Subscribers with a stream at this replica.",
    "{subscriber}",
    &[],
);

pub static SUBSCRIBERS_BEHIND: Metric = gauge(
    "keyferry.watch.subscribers.behind",
    "keyferry_watch_subscribers_behind",
    "Of those with a stream at this replica, those that have yet to be told of something.",
    "{subscriber}",
    &[],
);

pub static ROTATIONS: Metric = gauge(
    "keyferry.rotations",
    "keyferry_rotations",
    "Rotations before their new version is current (`running`), before the old one is out of use (`retiring`), and those \
     that failed within the last day.",
    "{rotation}",
    &["state"],
);

pub static ROTATION_OLDEST: Metric = gauge(
    "keyferry.rotation.oldest",
    "keyferry_rotation_oldest_timestamp_seconds",
    "When the oldest rotation began that is not over, in seconds since 1970; none where all are.",
    "s",
    &[],
);

pub static WATCH_MESSAGES: Metric = counter(
    "keyferry.watch.messages",
    "keyferry_watch_messages_total",
    "Messages sent on watches, by kind: snapshots, counted when complete, batches of events, and bookmarks.",
    "{message}",
    &["kind"],
);

pub static WATCH_EVENTS: Metric =
    counter("keyferry.watch.events", "keyferry_watch_events_total", "Events sent on watches.", "{event}", &[]);

pub static WATCH_RESYNCS: Metric = counter(
    "keyferry.watch.resyncs",
    "keyferry_watch_resyncs_total",
    "Times that a subscriber had to start over, by reason.",
    "{resync}",
    &["reason"],
);

pub static ENVOY_STREAMS: Metric = gauge(
    "keyferry.envoy.streams",
    "keyferry_envoy_streams",
    "Streams on which Envoys have a resource, at this replica.",
    "{stream}",
    &["resource"],
);

pub static ENVOY_HEALTHY: Metric = gauge(
    "keyferry.envoy.healthy",
    "keyferry_envoy_healthy",
    "Whether the newest value of a resource can be published (1); else Envoys keep the last good one.",
    "1",
    &["resource"],
);

pub static ENVOY_PUBLISHED: Metric = counter(
    "keyferry.envoy.published",
    "keyferry_envoy_published_total",
    "Times that a resource was sent to an Envoy.",
    "{resource}",
    &["resource"],
);

pub static ENVOY_ANSWERS: Metric = counter(
    "keyferry.envoy.answers",
    "keyferry_envoy_answers_total",
    "What Envoys made of a resource that they were sent: ack or nack.",
    "{answer}",
    &["resource", "answer"],
);

pub static POLICIES: Metric =
    gauge("keyferry.policy.count", "keyferry_policies", "Policies in the set in use.", "{policy}", &[]);

pub static POLICY_INFO: Metric = gauge(
    "keyferry.policy.info",
    "keyferry_policy_info",
    "The policy set in use, by the start of its hash; always 1.",
    "1",
    &["hash"],
);

pub static POLICY_LOADED: Metric = gauge(
    "keyferry.policy.loaded",
    "keyferry_policy_loaded_timestamp_seconds",
    "When the policy set in use was taken over.",
    "s",
    &[],
);

pub static POLICY_REJECTED: Metric = gauge(
    "keyferry.policy.rejected",
    "keyferry_policy_rejected",
    "1 while the policies on disk are broken and an older set is in use.",
    "1",
    &[],
);

const STORE: &[&str] = &["store"];
const STORE_OPERATION: &[&str] = &["store", "operation"];

pub static STORE_REQUESTS: Metric = counter(
    "keyferry.store.requests",
    "keyferry_store_requests_total",
    "Requests sent to a store's provider, retries included.",
    "{request}",
    STORE_OPERATION,
);

pub static STORE_RETRIES: Metric = counter(
    "keyferry.store.retries",
    "keyferry_store_retries_total",
    "Requests that were sent again after a failure that passes.",
    "{request}",
    STORE,
);

pub static STORE_THROTTLED: Metric = counter(
    "keyferry.store.throttled",
    "keyferry_store_throttled_total",
    "Requests that the provider throttled.",
    "{request}",
    STORE_OPERATION,
);

pub static BUDGET_REFUSED: Metric = counter(
    "keyferry.store.budget.refused",
    "keyferry_store_budget_refused_total",
    "Requests that were not made because the store's budget was used up.",
    "{request}",
    STORE_OPERATION,
);

pub static BUDGET_LIMIT: Metric = gauge(
    "keyferry.store.budget.limit",
    "keyferry_store_budget_limit",
    "Requests that the budget allows in a window.",
    "{request}",
    STORE_OPERATION,
);

pub static BUDGET_USED: Metric = gauge(
    "keyferry.store.budget.used",
    "keyferry_store_budget_used",
    "Requests made in the window that ends now.",
    "{request}",
    STORE_OPERATION,
);

pub static BUDGET_FORECAST: Metric = gauge(
    "keyferry.store.budget.forecast",
    "keyferry_store_budget_forecast",
    "Requests that a whole window at the present rate would make.",
    "{request}",
    STORE_OPERATION,
);

pub static CIRCUIT_CLOSED: Metric = gauge(
    "keyferry.store.circuit.closed",
    "keyferry_store_circuit_closed",
    "1 while requests to the store are let through; 0 while it is left alone or probed.",
    "1",
    STORE,
);

pub static CREDENTIAL_HEALTHY: Metric = gauge(
    "keyferry.credential.healthy",
    "keyferry_credential_healthy",
    "1 while the last attempt to renew a cloud credential succeeded.",
    "1",
    &["credential"],
);

pub static CREDENTIAL_EXPIRY: Metric = gauge(
    "keyferry.credential.expiry",
    "keyferry_credential_expiry_timestamp_seconds",
    "When the token of a cloud credential ends, unless it is renewed.",
    "s",
    &["credential"],
);

pub static CREDENTIAL_FAILURES: Metric = counter(
    "keyferry.credential.failures",
    "keyferry_credential_failures_total",
    "Attempts to renew a cloud credential that failed.",
    "{attempt}",
    &["credential"],
);

pub static EVENTS: Metric = counter(
    "keyferry.events",
    "keyferry_events_total",
    "What sources of events told, by what became of it: changed, known, of_no_concern, unreadable, failed, refused.",
    "{event}",
    &["source", "outcome"],
);

pub static EVENTS_HEALTHY: Metric = gauge(
    "keyferry.events.healthy",
    "keyferry_events_healthy",
    "0 while a source of events does not come through: it cannot be pulled from, or who delivers is turned away.",
    "1",
    &["source"],
);

pub static GATEWAY_REFRESHES: Metric = counter(
    "keyferry.gateway.refreshes",
    "keyferry_gateway_refreshes_total",
    "Named values that a gateway was made to take anew, by what became of it: refreshed, failed.",
    "{refresh}",
    &["gateway", "outcome"],
);

pub static GATEWAY_BEHIND: Metric = gauge(
    "keyferry.gateway.behind",
    "keyferry_gateway_behind",
    "Secrets of which a gateway does not run the current version yet; 0 on replicas that do not lead.",
    "{secret}",
    &["gateway"],
);

pub static CACHE_READS: Metric = counter(
    "keyferry.cache.reads",
    "keyferry_cache_reads_total",
    "Reads by what they met: hit, miss (asked the store), joined (another's load), stale (the store failed).",
    "{read}",
    &["cache", "result"],
);

pub static CACHE_ENTRIES: Metric = gauge(
    "keyferry.cache.entries",
    "keyferry_cache_entries",
    "Secrets of which something is kept.",
    "{entry}",
    &["cache"],
);

pub static CACHE_BYTES: Metric =
    gauge("keyferry.cache.size", "keyferry_cache_bytes", "What is kept, in bytes as estimated.", "By", &["cache"]);

pub static CACHE_MAX_BYTES: Metric =
    gauge("keyferry.cache.limit", "keyferry_cache_max_bytes", "What may be kept, in bytes.", "By", &["cache"]);

pub static CACHE_EVICTED: Metric = counter(
    "keyferry.cache.evicted",
    "keyferry_cache_evicted_total",
    "Secrets dropped for want of room.",
    "{entry}",
    &["cache"],
);

pub static DRAINING: Metric = gauge("keyferry.draining", "keyferry_draining", "1 once shutdown has begun.", "1", &[]);

pub static PANICS: Metric = counter("keyferry.panics", "keyferry_panics_total", "Panics, each a bug.", "{panic}", &[]);

pub static LOG_LOST: Metric = counter(
    "keyferry.log.lost",
    "keyferry_log_lines_lost_total",
    "Log lines given up because whoever reads the log was too slow.",
    "{line}",
    &[],
);

pub static EXPORT_SENT: Metric = counter(
    "keyferry.telemetry.sent",
    "keyferry_telemetry_sent_total",
    "Spans and log records the OTLP collector accepted.",
    "{item}",
    &["signal"],
);

pub static EXPORT_DROPPED: Metric = counter(
    "keyferry.telemetry.dropped",
    "keyferry_telemetry_dropped_total",
    "Spans and log records given up: queue full, collector down or refusing.",
    "{item}",
    &["signal"],
);

pub static EXPORT_FAILURES: Metric = counter(
    "keyferry.telemetry.export.failures",
    "keyferry_telemetry_export_failures_total",
    "OTLP exports that failed.",
    "{export}",
    &["signal"],
);

pub static BUILD_INFO: Metric =
    gauge("keyferry.build.info", "keyferry_build_info", "The running version; always 1.", "1", &["version"]);

pub static PROCESS_START: Metric = gauge(
    "process.start_time",
    "process_start_time_seconds",
    "When the process started, since the Unix epoch.",
    "s",
    &[],
);

pub static PROCESS_CPU: Metric =
    counter("process.cpu.time", "process_cpu_seconds_total", "User and system CPU time spent.", "s", &[]);

pub static PROCESS_MEMORY: Metric =
    gauge("process.memory.usage", "process_resident_memory_bytes", "Resident memory.", "By", &[]);

pub static PROCESS_THREADS: Metric = gauge("process.thread.count", "process_threads", "Threads.", "{thread}", &[]);

pub static PROCESS_FDS: Metric =
    gauge("process.open_file_descriptor.count", "process_open_fds", "Open file descriptors.", "{file_descriptor}", &[]);

pub static PROCESS_MAX_FDS: Metric = gauge(
    "process.open_file_descriptor.limit",
    "process_max_fds",
    "How many file descriptors may be open.",
    "{file_descriptor}",
    &[],
);

/// In the order in which they are shown.
pub static ALL: &[&Metric] = &[
    &CALL_DURATION,
    &CALLS_IN_FLIGHT,
    &CALL_FAILURES,
    &CONNECTIONS_OPEN,
    &CONNECTIONS_ACCEPTED,
    &CONNECTIONS_ENDED,
    &ACCEPT_ERRORS,
    &HANDSHAKE_FAILURES,
    &WEB_REQUESTS,
    &TLS_RELOADS,
    &CERTIFICATE_EXPIRY,
    &AUDIT_HEALTHY,
    &AUDIT_LINES,
    &AUDIT_BYTES,
    &AUDIT_QUEUED,
    &AUDIT_LOSSES,
    &STATE_HEALTHY,
    &STATE_REVISION,
    &STATE_LEADER,
    &STATE_QUARANTINED,
    &DATABASE_HEALTHY,
    &DATABASE_SWEPT,
    &LEASES,
    &LEASES_FAILING,
    &LEASE_OVERDUE,
    &STREAMS,
    &SUBSCRIBERS,
    &SUBSCRIBERS_STREAMED,
    &SUBSCRIBERS_BEHIND,
    &ROTATIONS,
    &ROTATION_OLDEST,
    &WATCH_MESSAGES,
    &WATCH_EVENTS,
    &WATCH_RESYNCS,
    &ENVOY_STREAMS,
    &ENVOY_HEALTHY,
    &ENVOY_PUBLISHED,
    &ENVOY_ANSWERS,
    &POLICIES,
    &POLICY_INFO,
    &POLICY_LOADED,
    &POLICY_REJECTED,
    &STORE_REQUESTS,
    &STORE_RETRIES,
    &STORE_THROTTLED,
    &BUDGET_REFUSED,
    &BUDGET_LIMIT,
    &BUDGET_USED,
    &BUDGET_FORECAST,
    &CIRCUIT_CLOSED,
    &CREDENTIAL_HEALTHY,
    &CREDENTIAL_EXPIRY,
    &CREDENTIAL_FAILURES,
    &EVENTS,
    &EVENTS_HEALTHY,
    &GATEWAY_REFRESHES,
    &GATEWAY_BEHIND,
    &CACHE_READS,
    &CACHE_ENTRIES,
    &CACHE_BYTES,
    &CACHE_MAX_BYTES,
    &CACHE_EVICTED,
    &DRAINING,
    &PANICS,
    &LOG_LOST,
    &EXPORT_SENT,
    &EXPORT_DROPPED,
    &EXPORT_FAILURES,
    &BUILD_INFO,
    &PROCESS_START,
    &PROCESS_CPU,
    &PROCESS_MEMORY,
    &PROCESS_THREADS,
    &PROCESS_FDS,
    &PROCESS_MAX_FDS,
];

const fn counter(
    otel: &'static str,
    prometheus: &'static str,
    help: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
) -> Metric {
    Metric { otel, prometheus, help, unit, kind: Counter, labels }
}

const fn gauge(
    otel: &'static str,
    prometheus: &'static str,
    help: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
) -> Metric {
    Metric { otel, prometheus, help, unit, kind: Gauge, labels }
}

#[cfg(test)]
#[path = "tests/deployed.rs"]
mod tests;
