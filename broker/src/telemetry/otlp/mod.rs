//! Spans, log records and metrics on their way to an OpenTelemetry collector, over OTLP/gRPC.
//!
//! Calls only ever put into a bounded queue. What does not fit is dropped and counted, so a slow or absent collector
//! costs them nothing.

mod metrics;
mod outbox;
mod signals;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_sdk::Resource as NoResource;
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::Registry;

use super::trace::{OnlyCalls, PinnedIds};
use super::{Error, Metrics};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Owns the tasks that send.
pub(super) struct Exporter {
    tracer: SdkTracer,
    logs: SdkLoggerProvider,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Exporter {
    /// Connects when there is something to send, and again whenever the connection is lost.
    pub(super) fn start(endpoint: &str, interval: Duration, node: &str, metrics: &Arc<Metrics>) -> Result<Self, Error> {
        let channel = connect(endpoint)?;
        let origin = Origin::of(node);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();

        let (spans, inbox) = outbox::new(Arc::clone(metrics), |metrics| &metrics.spans);
        tasks.spawn(inbox.ship(signals::Traces::new(channel.clone(), origin.clone()), stop.clone()));
        let (records, inbox) = outbox::new(Arc::clone(metrics), |metrics| &metrics.logs);
        tasks.spawn(inbox.ship(signals::Logs::new(channel.clone(), origin.clone()), stop.clone()));
        tasks.spawn(metrics::ship(channel, origin, Arc::clone(metrics), interval, stop.clone()));

        // The queue's other end names the resource, once a batch; the SDK would look for one in the environment.
        let tracer = SdkTracerProvider::builder()
            .with_resource(NoResource::builder_empty().build())
            .with_id_generator(PinnedIds::default())
            .with_sampler(OnlyCalls::sampler())
            .with_span_processor(signals::SpanQueue(spans))
            .build()
            .tracer(SCOPE);
        let logs = SdkLoggerProvider::builder()
            .with_resource(NoResource::builder_empty().build())
            .with_log_processor(signals::LogQueue(records))
            .build();
        Ok(Self { tracer, logs, tasks, stop })
    }

    pub(super) fn span_layer(&self) -> OpenTelemetryLayer<Registry, SdkTracer> {
        OpenTelemetryLayer::new(self.tracer.clone())
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
    }

    pub(super) fn log_layer(&self) -> OpenTelemetryTracingBridge<SdkLoggerProvider, SdkLogger> {
        OpenTelemetryTracingBridge::new(&self.logs)
    }

    pub(super) async fn shutdown(mut self, grace: Duration) -> bool {
        self.stop.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        // Dropping the set aborts whatever still waits for the collector.
        tokio::time::timeout(grace, all).await.is_ok()
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

fn connect(endpoint: &str) -> Result<Channel, Error> {
    let unusable = |source| Error::Endpoint { endpoint: endpoint.to_owned(), source };
    let parsed = Endpoint::from_shared(endpoint.to_owned())
        .and_then(|endpoint| endpoint.user_agent(concat!("keyferry/", env!("CARGO_PKG_VERSION"))))
        .map_err(unusable)?
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(EXPORT_TIMEOUT);
    let secured = match parsed.uri().scheme_str() {
        Some("http") => parsed,
        Some("https") => parsed.tls_config(ClientTlsConfig::new().with_native_roots()).map_err(unusable)?,
        _ => {
            return Err(Error::Scheme { endpoint: endpoint.to_owned() });
        }
    };
    Ok(secured.connect_lazy())
}

const SCOPE: &str = "keyferry";

/// Who reports.
#[derive(Clone, Debug)]
struct Origin {
    resource: Resource,
    scope: InstrumentationScope,
}

impl Origin {
    fn of(node: &str) -> Self {
        let attributes = vec![
            text("service.name", "keyferry"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", node),
        ];
        Self {
            resource: Resource { attributes, ..Resource::default() },
            scope: InstrumentationScope { name: SCOPE.to_owned(), ..InstrumentationScope::default() },
        }
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}
