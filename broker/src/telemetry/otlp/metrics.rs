//! The metrics as OTLP. The table's histograms are exported as they are: OpenTelemetry's instruments would count
//! everything a second time, and have no histogram that is read rather than fed.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use super::outbox::Health;
use super::{EXPORT_TIMEOUT, Origin, text};
use crate::clock::Timestamp;
use crate::telemetry::names::{self, Kind};
use crate::telemetry::samples::{Point, Sample};
use crate::telemetry::{Metrics, Samples};

/// Tokio takes no zero.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// Totals since the start each time, so an export that fails loses nothing.
pub(super) async fn ship(
    channel: Channel,
    origin: Origin,
    metrics: Arc<Metrics>,
    every: Duration,
    stop: CancellationToken,
) {
    let mut client = MetricsServiceClient::new(channel);
    let mut health = Health::default();
    let mut ticks = interval(every.max(SHORTEST_INTERVAL));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is immediate, when there is nothing to tell yet.
    ticks.tick().await;
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            _ = ticks.tick() => false,
        };
        let request = request(&origin, &metrics);
        let answer = timeout(EXPORT_TIMEOUT, client.export(request))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer from the collector")));
        if answer.is_err() {
            metrics.metric_exports_failed.add(1);
        }
        health.note("metrics", answer.as_ref().err());
        if stopping {
            return;
        }
    }
}

fn request(origin: &Origin, metrics: &Metrics) -> ExportMetricsServiceRequest {
    let samples = metrics.gather();
    let span = Since { start: nanos(metrics.started()), now: nanos(metrics.now()) };
    let metrics = names::ALL.iter().filter_map(|metric| to_metric(metric, &samples, span)).collect();
    let scope_metrics = ScopeMetrics { scope: Some(origin.scope.clone()), metrics, ..ScopeMetrics::default() };
    let resource = Some(origin.resource.clone());
    let resource_metrics =
        ResourceMetrics { resource, scope_metrics: vec![scope_metrics], ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}

#[derive(Clone, Copy)]
struct Since {
    start: u64,
    now: u64,
}

fn to_metric(metric: &'static names::Metric, samples: &Samples, span: Since) -> Option<Metric> {
    let mut series = samples.of(metric).peekable();
    series.peek()?;
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match metric.kind {
        Kind::Counter => Data::Sum(Sum {
            data_points: series.filter_map(|sample| number(sample, span)).collect(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        Kind::Gauge => Data::Gauge(Gauge { data_points: series.filter_map(|sample| number(sample, span)).collect() }),
        Kind::Histogram => Data::Histogram(Histogram {
            data_points: series.filter_map(|sample| histogram(sample, span)).collect(),
            aggregation_temporality: cumulative,
        }),
    };
    Some(Metric {
        name: metric.otel.to_owned(),
        description: metric.help.to_owned(),
        unit: metric.unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

fn number(sample: &Sample, span: Since) -> Option<NumberDataPoint> {
    let value = match &sample.point {
        Point::Whole(value) => Value::AsInt(i64::try_from(*value).unwrap_or(i64::MAX)),
        Point::Real(value) => Value::AsDouble(*value),
        Point::Histogram(_) => return None,
    };
    Some(NumberDataPoint {
        attributes: attributes(sample),
        start_time_unix_nano: span.start,
        time_unix_nano: span.now,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn histogram(sample: &Sample, span: Since) -> Option<HistogramDataPoint> {
    let Point::Histogram(histogram) = &sample.point else {
        return None;
    };
    Some(HistogramDataPoint {
        attributes: attributes(sample),
        start_time_unix_nano: span.start,
        time_unix_nano: span.now,
        count: histogram.count(),
        sum: Some(histogram.sum),
        bucket_counts: histogram.buckets.clone(),
        explicit_bounds: histogram.bounds.to_vec(),
        ..HistogramDataPoint::default()
    })
}

fn attributes(sample: &Sample) -> Vec<KeyValue> {
    sample.metric.labels.iter().zip(&sample.labels).map(|(key, value)| text(key, value)).collect()
}

fn nanos(time: Timestamp) -> u64 {
    time.as_micros().saturating_mul(1_000)
}
