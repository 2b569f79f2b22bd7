//! What the broker is called and where it reports: `[node]`, `[audit]`, `[telemetry]`.

use super::kind::{FileUse, count, duration, file, made_of, one_of, path, size, text};
use super::reader::Reader;
use super::url::collector_url;
use crate::audit::{self, Mode};
use crate::telemetry::{self, LogFormat};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    pub name: String,
}

pub(super) fn node(reader: &mut Reader<'_>, host: &str) -> NodeSettings {
    let name = text("1 to 253 letters, digits, dots, hyphens or underscores", "name", |name| {
        made_of(name, 253, |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
    });
    let shown = "the host's name".to_owned();
    reader.section("node", "This broker among its replicas.", |s| NodeSettings {
        name: s.with_known_default("name", name, host, shown, "Stands in audit records, logs and traces."),
    })
}

pub(super) fn audit(reader: &mut Reader<'_>) -> audit::Settings {
    let modes = [("written", Mode::Written), ("synced", Mode::Synced)];
    reader.section("audit", "The log without whose record no answer leaves.", |s| audit::Settings {
        directory: s.with_default("directory", path(), "audit", "Where the files of the log lie."),
        mode: s.with_default(
            "mode",
            one_of(modes),
            "written",
            "When an answer may leave: once its record is `written` to the kernel, which survives the death of the \
             process, or `synced` to the disk, which survives that of the machine.",
        ),
        sync_interval: s.with_default(
            "sync_interval",
            duration("10ms", "10s"),
            "100ms",
            "How often `written` records are synced to the disk.",
        ),
        checkpoint_interval: s.with_default(
            "checkpoint_interval",
            duration("1s", "1h"),
            "10s",
            "How often the chain is signed, where there are new records.",
        ),
        roll_at: s.with_default(
            "roll_at",
            size("1MiB", "64GiB"),
            "256MiB",
            "The size at which a file is sealed and the next one begun.",
        ),
        signing_key: s.with_default(
            "signing_key",
            file(FileUse::MadePrivately),
            "audit-signing.key",
            "Ed25519 key (PKCS#8 PEM) that signs checkpoints; made on first start where it is missing. \
             Keep it out of `directory`, which it protects.",
        ),
    })
}

pub(super) fn telemetry(reader: &mut Reader<'_>) -> telemetry::Settings {
    let filter = text("a filter such as \"info\" or \"info,keyferry_broker::providers=debug\"", "filter", |filter| {
        made_of(filter, 1024, |c| c.is_ascii_graphic() || c == ' ')
    });
    let formats = [("json", LogFormat::Json), ("text", LogFormat::Text)];
    reader.section("telemetry", "What the broker says about itself, and to whom.", |s| telemetry::Settings {
        log_filter: s.with_default(
            "log_filter",
            filter,
            "info",
            "Which log lines are written: a level, or levels by module.",
        ),
        log_format: s.with_default("log_format", one_of(formats), "json", "JSON lines, or text for a terminal."),
        otlp_endpoint: s.optional(
            "otlp_endpoint",
            &collector_url(),
            "OpenTelemetry collector (OTLP over gRPC), such as `http://127.0.0.1:4317`; \
             nothing is exported without it.",
        ),
        otlp_interval: s.with_default("otlp_interval", duration("1s", "5m"), "10s", "How often metrics are exported."),
        trace_permille: s.with_default(
            "trace_permille",
            count(0..=1000),
            "100",
            "How many of a thousand traces are recorded where the caller did not decide.",
        ),
    })
}
