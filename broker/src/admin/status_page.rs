//! The status page: plain HTML that a script renews in place, and that a browser without scripts reloads.

use std::fmt::{self, Display};

use keyferry_proto::v1::{
    AuditStatus, BrokerStatus, CacheStatus, CircuitState, DatabaseStatus, ErrorDetail, HealthState, LeaseCounts,
    PolicyStatus, StateStatus, StoreStatus,
};
use prost_types::Timestamp as ProtoTime;

use super::html::Html;
use super::overview::{Overview, RotationRow, RunRow, SubscriberRow, TargetRow};
use crate::clock::Timestamp;

pub(super) const STYLE: &str = include_str!("status.css");
pub(super) const SCRIPT: &str = include_str!("status.js");

pub(super) fn page(overview: &Overview, obstacles: &[String]) -> String {
    let status = &overview.status;
    let now = seconds(status.server_time.as_ref());
    let mut page = Html::default();
    page.raw("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    page.raw("<noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>");
    page.raw("<link rel=\"stylesheet\" href=\"/status.css\"><script src=\"/status.js\" defer></script><title>");
    page.text(format_args!("Keyferry {}", status.node));
    page.raw("</title></head><body><p id=\"lost\" role=\"alert\" hidden></p><main>");
    head(&mut page, status, now, obstacles);
    troubles(&mut page, status);
    stores(&mut page, &status.stores, now);
    quota(&mut page, &status.stores);
    rotations(&mut page, &overview.rotations, now);
    subscribers(&mut page, overview, now);
    databases(&mut page, &status.databases, status.leases.as_ref(), now);
    cache(&mut page, status.cache.as_ref());
    itself(&mut page, status, now);
    page.raw("</main></body></html>");
    page.finish()
}

fn head(page: &mut Html, status: &BrokerStatus, now: i64, obstacles: &[String]) {
    page.raw("<header><h1>");
    page.text(format_args!("Keyferry {}", status.node));
    page.raw("</h1>");
    if obstacles.is_empty() {
        page.within("p", "good", "ready");
    }
    for obstacle in obstacles {
        page.within("p", "bad", obstacle);
    }
    let version = status.build.as_ref().map_or("", |build| build.version.as_str());
    let up = Ago(now.saturating_sub(seconds(status.start_time.as_ref())));
    page.within("p", "aside", format_args!("version {version}, up for {up}"));
    page.raw("</header>");
}

/// Everything that wants somebody, in one place and in its own words.
fn troubles(page: &mut Html, status: &BrokerStatus) {
    let mut all = Vec::new();
    for store in &status.stores {
        note(&mut all, &store.name, store.last_error.as_ref().filter(|_| is_bad(store.health)));
        for credential in store.credential.iter().filter(|credential| is_bad(credential.health)) {
            note(&mut all, format_args!("{}, its credential", store.name), credential.last_error.as_ref());
        }
        for source in store.event_sources.iter().filter(|source| is_bad(source.health)) {
            note(&mut all, format_args!("{}, events by {}", store.name, source.source), source.last_error.as_ref());
        }
    }
    for database in status.databases.iter().filter(|database| is_bad(database.health)) {
        note(&mut all, &database.name, database.last_error.as_ref());
    }
    let issuers =
        status.issuers.iter().map(|issuer| (format!("the keys of issuer {}", issuer.name), issuer.keys.as_ref()));
    let certificate = status.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
    let policies = status.policy.as_ref().and_then(|policy| policy.reload.as_ref());
    for (what, reload) in
        issuers.chain([("the TLS files".to_owned(), certificate), ("the policies".to_owned(), policies)])
    {
        note(
            &mut all,
            what,
            reload.filter(|reload| is_bad(reload.health)).and_then(|reload| reload.last_error.as_ref()),
        );
    }
    note(&mut all, "the audit log", status.audit.as_ref().and_then(|audit| audit.last_error.as_ref()));
    note(&mut all, "the state", status.state.as_ref().and_then(|state| state.last_error.as_ref()));
    if all.is_empty() {
        return;
    }
    page.raw("<section id=\"troubles\"><h2>Wants attention</h2><dl>");
    for (what, message) in all {
        page.raw("<dt>");
        page.text(what);
        page.raw("</dt><dd>");
        page.text(message);
        page.raw("</dd>");
    }
    page.raw("</dl></section>");
}

fn note<'a>(all: &mut Vec<(String, &'a str)>, what: impl Display, error: Option<&'a ErrorDetail>) {
    all.extend(error.map(|error| (what.to_string(), error.message.as_str())));
}

