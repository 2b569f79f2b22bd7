//! Spans and log records: from the SDK into the queue, and from the queue to the collector.

use std::time::Duration;

use opentelemetry::{Context, InstrumentationScope as Scope};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogProcessor, SdkLogRecord};
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tonic::Status;
use tonic::transport::Channel;

use super::Origin;
use super::outbox::{Outbox, Signal};

#[derive(Debug)]
pub(super) struct SpanQueue(pub(super) Outbox<SpanData>);

impl SpanProcessor for SpanQueue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.put(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct LogQueue(pub(super) Outbox<LogRecord>);

impl LogProcessor for LogQueue {
    fn emit(&self, record: &mut SdkLogRecord, _: &Scope) {
        self.0.put(LogRecord::from(&*record));
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Traces {
    client: TraceServiceClient<Channel>,
    origin: Origin,
}

impl Traces {
    pub(super) fn new(channel: Channel, origin: Origin) -> Self {
        Self { client: TraceServiceClient::new(channel), origin }
    }
}

impl Signal for Traces {
    const NAME: &'static str = "traces";
    type Item = SpanData;
    type Request = ExportTraceServiceRequest;

    fn request(&self, batch: Vec<SpanData>) -> Self::Request {
        let spans = batch.into_iter().map(Into::into).collect();
        let scope_spans = ScopeSpans { scope: Some(self.origin.scope.clone()), spans, ..ScopeSpans::default() };
        let resource = Some(self.origin.resource.clone());
        let resource_spans = ResourceSpans { resource, scope_spans: vec![scope_spans], ..ResourceSpans::default() };
        ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
    }

    async fn send(&mut self, request: Self::Request) -> Result<u64, Status> {
        let answer = self.client.export(request).await?.into_inner();
        Ok(refused(answer.partial_success.map(|partial| partial.rejected_spans)))
    }
}

#[derive(Debug)]
pub(super) struct Logs {
    client: LogsServiceClient<Channel>,
    origin: Origin,
}

impl Logs {
    pub(super) fn new(channel: Channel, origin: Origin) -> Self {
        Self { client: LogsServiceClient::new(channel), origin }
    }
}

impl Signal for Logs {
    const NAME: &'static str = "logs";
    type Item = LogRecord;
    type Request = ExportLogsServiceRequest;

    fn request(&self, log_records: Vec<LogRecord>) -> Self::Request {
        let scope_logs = ScopeLogs { scope: Some(self.origin.scope.clone()), log_records, ..ScopeLogs::default() };
        let resource = Some(self.origin.resource.clone());
        let resource_logs = ResourceLogs { resource, scope_logs: vec![scope_logs], ..ResourceLogs::default() };
        ExportLogsServiceRequest { resource_logs: vec![resource_logs] }
    }

    async fn send(&mut self, request: Self::Request) -> Result<u64, Status> {
        let answer = self.client.export(request).await?.into_inner();
        Ok(refused(answer.partial_success.map(|partial| partial.rejected_log_records)))
    }
}

fn refused(count: Option<i64>) -> u64 {
    count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
}
