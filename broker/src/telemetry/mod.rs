//! What the broker says about itself: logs, metrics and traces.

mod lines;
mod log;
pub mod metrics;
pub mod names;
mod otlp;
pub(crate) mod process;
mod prometheus;
mod samples;
pub mod settings;
mod trace;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tracing::Dispatch;

pub use metrics::{CallTimer, Counter, Metrics};
pub use prometheus::CONTENT_TYPE as PROMETHEUS_CONTENT_TYPE;
pub use samples::{Point, Samples};
pub use settings::{LogFormat, Settings};
pub use trace::{TraceContext, Traces, finish};

/// Everything that reports, from start to shutdown.
pub struct Telemetry {
    metrics: Arc<Metrics>,
    traces: Traces,
    subscriber: Dispatch,
    exporter: Option<otlp::Exporter>,
    lines: lines::LastLines,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the log filter \"{filter}\" cannot be used; write it like \"info\" or \"info,keyferry_broker::providers=debug\""
    )]
    Filter { filter: String, source: tracing_subscriber::filter::ParseError },
    #[error("the OTLP endpoint \"{endpoint}\" cannot be used; write it like \"http://127.0.0.1:4317\"")]
    Endpoint { endpoint: String, source: tonic::transport::Error },
    #[error("the OTLP endpoint \"{endpoint}\" is no http or https address; write it like \"http://127.0.0.1:4317\"")]
    Scheme { endpoint: String },
    #[error("logging was set up twice in this process; report this")]
    Installed(#[source] tracing::dispatcher::SetGlobalDefaultError),
    #[error("no thread could be started to write the log; raise the limit of processes")]
    Thread(#[source] std::io::Error),
}

impl Telemetry {
    /// Within a Tokio runtime, where an OTLP endpoint is set. Nothing is logged before [`Telemetry::install`].
    pub fn start(settings: &Settings, node: &str, metrics: Arc<Metrics>) -> Result<Self, Error> {
        Self::start_logging_to(settings, node, metrics, std::io::stderr())
    }

    /// Makes its log the process's log.
    pub fn install(&self) -> Result<(), Error> {
        tracing::dispatcher::set_global_default(self.subscriber.clone()).map_err(Error::Installed)
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    pub fn traces(&self) -> Traces {
        self.traces
    }

    /// Sends and writes what is still queued, for at most that long; whether all of it was handled. What is logged
    /// afterwards may be lost.
    pub async fn shutdown(self, grace: Duration) -> bool {
        let exported = async {
            match self.exporter {
                Some(exporter) => exporter.shutdown(grace).await,
                None => true,
            }
        };
        // At the same time, so that neither a silent collector nor a stopped log reader takes the other's share.
        let (exported, _) = tokio::join!(exported, self.lines.written(grace));
        if !exported {
            tracing::warn!("not everything reached the telemetry collector");
        }
        exported & self.lines.written(lines::LAST_LINES).await
    }

    fn start_logging_to(
        settings: &Settings,
        node: &str,
        metrics: Arc<Metrics>,
        log: impl std::io::Write + Send + 'static,
    ) -> Result<Self, Error> {
        let exporter = match &settings.otlp_endpoint {
            Some(endpoint) => Some(otlp::Exporter::start(endpoint, settings.otlp_interval, node, &metrics)?),
            None => None,
        };
        let lines = lines::Lines::start(log, settings.log_format, Arc::clone(&metrics)).map_err(Error::Thread)?;
        let subscriber = log::subscriber(settings, lines.clone(), exporter.as_ref())?;
        metrics.register(process::sample);
        let traces = Traces { exported: exporter.is_some(), permille: settings.trace_permille };
        Ok(Self { metrics, traces, subscriber, exporter, lines: lines::LastLines(lines) })
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("traces", &self.traces).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tests/otlp.rs"]
mod tests;
