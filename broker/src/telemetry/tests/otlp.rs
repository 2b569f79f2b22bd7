use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use http::{HeaderMap, HeaderValue};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};

use super::*;
use crate::clock::SystemClock;

const METHOD: &str = "keyferry.v1.SecretService/GetSecret";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
const PATIENCE: Duration = Duration::from_secs(20);

/// A collector that keeps what it is sent.
#[derive(Clone)]
struct Collector {
    traces: mpsc::UnboundedSender<ExportTraceServiceRequest>,
    metrics: mpsc::UnboundedSender<ExportMetricsServiceRequest>,
    logs: mpsc::UnboundedSender<ExportLogsServiceRequest>,
    /// How many requests it still turns away.
    unavailable: Arc<AtomicU32>,
}

struct Collected {
    at: SocketAddr,
    traces: mpsc::UnboundedReceiver<ExportTraceServiceRequest>,
    metrics: mpsc::UnboundedReceiver<ExportMetricsServiceRequest>,
    logs: mpsc::UnboundedReceiver<ExportLogsServiceRequest>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if self.unavailable.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(Status::unavailable("later"));
        }
        // A test may have seen enough and be gone.
        let _ = self.traces.send(request.into_inner());
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        // A test may have seen enough and be gone.
        let _ = self.metrics.send(request.into_inner());
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        // A test may have seen enough and be gone.
        let _ = self.logs.send(request.into_inner());
        Ok(Response::new(Default::default()))
    }
}

async fn collector(unavailable: u32, identity: Option<Identity>) -> Collected {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (traces, received_traces) = mpsc::unbounded_channel();
    let (metrics, received_metrics) = mpsc::unbounded_channel();
    let (logs, received_logs) = mpsc::unbounded_channel();
    let collector = Collector { traces, metrics, logs, unavailable: Arc::new(AtomicU32::new(unavailable)) };
    let mut server = Server::builder();
    if let Some(identity) = identity {
        server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
    }
    let router = server
        .add_service(TraceServiceServer::new(collector.clone()))
        .add_service(MetricsServiceServer::new(collector.clone()))
        .add_service(LogsServiceServer::new(collector));
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(router.serve_with_incoming(incoming));
    Collected { at, traces: received_traces, metrics: received_metrics, logs: received_logs }
}

fn telemetry(endpoint: String) -> Telemetry {
    let settings = Settings {
        log_filter: "info".to_owned(),
        log_format: LogFormat::Json,
        otlp_endpoint: Some(endpoint),
        otlp_interval: Duration::from_millis(50),
        trace_permille: 1_000,
    };
    let metrics = Metrics::new([METHOD], [], Arc::new(SystemClock));
    Telemetry::start_logging_to(&settings, "node-1", metrics, std::io::sink()).unwrap()
}

/// As a layer would do for each call.
fn call(telemetry: &Telemetry, headers: &HeaderMap, code: Code) -> TraceContext {
    let _subscriber = tracing::dispatcher::set_default(&telemetry.subscriber);
    let timer = telemetry.metrics().begin(0);
    let context = telemetry.traces().accept(headers);
    let span = telemetry.traces().call_span(METHOD, &context);
    if let Some(span) = &span {
        span.in_scope(|| {
            tracing::info_span!("inner").in_scope(|| tracing::info!(target: "keyferry_broker", "in the call"));
        });
        finish(span, code);
    }
    timer.finish(code);
    context
}

fn joining() -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("traceparent"), HeaderValue::from_static(TRACEPARENT))])
}

async fn next<T>(received: &mut mpsc::UnboundedReceiver<T>) -> T {
    timeout(PATIENCE, received.recv()).await.expect("it arrives").unwrap()
}

fn spans(request: ExportTraceServiceRequest) -> (Resource, Vec<Span>) {
    let resource_spans = request.resource_spans.into_iter().next().unwrap();
    (resource_spans.resource.unwrap(), resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans).collect())
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name} in {spans:?}"))
}

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    let Value::StringValue(text) = found.value.as_ref()?.value.as_ref()? else { panic!("{found:?}") };
    Some(text)
}

