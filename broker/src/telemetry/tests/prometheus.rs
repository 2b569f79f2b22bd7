use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tonic::Code;

use super::*;
use crate::clock::SystemClock;
use crate::telemetry::Metrics;

fn busy() -> Arc<Metrics> {
    let metrics = Metrics::new(["a.B/C", "a.B/D"], ["ACCESS_DENIED"], Arc::new(SystemClock));
    metrics.begin(0).finish(Code::Ok);
    metrics.begin(0).finish(Code::Ok);
    metrics.begin(1).finish(Code::Internal);
    metrics.begin(2).finish(Code::Unimplemented);
    metrics.failed("ACCESS_DENIED");
    metrics.register(crate::telemetry::process::sample);
    metrics.register(|out| out.set(&names::POLICY_INFO, &["a\"b\\c\nd"], true));
    metrics
}

#[test]
fn passes_a_strict_reader() {
    let text = busy().prometheus();
    let series = read(&text);
    let labels = |code: &str, le: &str| {
        format!(
            "_bucket{{rpc_system_name=\"grpc\",rpc_method=\"a.B/C\",rpc_response_status_code=\"{code}\",le=\"{le}\"}}"
        )
    };
    let named = |rest: String| format!("rpc_server_call_duration_seconds{rest}");
    assert_eq!(series[&named(labels("OK", "+Inf"))], 2.0);
    assert_eq!(series["keyferry_call_failures_total{reason=\"ACCESS_DENIED\"}"], 1.0);
    assert_eq!(series["keyferry_calls_in_flight{rpc_method=\"_OTHER\"}"], 0.0);
    assert!(series["process_resident_memory_bytes"] > 100_000.0);
}

#[test]
fn escapes_label_values() {
    assert!(busy().prometheus().contains(r#"keyferry_policy_info{hash="a\"b\\c\nd"} 1"#));
}

#[test]
fn the_strict_reader_is_strict() {
    for bad in [
        "a 1\n",
        "# HELP a b\n# TYPE a gauge\na 1",
        "# HELP a b\n# TYPE a gauge\na 1\na 1\n",
        "# HELP a b\n# TYPE a gauge\na{x=\"1} 1\n",
        "# HELP a b\n# TYPE a gauge\na{x=\"\\q\"} 1\n",
        "# HELP a b\n# TYPE a gauge\na one\n",
        "# HELP a b\n# TYPE a wheel\na 1\n",
        "# HELP a b\n# TYPE a gauge\n9a 1\n",
        "# HELP a b\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
        "# HELP a b\n# TYPE a histogram\na_bucket{le=\"1\"} 1\na_sum 1\na_count 1\n",
    ] {
        assert!(std::panic::catch_unwind(|| read(bad)).is_err(), "{bad}");
    }
}

/// Reads the text format as strictly as its specification allows, and panics where it is broken.
fn read(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'), "the last line has no end");
    let mut series = BTreeMap::new();
    let mut families = BTreeSet::new();
    let mut help = "";
    let mut family = ("", "");
    let mut buckets: Vec<(String, f64, f64)> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').expect("help has a text").0;
            assert!(families.insert(help), "{help} comes twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split_once(' ').expect("type has a kind");
            assert_eq!(family.0, help, "the type follows its help");
            assert!(["counter", "gauge", "histogram"].contains(&family.1), "{}", family.1);
        } else {
            let (name, labels, value) = sample(line);
            let suffix = name.strip_prefix(family.0).expect("a sample belongs to the family above");
            match (family.1, suffix) {
                ("histogram", "_bucket") => {
                    let (rest, bound) = labels.rsplit_once("le=\"").expect("a bucket has a bound");
                    let bound = bound.trim_end_matches("\"}");
                    let bound =
                        if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a bound is a number") };
                    if let Some((of, last, below)) = buckets.last()
                        && of == rest
                    {
                        assert!(bound > *last && value >= *below, "buckets grow: {line}");
                    }
                    buckets.push((rest.to_owned(), bound, value));
                }
                ("histogram", "_count") => {
                    let (_, bound, all) = buckets.last().expect("buckets come first");
                    assert!(*bound == f64::INFINITY && *all == value, "the last bucket holds all: {line}");
                }
                ("histogram", "_sum") => {}
                (kind, suffix) => assert!(suffix.is_empty() && kind != "histogram", "{line}"),
            }
            assert!(series.insert(format!("{name}{labels}"), value).is_none(), "{line} comes twice");
        }
    }
    series
}

fn sample(line: &str) -> (&str, &str, f64) {
    let end = line.find(['{', ' ']).expect("a sample has a value");
    let (name, rest) = line.split_at(end);
    assert!(name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_'), "{line}");
    assert!(name.chars().all(|part| part.is_ascii_alphanumeric() || part == '_'), "{line}");
    let mut inside = rest;
    if let Some(mut pairs) = rest.strip_prefix('{') {
        loop {
            let (key, value) = pairs.split_once("=\"").expect("a label has a quoted value");
            assert!(!key.is_empty() && key.chars().all(|part| part.is_ascii_alphanumeric() || part == '_'), "{line}");
            let end = quoted(value);
            pairs = &value[end..];
            match pairs.strip_prefix(',') {
                Some(more) => pairs = more,
                None => break,
            }
        }
        inside = pairs.strip_prefix('}').expect("labels end");
    }
    let labels = &rest[..rest.len() - inside.len()];
    (name, labels, inside.strip_prefix(' ').expect("one blank").parse().expect("a number"))
}

/// Where the text behind the closing quote begins.
fn quoted(value: &str) -> usize {
    let mut parts = value.char_indices();
    while let Some((place, part)) = parts.next() {
        match part {
            '"' => return place + 1,
            '\\' => assert!(matches!(parts.next(), Some((_, '\\' | '"' | 'n'))), "{value}"),
            _ => {}
        }
    }
    panic!("a value ends: {value}");
}
