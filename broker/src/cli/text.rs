//! What several verbs print: times, spans, tables.

use std::time::Duration;

use keyferry_proto::v1::ErrorDetail;

use super::time;
use crate::status::ReasonExt;

/// Columns as wide as their widest cell. The last one is not padded.
pub(super) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).filter(|(_, width)| **width > 0);
        cells.map(|(cell, width)| format!("{cell:<width$}")).collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

pub(super) fn shown(at: Option<&prost_types::Timestamp>) -> String {
    at.and_then(time).unwrap_or_else(|| "never".to_owned())
}

/// Seconds up to a minute, then minutes, hours, days: two of them at most.
pub(super) fn span(span: &prost_types::Duration) -> String {
    let seconds = Duration::try_from(*span).map_or(0, |span| span.as_secs());
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// The reason's name, where there is one.
pub(super) fn reason(error: &ErrorDetail) -> Option<&'static str> {
    Some(error.reason()).filter(|reason| *reason != Default::default()).map(ReasonExt::name)
}

pub(super) fn told(error: &ErrorDetail) -> String {
    match reason(error) {
        Some(reason) => format!("{reason}: {}", error.message),
        None => error.message.clone(),
    }
}

/// Of the contract's enumerations, as people write them.
pub(super) fn plain(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_two_units_at_most() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1m1s"), (7260, "2h1m"), (90_000, "1d1h"), (-5, "0s")] {
            assert_eq!(span(&prost_types::Duration { seconds, nanos: 0 }), text);
        }
    }
}