#[tokio::test]
async fn exports_a_call_under_its_callers_trace() {
    let mut collected = collector(0, None).await;
    let telemetry = telemetry(format!("http://{}", collected.at));
    let context = call(&telemetry, &joining(), Code::Internal);
    assert!(telemetry.shutdown(PATIENCE).await);

    let (resource, spans) = spans(next(&mut collected.traces).await);
    assert_eq!(attribute(&resource.attributes, "service.name"), Some("keyferry"));
    assert_eq!(attribute(&resource.attributes, "service.version"), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(attribute(&resource.attributes, "service.instance.id"), Some("node-1"));

    let span = named(&spans, METHOD);
    assert_eq!(span.trace_id, TRACE.to_be_bytes());
    assert_eq!(span.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!(span.span_id, context.span.to_be_bytes(), "outgoing calls name it as their parent");
    assert_eq!(span.kind, 2, "a server's");
    assert_eq!(span.status.as_ref().unwrap().code, 2, "an error");
    assert_eq!(attribute(&span.attributes, "rpc.system.name"), Some("grpc"));
    assert_eq!(attribute(&span.attributes, "rpc.method"), Some(METHOD));
    assert_eq!(attribute(&span.attributes, "rpc.response.status_code"), Some("INTERNAL"));
    assert_eq!(attribute(&span.attributes, "error.type"), Some("INTERNAL"));
    let inner = named(&spans, "inner");
    assert_eq!((&inner.trace_id, &inner.parent_span_id), (&span.trace_id, &span.span_id));
    assert_ne!(inner.span_id, span.span_id);
}

#[tokio::test]
async fn exports_a_trace_that_starts_here_without_a_parent() {
    let mut collected = collector(0, None).await;
    let telemetry = telemetry(format!("http://{}", collected.at));
    let context = call(&telemetry, &HeaderMap::new(), Code::Ok);
    assert!(telemetry.shutdown(PATIENCE).await);
    let (_, spans) = spans(next(&mut collected.traces).await);
    let span = named(&spans, METHOD);
    assert_eq!(span.trace_id, context.trace_id.to_be_bytes());
    assert_eq!(span.span_id, context.span.to_be_bytes());
    assert!(span.parent_span_id.is_empty() || span.parent_span_id == [0; 8], "{span:?}");
    assert_eq!(attribute(&span.attributes, "error.type"), None);
}

#[tokio::test]
async fn exports_log_records_with_their_trace() {
    let mut collected = collector(0, None).await;
    let telemetry = telemetry(format!("http://{}", collected.at));
    call(&telemetry, &joining(), Code::Ok);
    assert!(telemetry.shutdown(PATIENCE).await);
    let request = next(&mut collected.logs).await;
    let records: Vec<LogRecord> = request
        .resource_logs
        .into_iter()
        .flat_map(|logs| logs.scope_logs)
        .flat_map(|scope| scope.log_records)
        .collect();
    let body = |record: &LogRecord| record.body.as_ref().and_then(|body| body.value.clone());
    let record = records
        .iter()
        .find(|record| body(record) == Some(Value::StringValue("in the call".to_owned())))
        .unwrap_or_else(|| panic!("{records:?}"));
    assert_eq!(record.trace_id, TRACE.to_be_bytes());
}

#[tokio::test]
async fn exports_the_table_of_metrics() {
    let mut collected = collector(0, None).await;
    let telemetry = telemetry(format!("http://{}", collected.at));
    telemetry.metrics().register(|out| out.set(&names::DRAINING, &[], true));
    call(&telemetry, &joining(), Code::Ok);
    let request = next(&mut collected.metrics).await;
    let resource = &request.resource_metrics[0];
    assert_eq!(attribute(&resource.resource.as_ref().unwrap().attributes, "service.instance.id"), Some("node-1"));
    let metric = |name: &str| {
        let metrics = &resource.scope_metrics[0].metrics;
        metrics.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("{name}")).data.clone().unwrap()
    };
    let Data::Histogram(durations) = metric("rpc.server.call.duration") else { panic!("a histogram") };
    let point = &durations.data_points[0];
    assert_eq!((durations.aggregation_temporality, point.count), (2, 1));
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    assert_eq!(attribute(&point.attributes, "rpc.method"), Some(METHOD));
    assert_eq!(attribute(&point.attributes, "rpc.response.status_code"), Some("OK"));
    assert!(point.start_time_unix_nano <= point.time_unix_nano);
    assert!(matches!(metric("keyferry.draining"), Data::Gauge(_)));
    assert!(matches!(metric("keyferry.panics"), Data::Sum(sum) if sum.is_monotonic));
    telemetry.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn exports_no_span_outside_a_sampled_call() {
    let mut collected = collector(0, None).await;
    let telemetry = telemetry(format!("http://{}", collected.at));
    {
        let _subscriber = tracing::dispatcher::set_default(&telemetry.subscriber);
        tracing::info_span!(target: "keyferry_broker", "inner").in_scope(|| {});
    }
    call(&telemetry, &joining(), Code::Ok);
    assert!(telemetry.shutdown(PATIENCE).await);
    let (_, spans) = spans(next(&mut collected.traces).await);
    assert!(spans.iter().all(|span| span.trace_id == TRACE.to_be_bytes()), "{spans:?}");
}

#[tokio::test]
async fn tries_again_where_the_collector_is_unavailable() {
    let mut collected = collector(1, None).await;
    let telemetry = telemetry(format!("http://{}", collected.at));
    call(&telemetry, &joining(), Code::Ok);
    let (_, spans) = spans(next(&mut collected.traces).await);
    assert_eq!(named(&spans, METHOD).trace_id, TRACE.to_be_bytes());
    let metrics = Arc::clone(telemetry.metrics());
    assert!(telemetry.shutdown(PATIENCE).await);
    assert_eq!((metrics.spans.failures.get(), metrics.spans.dropped.get(), metrics.spans.sent.get()), (1, 0, 2));
}

/// A span is put into the queue or dropped by a function that cannot wait, so it is enough to see it return.
#[tokio::test]
async fn a_collector_that_is_down_or_mute_delays_no_call_and_no_shutdown() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let down = closed.local_addr().unwrap();
    drop(closed);
    // The kernel takes connections, nobody ever answers them.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for at in [down, mute.local_addr().unwrap()] {
        let telemetry = telemetry(format!("http://{at}"));
        for _ in 0..5_000 {
            call(&telemetry, &joining(), Code::Ok);
        }
        let metrics = Arc::clone(telemetry.metrics());
        // Two spans a call; no task ran in between, so all beyond the queue's 4096 are gone.
        assert_eq!(metrics.spans.dropped.get(), 10_000 - 4_096);
        assert!(metrics.prometheus().contains("keyferry_telemetry_dropped_total{signal=\"traces\"} 5904\n"));
        timeout(PATIENCE, telemetry.shutdown(Duration::from_millis(100))).await.expect("it gives up in time");
    }
}