fn stores(page: &mut Html, stores: &[StoreStatus], now: i64) {
    let columns = &["store", "where", "health", "requests", "credential", "its token ends in", "last answer", "events"];
    let mut table = Table::begin(page, "stores", "Stores", columns);
    for store in stores {
        table.row();
        table.cell(&store.name);
        table.cell(&store.location);
        table.health(store.health);
        match store.circuit() {
            CircuitState::Unspecified => table.cell("—"),
            CircuitState::Closed => table.marked("good", "let through"),
            CircuitState::Open => table.marked("bad", "held back"),
            CircuitState::HalfOpen => table.marked("fair", "tried again"),
        }
        match &store.credential {
            None => {
                table.cell("none");
                table.cell("—");
            }
            Some(credential) => {
                let chain = credential.chain.join(" → ");
                let failed = credential.failed_link.as_str();
                match is_bad(credential.health) {
                    true => table.marked("bad", format_args!("{chain}, failed at {failed}")),
                    false => table.marked("good", format_args!("{chain} as {}", credential.subject)),
                }
                table.cell(Until(credential.expire_time.as_ref(), now));
            }
        }
        table.cell(Since(store.success_time.as_ref(), now));
        let sources: Vec<_> = store.event_sources.iter().collect();
        let health = sources.iter().map(|source| source.health).max().unwrap_or_default();
        let told =
            sources.iter().map(|source| format!("{}: {}", source.source, Since(source.receive_time.as_ref(), now)));
        table.marked(class(health), told.collect::<Vec<_>>().join(", "));
    }
    table.end("No store is configured.");
}

fn quota(page: &mut Html, stores: &[StoreStatus]) {
    let columns =
        &["store", "operations", "used of its budget", "forecast", "throttled by the cloud", "held back here"];
    let mut table = Table::begin(page, "quota", "Quota ledger", columns);
    for (store, entry) in stores.iter().flat_map(|store| store.quota.iter().map(move |entry| (store, entry))) {
        table.row();
        table.cell(&store.name);
        table.cell(entry.operation().as_str_name().trim_start_matches("PROVIDER_OPERATION_").to_lowercase());
        table.meter(entry.used, entry.limit);
        let forecast = match (entry.forecast, entry.limit) {
            (forecast, limit) if forecast > limit => "bad",
            (forecast, limit) if forecast * 5 > limit * 4 => "fair",
            _ => "good",
        };
        table.marked(forecast, entry.forecast);
        table.cell(entry.throttled_count);
        table.cell(entry.refused_count);
    }
    table.end("No store has a budget.");
}

fn rotations(page: &mut Html, rotations: &[RotationRow], now: i64) {
    let columns = &["rotation", "secret", "state", "for", "attempts", "last error"];
    let mut table = Table::begin(page, "rotations", "Rotations", columns);
    for rotation in rotations {
        table.row();
        table.cell(&rotation.name);
        let targets = rotation.targets.iter().map(|TargetRow { secret, old, new }| {
            let version = |id: &Option<_>| id.as_deref().unwrap_or("—").to_owned();
            format!("{secret}: {} → {}", version(old), version(new))
        });
        table.cell(targets.collect::<Vec<_>>().join(", "));
        let class = match (rotation.stage, rotation.is_over) {
            ("failed", _) => "bad",
            (_, true) => "good",
            (_, false) => "fair",
        };
        table.marked(class, rotation.stage);
        table.cell(Ago(now - as_seconds(rotation.since)));
        table.cell(rotation.attempts);
        table.cell(rotation.trouble.as_deref().unwrap_or("—"));
    }
    table.end("None has run yet.");
}

fn subscribers(page: &mut Html, overview: &Overview, now: i64) {
    let columns = &["subscriber", "caller", "stream", "behind", "runs"];
    let mut table = Table::begin(page, "subscribers", "Who runs which version", columns);
    for SubscriberRow { caller, name, node, last_seen, behind, runs } in &overview.subscribers {
        table.row();
        table.cell(name);
        table.cell(caller);
        let seen = Ago(now - as_seconds(*last_seen));
        match node {
            Some(node) => table.marked("good", format_args!("at {node}, for {seen}")),
            None => table.marked("fair", format_args!("gone for {seen}")),
        }
        table.cell(behind);
        let runs = runs.iter().map(|RunRow { secret, version, since, refused }| {
            let since = Ago(now - as_seconds(*since));
            let refused = refused.as_ref().map(|why| format!(", refused a newer one: {why}")).unwrap_or_default();
            format!("{secret}: {} for {since}{refused}", version.as_deref().unwrap_or("—"))
        });
        table.cell(runs.collect::<Vec<_>>().join("; "));
    }
    table.end("Nobody watches under a name.");
    if overview.subscriber_count > overview.subscribers.len() {
        let more = overview.subscriber_count - overview.subscribers.len();
        page.within("p", "aside", format_args!("and {more} more; `keyferry subscribers` lists them all"));
    }
}

