use std::time::Duration;

/// What the broker says about itself, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A `tracing` filter such as `info` or `info,keyferry_broker::providers=debug`.
    pub log_filter: String,
    pub log_format: LogFormat,
    /// OTLP over gRPC, such as `http://127.0.0.1:4317`; nothing is exported without it.
    pub otlp_endpoint: Option<String>,
    pub otlp_interval: Duration,
    /// Share of traces recorded where the caller did not decide, from 0 to 1, in thousandths.
    pub trace_permille: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}