#[tokio::test]
async fn says_what_an_endpoint_looks_like() {
    for endpoint in ["", "127.0.0.1:4317", "ftp://127.0.0.1", "http://", "http://a b", "localhost"] {
        let settings = Settings {
            log_filter: "info".to_owned(),
            log_format: LogFormat::Text,
            otlp_endpoint: Some(endpoint.to_owned()),
            otlp_interval: Duration::from_secs(1),
            trace_permille: 0,
        };
        let metrics = Metrics::new([], [], Arc::new(SystemClock));
        let error = Telemetry::start(&settings, "node-1", metrics).expect_err(endpoint);
        assert!(error.to_string().contains("http://127.0.0.1:4317"), "{error}");
    }
}

const CHILD: &str = "KEYFERRY_TEST_OTLP_ENDPOINT";

/// Roots are found through the environment, which only a process of its own can change safely.
#[tokio::test]
async fn exports_over_tls_to_a_collector_that_the_system_trusts() {
    if let Ok(endpoint) = std::env::var(CHILD) {
        let telemetry = telemetry(endpoint);
        call(&telemetry, &joining(), Code::Ok);
        assert!(telemetry.shutdown(PATIENCE).await);
        return;
    }
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut collected = collector(0, Some(Identity::from_pem(cert.pem(), signing_key.serialize_pem()))).await;
    let roots = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(roots.path(), cert.pem()).unwrap();
    let mut child = tokio::task::spawn_blocking({
        let endpoint = format!("https://localhost:{}", collected.at.port());
        let roots = roots.path().to_owned();
        move || {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "telemetry::tests::exports_over_tls_to_a_collector_that_the_system_trusts"])
                .env(CHILD, endpoint)
                .env("SSL_CERT_FILE", roots)
                .output()
                .unwrap()
        }
    });
    let output = (&mut child).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let (_, spans) = spans(next(&mut collected.traces).await);
    assert_eq!(named(&spans, METHOD).trace_id, TRACE.to_be_bytes());
}