fn databases(page: &mut Html, databases: &[DatabaseStatus], leases: Option<&LeaseCounts>, now: i64) {
    let mut table = Table::begin(
        page,
        "databases",
        "Databases",
        &["database", "health", "last answer", "users compared with leases"],
    );
    for database in databases {
        table.row();
        table.cell(&database.name);
        table.health(database.health);
        table.cell(Since(database.success_time.as_ref(), now));
        table.cell(Since(database.sweep_time.as_ref(), now));
    }
    table.end("No database is configured.");
    let Some(leases) = leases else { return };
    let mut facts = Facts::begin(page, "leases", "Leases");
    facts.plain("live", leases.active_count);
    facts.plain("being minted", leases.pending_count);
    facts.plain("being revoked", leases.revoking_count);
    facts.marked(
        "that cannot be revoked",
        if leases.failing_count == 0 { "good" } else { "bad" },
        leases.failing_count,
    );
    match &leases.oldest_overdue_time {
        None => facts.marked("overdue", "good", "none"),
        Some(since) => facts.marked("overdue", "bad", Since(Some(since), now)),
    }
    facts.end();
}

fn cache(page: &mut Html, cache: Option<&CacheStatus>) {
    let Some(cache) = cache else { return };
    let mut facts = Facts::begin(page, "cache", "Cache");
    facts.plain("secrets and labels kept", cache.entry_count);
    facts.plain("bytes of those allowed", format_args!("{} of {}", cache.size_bytes, cache.max_bytes));
    let reads = cache.hit_count + cache.miss_count + cache.joined_count + cache.stale_count;
    let hits = cache.hit_count.saturating_mul(100).checked_div(reads);
    let share = hits.map_or_else(|| "no reads yet".to_owned(), |hits| format!("{hits} % of {reads} reads"));
    facts.plain("answered from it", share);
    facts.marked("answered though stale", if cache.stale_count == 0 { "good" } else { "fair" }, cache.stale_count);
    facts.plain("dropped for want of room", cache.evicted_count);
    facts.end();
}

/// The parts that are the same everywhere.
fn itself(page: &mut Html, status: &BrokerStatus, now: i64) {
    let mut facts = Facts::begin(page, "itself", "Audit, state, policy, certificate");
    if let Some(AuditStatus { health, sequence, commit_time, pending_count, .. }) = &status.audit {
        facts.health("audit log", *health);
        facts.plain("audit records", sequence);
        if commit_time.is_some() {
            facts.plain("the last one", Since(commit_time.as_ref(), now));
        }
        facts.plain("waiting to be written", pending_count);
    }
    if let Some(StateStatus { health, backend, revision, nodes, leader, quarantined_count, .. }) = &status.state {
        facts.health("state", *health);
        facts.plain("kept in", backend);
        facts.plain("revision", revision);
        let nodes = if nodes.is_empty() { "this one".to_owned() } else { nodes.join(", ") };
        facts.plain("replicas", nodes);
        match leader.as_str() {
            "" => facts.marked("leader", "fair", "none at the moment"),
            leader => facts.plain("leader", leader),
        }
        facts.marked("unreadable records", if *quarantined_count == 0 { "good" } else { "bad" }, quarantined_count);
    }
    if let Some(PolicyStatus { reload, hash, policy_count }) = &status.policy {
        let health = reload.as_ref().map_or(0, |reload| reload.health);
        facts.health("policies on disk", health);
        facts.plain("policies in force", format_args!("{policy_count}, {}", hash.get(..16).unwrap_or(hash)));
    }
    if let Some(tls) = &status.tls {
        facts.plain("certificate ends in", Until(tls.certificate_not_after_time.as_ref(), now));
    }
    for issuer in &status.issuers {
        let health = issuer.keys.as_ref().map_or(0, |keys| keys.health);
        facts.marked("keys of an issuer", class(health), format_args!("{}: {}", issuer.name, word(health)));
    }
    facts.end();
}

/// A table whose cells know their column, so that a narrow screen can stack them.
struct Table<'a> {
    page: &'a mut Html,
    columns: &'static [&'static str],
    /// Of the row that is open.
    column: usize,
    rows: usize,
}

