//! What several verbs print: times, spans, tables.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyferry_proto::v1::ErrorDetail;

use crate::clock::{Clock as _, SystemClock, Timestamp};
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

/// Facts under a headline, aligned.
pub(super) fn facts(headline: &str, facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines = facts.iter().map(|(name, fact)| format!("\n  {name:<width$}  {fact}"));
    std::iter::once(headline.to_owned()).chain(lines).collect()
}

/// As a broker sent it, for programs.
pub(super) fn time(at: &prost_types::Timestamp) -> Option<String> {
    Some(timestamp(at)?.to_string())
}

pub(super) fn shown(at: Option<&prost_types::Timestamp>) -> String {
    at.and_then(time).unwrap_or_else(|| "never".to_owned())
}

/// As far from now as it is.
pub(super) fn relative(at: Option<&prost_types::Timestamp>) -> String {
    at.and_then(timestamp).map_or_else(|| "never".to_owned(), |at| from_now(at, SystemClock.now()))
}

fn from_now(at: Timestamp, now: Timestamp) -> String {
    if at > now { format!("in {}", length(at.since(now))) } else { format!("{} ago", length(now.since(at))) }
}

fn timestamp(at: &prost_types::Timestamp) -> Option<Timestamp> {
    let (seconds, nanos) = (u64::try_from(at.seconds).ok()?, u64::try_from(at.nanos).ok()?);
    Some(Timestamp::from_secs(seconds).plus(Duration::from_nanos(nanos)))
}

/// Of the client's times.
pub(super) fn wire(at: SystemTime) -> Option<prost_types::Timestamp> {
    let since = at.duration_since(UNIX_EPOCH).ok()?;
    Some(prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).ok()?,
        nanos: i32::try_from(since.subsec_nanos()).ok()?,
    })
}

pub(super) fn span(span: &prost_types::Duration) -> String {
    length(Duration::try_from(*span).unwrap_or_default())
}

/// Seconds up to a minute, then minutes, hours, days: two of them at most.
fn length(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// As text if it is text, in base64 otherwise.
pub(super) fn payload_json(payload: &[u8]) -> (Option<&str>, Option<String>) {
    match std::str::from_utf8(payload) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(STANDARD.encode(payload))),
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
    fn times_are_told_from_now() {
        let now = Timestamp::from_secs(1_000_000);
        assert_eq!(from_now(now.plus(Duration::from_secs(299)), now), "in 4m59s");
        assert_eq!(from_now(Timestamp::from_secs(999_997), now), "3s ago");
    }

    #[test]
    fn spans_are_told_in_two_units_at_most() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1m1s"), (7260, "2h1m"), (90_000, "1d1h"), (-5, "0s")] {
            assert_eq!(span(&prost_types::Duration { seconds, nanos: 0 }), text);
        }
    }
}
