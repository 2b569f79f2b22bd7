//! What is counted while calls run. One table of atomics, laid out at start, so that a call costs a few additions and
//! never a look-up; Prometheus and OTLP both read it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tonic::Code;

use super::names::{self, OTHER_METHOD};
use super::samples::{Histogram, Samples};
use crate::clock::{SharedClock, Timestamp};

/// In seconds. The semantic conventions' bounds, and finer ones below: a cached read takes well under their first.
pub const DURATION_BOUNDS: [f64; 19] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
    10.0,
];

/// Shared by everything that counts.
pub struct Metrics {
    pub panics: Counter,
    pub log_lines_lost: Counter,
    pub spans: Exported,
    pub logs: Exported,
    pub metric_exports_failed: Counter,
    methods: Box<[&'static str]>,
    /// One per method, then one for all methods that do not exist.
    calls: Box<[MethodCalls]>,
    reasons: Box<[&'static str]>,
    failures: Box<[Counter]>,
    sources: Mutex<Vec<Source>>,
    clock: SharedClock,
    started: Timestamp,
}

type Source = Box<dyn Fn(&mut Samples) + Send + Sync>;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// What became of one signal's items on their way to the collector.
#[derive(Debug, Default)]
pub struct Exported {
    pub sent: Counter,
    pub dropped: Counter,
    pub failures: Counter,
}

/// A call under way. Dropped unfinished, it counts as cancelled.
#[derive(Debug)]
pub struct CallTimer {
    metrics: Arc<Metrics>,
    method: usize,
    begun: Instant,
    finished: bool,
}

impl Metrics {
    /// Methods and reasons are the label values; what is not among them is never a label.
    pub fn new(
        methods: impl IntoIterator<Item = &'static str>,
        reasons: impl IntoIterator<Item = &'static str>,
        clock: SharedClock,
    ) -> Arc<Self> {
        let methods: Box<[_]> = methods.into_iter().collect();
        let reasons: Box<[_]> = reasons.into_iter().collect();
        Arc::new(Self {
            panics: Counter::default(),
            log_lines_lost: Counter::default(),
            spans: Exported::default(),
            logs: Exported::default(),
            metric_exports_failed: Counter::default(),
            calls: (0..=methods.len()).map(|_| MethodCalls::default()).collect(),
            methods,
            failures: reasons.iter().map(|_| Counter::default()).collect(),
            reasons,
            sources: Mutex::default(),
            started: clock.now(),
            clock,
        })
    }

    /// Starts timing a call of the method at that place in the table; any place beyond it means an unknown method.
    pub fn begin(self: &Arc<Self>, method: usize) -> CallTimer {
        let method = method.min(self.methods.len());
        if let Some(calls) = self.calls.get(method) {
            calls.begun.add(1);
        }
        CallTimer { metrics: Arc::clone(self), method, begun: self.clock.monotonic(), finished: false }
    }

    /// Counts a failure by its reason.
    pub fn failed(&self, reason: &'static str) {
        if let Some(place) = self.reasons.iter().position(|known| *known == reason)
            && let Some(counter) = self.failures.get(place)
        {
            counter.add(1);
        }
    }

    /// Adds numbers that another part of the broker keeps. The closure runs at each scrape and each export, and must
    /// not block.
    pub fn register(&self, source: impl Fn(&mut Samples) + Send + Sync + 'static) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(source));
    }

    /// In the text format 0.0.4.
    pub fn prometheus(&self) -> String {
        super::prometheus::text(&self.gather())
    }

    /// Every number as of now.
    pub fn gather(&self) -> Samples {
        let mut out = Samples::default();
        for (method, calls) in self.methods.iter().chain([&OTHER_METHOD]).zip(&self.calls) {
            calls.sample(method, &mut out);
        }
        for (reason, counter) in self.reasons.iter().zip(&self.failures) {
            out.set_nonzero(&names::CALL_FAILURES, &[reason], counter.get());
        }
        out.set(&names::PANICS, &[], self.panics.get());
        out.set(&names::LOG_LOST, &[], self.log_lines_lost.get());
        for (signal, exported) in [("traces", &self.spans), ("logs", &self.logs)] {
            out.set_nonzero(&names::EXPORT_SENT, &[signal], exported.sent.get());
            out.set_nonzero(&names::EXPORT_DROPPED, &[signal], exported.dropped.get());
            out.set_nonzero(&names::EXPORT_FAILURES, &[signal], exported.failures.get());
        }
        out.set_nonzero(&names::EXPORT_FAILURES, &["metrics"], self.metric_exports_failed.get());
        out.set(&names::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1_u64);
        out.set(&names::PROCESS_START, &[], self.started.as_secs());
        for source in self.sources.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            source(&mut out);
        }
        out
    }

    /// Since when the counters count.
    pub fn started(&self) -> Timestamp {
        self.started
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("methods", &self.methods.len()).finish_non_exhaustive()
    }
}

impl CallTimer {
    pub fn finish(mut self, code: Code) {
        self.record(code);
    }