impl<'a> Table<'a> {
    fn begin(page: &'a mut Html, id: &'static str, title: &'static str, columns: &'static [&'static str]) -> Self {
        section(page, id, title);
        page.raw("<table><thead><tr>");
        for column in columns {
            page.raw("<th>");
            page.raw(column);
            page.raw("</th>");
        }
        page.raw("</tr></thead><tbody>");
        Self { page, columns, column: 0, rows: 0 }
    }

    fn row(&mut self) {
        self.page.raw(if self.rows == 0 { "<tr>" } else { "</tr><tr>" });
        self.rows += 1;
        self.column = 0;
    }

    fn cell(&mut self, text: impl Display) {
        self.marked("", text);
    }

    fn marked(&mut self, class: &'static str, text: impl Display) {
        let text = text.to_string();
        self.open();
        self.page.within("span", class, if text.is_empty() { "—" } else { &text });
        self.page.raw("</td>");
    }

    fn health(&mut self, health: i32) {
        self.marked(class(health), word(health));
    }

    fn meter(&mut self, used: i64, limit: i64) {
        self.open();
        self.page.raw("<meter max=\"");
        self.page.text(limit);
        self.page.raw("\" value=\"");
        self.page.text(used);
        self.page.raw("\"></meter> ");
        self.page.text(format_args!("{used} of {limit}"));
        self.page.raw("</td>");
    }

    fn open(&mut self) {
        self.page.raw("<td data-column=\"");
        self.page.raw(self.columns.get(self.column).copied().unwrap_or_default());
        self.page.raw("\">");
        self.column += 1;
    }

    fn end(self, nothing: &'static str) {
        if self.rows == 0 {
            self.page.raw("<tr><td class=\"nothing\">");
            self.page.raw(nothing);
            self.page.raw("</td>");
        }
        self.page.raw("</tr></tbody></table></section>");
    }
}

/// A list of what and how.
struct Facts<'a>(&'a mut Html);

impl<'a> Facts<'a> {
    fn begin(page: &'a mut Html, id: &'static str, title: &'static str) -> Self {
        section(page, id, title);
        page.raw("<dl>");
        Self(page)
    }

    fn plain(&mut self, what: &'static str, how: impl Display) {
        self.marked(what, "", how);
    }

    fn marked(&mut self, what: &'static str, class: &'static str, how: impl Display) {
        self.0.raw("<div><dt>");
        self.0.raw(what);
        self.0.raw("</dt>");
        self.0.within("dd", class, how);
        self.0.raw("</div>");
    }

    fn health(&mut self, what: &'static str, health: i32) {
        self.marked(what, class(health), word(health));
    }

    fn end(self) {
        self.0.raw("</dl></section>");
    }
}

fn section(page: &mut Html, id: &'static str, title: &'static str) {
    page.raw("<section id=\"");
    page.raw(id);
    page.raw("\"><h2>");
    page.raw(title);
    page.raw("</h2>");
}

fn is_bad(health: i32) -> bool {
    health > HealthState::Healthy as i32
}

fn class(health: i32) -> &'static str {
    match HealthState::try_from(health) {
        Ok(HealthState::Healthy) => "good",
        Ok(HealthState::Degraded) => "fair",
        Ok(HealthState::Unhealthy) => "bad",
        Ok(HealthState::Unspecified) | Err(_) => "",
    }
}

fn word(health: i32) -> &'static str {
    match HealthState::try_from(health) {
        Ok(HealthState::Healthy) => "works",
        Ok(HealthState::Degraded) => "works on what it last had",
        Ok(HealthState::Unhealthy) => "does not work",
        Ok(HealthState::Unspecified) | Err(_) => "not known yet",
    }
}

/// A time gone by, in seconds, as one reads it at a glance.
struct Ago(i64);

/// How long ago; or that it never was.
struct Since<'a>(Option<&'a ProtoTime>, i64);

/// How long from now; or that there is no end.
struct Until<'a>(Option<&'a ProtoTime>, i64);

impl Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.max(0) {
            seconds @ ..120 => write!(f, "{seconds} s"),
            seconds @ ..7200 => write!(f, "{} min", seconds / 60),
            seconds @ ..172_800 => write!(f, "{} h", seconds / 3600),
            seconds => write!(f, "{} days", seconds / 86_400),
        }
    }
}

impl Display for Since<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(time) => write!(f, "{} ago", Ago(self.1 - time.seconds)),
            None => f.write_str("never"),
        }
    }
}

impl Display for Until<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(time) if time.seconds <= self.1 => f.write_str("it has ended"),
            Some(time) => Ago(time.seconds - self.1).fmt(f),
            None => f.write_str("—"),
        }
    }
}

fn seconds(time: Option<&ProtoTime>) -> i64 {
    time.map_or(0, |time| time.seconds)
}

fn as_seconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "tests/status_page.rs"]
mod tests;
