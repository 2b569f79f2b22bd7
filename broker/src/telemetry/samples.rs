//! The numbers of one moment, on their way to whoever asked.

use super::names::{Kind, Metric};

/// Collected anew for each scrape and each export.
#[derive(Debug, Default)]
pub struct Samples(Vec<Sample>);

#[derive(Debug)]
pub struct Sample {
    pub metric: &'static Metric,
    /// In the order of the metric's label keys.
    pub labels: Box<[Box<str>]>,
    pub point: Point,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Point {
    Whole(u64),
    Real(f64),
    Histogram(Histogram),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    pub bounds: &'static [f64],
    /// How many fell into each, not added up; one more than there are bounds.
    pub buckets: Vec<u64>,
    pub sum: f64,
}

impl Samples {
    pub fn set(&mut self, metric: &'static Metric, labels: &[&str], value: impl Into<Point>) {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{} has other labels", metric.prometheus);
        let point = value.into();
        debug_assert_eq!(metric.kind == Kind::Histogram, matches!(point, Point::Histogram(_)), "{}", metric.prometheus);
        self.0.push(Sample { metric, labels: labels.iter().map(|label| Box::from(*label)).collect(), point });
    }

    /// Leaves a series out until something happened in it, where the label values are many.
    pub fn set_nonzero(&mut self, metric: &'static Metric, labels: &[&str], value: u64) {
        if value > 0 {
            self.set(metric, labels, value);
        }
    }

    pub fn set_histogram(&mut self, metric: &'static Metric, labels: &[&str], histogram: Histogram) {
        self.set(metric, labels, Point::Histogram(histogram));
    }

    pub fn of(&self, metric: &'static Metric) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| sample.metric == metric)
    }
}

impl Histogram {
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl From<u64> for Point {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<bool> for Point {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Point {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}