    fn record(&mut self, code: Code) {
        self.finished = true;
        let taken = self.metrics.clock.monotonic().saturating_duration_since(self.begun);
        if let Some(calls) = self.metrics.calls.get(self.method) {
            calls.record(code, taken);
        }
    }
}

impl Drop for CallTimer {
    fn drop(&mut self) {
        if !self.finished {
            self.record(Code::Cancelled);
        }
    }
}

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The names of the gRPC codes, each at its own number.
pub const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

pub fn code_name(code: Code) -> &'static str {
    CODES.get(code as usize).copied().unwrap_or("UNKNOWN")
}

/// Aligned so that two methods' counters never share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct MethodCalls {
    begun: Counter,
    by_code: [Durations; CODES.len()],
}

impl MethodCalls {
    fn record(&self, code: Code, taken: Duration) {
        if let Some(durations) = self.by_code.get(code as usize) {
            durations.record(taken);
        }
    }

    fn sample(&self, method: &'static str, out: &mut Samples) {
        let mut finished = 0;
        for (code, durations) in CODES.iter().zip(&self.by_code) {
            let histogram = durations.read();
            finished += histogram.count();
            if histogram.count() > 0 {
                out.set_histogram(&names::CALL_DURATION, &["grpc", method, code], histogram);
            }
        }
        // Read after the finished ones, so a call that ends in between is missed rather than counted below zero.
        let begun = self.begun.get();
        if begun > 0 {
            out.set(&names::CALLS_IN_FLIGHT, &[method], begun.saturating_sub(finished));
        }
    }
}

#[derive(Debug, Default)]
struct Durations {
    /// The last one holds what lies beyond all bounds.
    buckets: [Counter; DURATION_BOUNDS.len() + 1],
    nanos: Counter,
}

impl Durations {
    fn record(&self, taken: Duration) {
        let nanos = u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX);
        let place = BOUNDS_IN_NANOS.partition_point(|bound| *bound < nanos);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.add(1);
        }
        self.nanos.add(nanos);
    }

    fn read(&self) -> Histogram {
        Histogram {
            bounds: &DURATION_BOUNDS,
            buckets: self.buckets.iter().map(Counter::get).collect(),
            sum: Duration::from_nanos(self.nanos.get()).as_secs_f64(),
        }
    }
}

const BOUNDS_IN_NANOS: [u64; DURATION_BOUNDS.len()] = {
    let mut nanos = [0; DURATION_BOUNDS.len()];
    let mut place = 0;
    while place < nanos.len() {
        // Rounded to microseconds first, since no bound is an exact binary fraction.
        nanos[place] = (DURATION_BOUNDS[place] * 1e6 + 0.5) as u64 * 1_000;
        place += 1;
    }
    nanos
};

#[cfg(test)]
#[path = "tests/metrics.rs"]
mod tests;
