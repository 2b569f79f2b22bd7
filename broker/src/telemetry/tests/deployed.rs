//! What `deploy/` asks Prometheus for is what the broker reports.

use super::{ALL, Kind};

#[test]
fn rules_and_dashboard_ask_for_metrics_and_labels_that_exist() {
    for (file, text) in [
        ("rules.yaml", include_str!("../../../../deploy/prometheus/rules.yaml")),
        ("keyferry.json", include_str!("../../../../deploy/grafana/keyferry.json")),
    ] {
        let (mut metrics, mut labels) = (0, 0);
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            if word.starts_with("rpc_server_") || word.starts_with("process_") || word.starts_with("keyferry_") {
                assert!(known_metric(word), "{file} asks for {word}, which the broker does not report");
                metrics += 1;
            }
        }
        let selected =
            text.split('{').skip(1).filter_map(|rest| rest.split_once('}')).flat_map(|(inner, _)| matched(inner));
        let grouped = text.split("by (").skip(1).filter_map(|rest| rest.split_once(')'));
        for word in selected.chain(grouped.flat_map(|(inner, _)| inner.split(',').map(str::trim))) {
            assert!(known_label(word), "{file} selects by {word}, which no metric has");
            labels += 1;
        }
        assert!(metrics > 20 && labels > 5, "{file}: {metrics} metrics and {labels} labels were looked at");
    }
}

fn known_metric(word: &str) -> bool {
    ALL.iter().any(|metric| {
        let suffix = word.strip_prefix(metric.prometheus);
        match metric.kind {
            Kind::Histogram => matches!(suffix, Some("_bucket" | "_count" | "_sum")),
            Kind::Counter | Kind::Gauge => suffix == Some(""),
        }
    })
}

/// Those that Prometheus adds, and a metric's own.
fn known_label(word: &str) -> bool {
    ["job", "instance", "le"].contains(&word)
        || ALL.iter().any(|metric| metric.labels.iter().any(|label| label.replace('.', "_") == word))
}

/// The names in `a="…",b=~"…"`, in JSON or not.
fn matched(selector: &str) -> impl Iterator<Item = &str> {
    selector.split(',').filter_map(|pair| {
        let (name, value) = pair.split_once(['=', '!'])?;
        value.contains('"').then_some(name.trim())
    })
}
