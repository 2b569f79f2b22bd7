//! The metrics as Prometheus reads them: text format 0.0.4.

use std::fmt::{self, Display, Formatter, Write as _};

use super::names::{self, Kind};
use super::samples::{Histogram, Point, Sample, Samples};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn text(samples: &Samples) -> String {
    let mut out = String::with_capacity(16 * 1024);
    // Writing into a string cannot fail.
    let _ = write!(out, "{}", Page(samples));
    out
}

struct Page<'a>(&'a Samples);

impl Display for Page<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for metric in names::ALL {
            let mut series = self.0.of(metric).peekable();
            if series.peek().is_none() {
                continue;
            }
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            writeln!(f, "# HELP {} {}", metric.prometheus, Escaped(metric.help, false))?;
            writeln!(f, "# TYPE {} {kind}", metric.prometheus)?;
            for sample in series {
                match &sample.point {
                    Point::Whole(value) => line(f, sample, "", None, value)?,
                    Point::Real(value) => line(f, sample, "", None, &Real(*value))?,
                    Point::Histogram(histogram) => lines(f, sample, histogram)?,
                }
            }
        }
        Ok(())
    }
}

fn lines(f: &mut Formatter<'_>, sample: &Sample, histogram: &Histogram) -> fmt::Result {
    let mut below = 0;
    for (bound, count) in histogram.bounds.iter().chain([&f64::INFINITY]).zip(&histogram.buckets) {
        below += count;
        line(f, sample, "_bucket", Some(*bound), &below)?;
    }
    line(f, sample, "_sum", None, &Real(histogram.sum))?;
    line(f, sample, "_count", None, &below)
}

fn line(f: &mut Formatter<'_>, sample: &Sample, suffix: &str, bound: Option<f64>, value: &dyn Display) -> fmt::Result {
    write!(f, "{}{suffix}", sample.metric.prometheus)?;
    let mut lead = '{';
    for (key, value) in sample.metric.labels.iter().zip(&sample.labels) {
        write!(f, "{lead}")?;
        for part in key.chars() {
            f.write_char(if part == '.' { '_' } else { part })?;
        }
        write!(f, "=\"{}\"", Escaped(value, true))?;
        lead = ',';
    }
    if let Some(bound) = bound {
        write!(f, "{lead}le=\"{}\"", Real(bound))?;
        lead = ',';
    }
    if lead == ',' {
        f.write_char('}')?;
    }
    writeln!(f, " {value}")
}

/// Help text escapes backslashes and line ends; label values escape quotes as well.
struct Escaped<'a>(&'a str, bool);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for part in self.0.chars() {
            match part {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '"' if self.1 => f.write_str("\\\"")?,
                plain => f.write_char(plain)?,
            }
        }
        Ok(())
    }
}

struct Real(f64);

impl Display for Real {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0 == f64::INFINITY {
            f.write_str("+Inf")
        } else if self.0 == f64::NEG_INFINITY {
            f.write_str("-Inf")
        } else {
            write!(f, "{}", self.0)
        }
    }
}

#[cfg(test)]
#[path = "tests/prometheus.rs"]
mod tests;
