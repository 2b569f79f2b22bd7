use std::sync::Mutex;
use std::thread;

use super::super::samples::Point;
use super::*;
use crate::clock::{Clock, SystemClock};

const METHODS: [&str; 2] = ["keyferry.v1.SecretService/GetSecret", "keyferry.v1.OperatorService/WhoAmI"];
const REASONS: [&str; 2] = ["ACCESS_DENIED", "SECRET_NOT_FOUND"];

#[derive(Debug)]
struct Manual(Mutex<Instant>);

impl Manual {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(SystemClock.monotonic())))
    }

    fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for Manual {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(1_000)
    }

    fn monotonic(&self) -> Instant {
        *self.0.lock().unwrap()
    }
}

fn histogram(metrics: &Metrics, method: &str, code: &str) -> Option<Histogram> {
    let samples = metrics.gather();
    let found = samples
        .of(&names::CALL_DURATION)
        .find(|sample| *sample.labels == ["grpc".into(), method.into(), code.into()])?;
    let Point::Histogram(histogram) = &found.point else { panic!("{found:?}") };
    Some(histogram.clone())
}

fn in_flight(metrics: &Metrics, method: &str) -> Option<Point> {
    let samples = metrics.gather();
    samples
        .of(&names::CALLS_IN_FLIGHT)
        .find(|sample| *sample.labels == [method.into()])
        .map(|sample| sample.point.clone())
}

#[test]
fn adds_up_what_eight_threads_count() {
    const EACH: usize = 10_000;
    let metrics = Metrics::new(METHODS, REASONS, Arc::new(SystemClock));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for round in 0..EACH {
                    let code = if round % 10 == 0 { Code::NotFound } else { Code::Ok };
                    metrics.begin(0).finish(code);
                    metrics.failed("SECRET_NOT_FOUND");
                }
            });
        }
    });
    assert_eq!(histogram(&metrics, METHODS[0], "OK").unwrap().count(), 72_000);
    assert_eq!(histogram(&metrics, METHODS[0], "NOT_FOUND").unwrap().count(), 8_000);
    assert_eq!(in_flight(&metrics, METHODS[0]), Some(Point::Whole(0)));
    let samples = metrics.gather();
    let failures: Vec<_> = samples.of(&names::CALL_FAILURES).collect();
    assert_eq!(failures.len(), 1, "reasons that never occurred are left out");
    assert_eq!(failures[0].point, Point::Whole(80_000));
}

#[test]
fn puts_a_duration_on_a_bound_below_it_and_sums_exactly() {
    let clock = Manual::new();
    let metrics = Metrics::new(METHODS, REASONS, clock.clone());
    for nanos in [0, 100_000, 100_001, 10_000_000_000, 10_000_000_001] {
        let timer = metrics.begin(1);
        clock.advance(Duration::from_nanos(nanos));
        timer.finish(Code::Ok);
    }
    let histogram = histogram(&metrics, METHODS[1], "OK").unwrap();
    assert_eq!(histogram.buckets.len(), DURATION_BOUNDS.len() + 1);
    assert_eq!((histogram.buckets[0], histogram.buckets[1]), (2, 1));
    assert_eq!((histogram.buckets[18], histogram.buckets[19]), (1, 1));
    assert!((histogram.sum - 20.000_200_002).abs() < 1e-9, "{}", histogram.sum);
}

#[test]
fn keeps_the_bounds_of_the_conventions_and_their_order() {
    for bound in [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0] {
        assert!(DURATION_BOUNDS.contains(&bound), "{bound}");
    }
    assert!(BOUNDS_IN_NANOS.is_sorted());
    for (seconds, nanos) in DURATION_BOUNDS.iter().zip(BOUNDS_IN_NANOS) {
        assert_eq!(Duration::from_nanos(nanos).as_secs_f64(), *seconds);
    }
}

#[test]
fn counts_a_dropped_call_as_cancelled() {
    let metrics = Metrics::new(METHODS, REASONS, Arc::new(SystemClock));
    let timer = metrics.begin(0);
    assert_eq!(in_flight(&metrics, METHODS[0]), Some(Point::Whole(1)));
    drop(timer);
    assert_eq!(in_flight(&metrics, METHODS[0]), Some(Point::Whole(0)));
    assert_eq!(histogram(&metrics, METHODS[0], "CANCELLED").unwrap().count(), 1);
}

#[test]
fn never_makes_a_label_of_what_a_caller_invents() {
    let metrics = Metrics::new(METHODS, REASONS, Arc::new(SystemClock));
    metrics.begin(usize::MAX).finish(Code::Unimplemented);
    metrics.failed("MADE_UP");
    assert_eq!(histogram(&metrics, OTHER_METHOD, "UNIMPLEMENTED").unwrap().count(), 1);
    assert_eq!(metrics.gather().of(&names::CALL_FAILURES).count(), 0);
}

#[test]
fn shows_what_other_parts_register() {
    let metrics = Metrics::new(METHODS, REASONS, Arc::new(SystemClock));
    metrics.register(|out| out.set(&names::HANDSHAKE_FAILURES, &["grpc", "timeout"], 7_u64));
    let samples = metrics.gather();
    assert_eq!(samples.of(&names::HANDSHAKE_FAILURES).next().unwrap().point, Point::Whole(7));
}

#[test]
fn names_every_code_at_its_number() {
    for (number, name) in CODES.iter().enumerate() {
        let code = Code::from(i32::try_from(number).unwrap());
        assert_eq!(code_name(code), *name);
        assert_eq!(format!("{code:?}").to_uppercase(), name.replace('_', ""));
    }
}

#[test]
fn declares_every_metric_once_and_well() {
    for (place, metric) in names::ALL.iter().enumerate() {
        assert!(
            names::ALL[..place].iter().all(|other| other.otel != metric.otel && other.prometheus != metric.prometheus)
        );
        assert_eq!(metric.prometheus.ends_with("_total"), metric.kind == names::Kind::Counter, "{}", metric.prometheus);
        assert!(metric.help.ends_with('.'), "{}", metric.prometheus);
    }
}
