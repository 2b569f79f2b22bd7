//! `[limits]`

use super::kind::{count, duration, size};
use super::reader::Reader;
use crate::transport::Limits;

const ABOUT: &str = "What one peer, and all of them together, may occupy.";

pub(super) fn read(reader: &mut Reader<'_>) -> Limits {
    reader.section("limits", ABOUT, |s| {
        let limits = Limits {
            connections: s.with_default(
                "connections",
                count(1..=1_000_000),
                "10000",
                "Open connections; further ones are closed at once.",
            ),
            handshakes: s.with_default(
                "handshakes",
                count(1..=100_000),
                "1000",
                "Connections that have not finished their TLS handshake.",
            ),
            handshake_timeout: s.with_default(
                "handshake_timeout",
                duration("100ms", "1m"),
                "5s",
                "How long a handshake may take.",
            ),
            streams_per_connection: s.with_default(
                "streams_per_connection",
                count(1..=100_000),
                "128",
                "Calls under way on one connection.",
            ),
            header_bytes: s.with_default(
                "header_bytes",
                size("4KiB", "1MiB"),
                "16KiB",
                "All headers of a call together.",
            ),
            message_bytes: s.with_default(
                "message_bytes",
                size("1KiB", "16MiB"),
                "256KiB",
                "A message that a caller sends; one that carries no secret has at most 64 KiB.",
            ),
            request_timeout: s.with_default(
                "request_timeout",
                duration("100ms", "1m"),
                "5s",
                "How long the message of a request may take to arrive.",
            ),
            calls_in_flight: s.with_default(
                "calls_in_flight",
                count(1..=1_000_000),
                "10000",
                "Calls under way in the whole process; further ones are refused at once. Health checks have as many places of their own.",
            ),
            streams: s.with_default(
                "streams",
                count(1..=1_000_000),
                "20000",
                "Watches open in the whole process; they hold no place of calls_in_flight. Further ones are refused at once.",
            ),
            watch_backlog: s.with_default(
                "watch_backlog",
                count(16..=10_000_000),
                "32768",
                "Events kept in memory for those who watch, some hundred bytes each. Who reads so slowly that it falls behind them starts over, by a resync that says LAGGED.",
            ),
            default_deadline: s.with_default(
                "default_deadline",
                duration("100ms", "10m"),
                "10s",
                "The deadline of a call that names none.",
            ),
            maximum_deadline: s.with_default(
                "maximum_deadline",
                duration("100ms", "1h"),
                "60s",
                "The longest deadline that a caller may name; a longer one is cut to it.",
            ),
            keepalive_interval: s.with_default(
                "keepalive_interval",
                duration("1s", "1h"),
                "30s",
                "How often a connection is pinged.",
            ),
            keepalive_timeout: s.with_default(
                "keepalive_timeout",
                duration("1s", "5m"),
                "10s",
                "How long the answer to a ping may take before the connection is closed.",
            ),
            drain_grace: s.with_default(
                "drain_grace",
                duration("0s", "10m"),
                "20s",
                "How long calls may go on after the broker was told to stop.",
            ),
        };
        if limits.default_deadline > limits.maximum_deadline && s.are_sound(&["default_deadline", "maximum_deadline"]) {
            s.refuse("default_deadline", "is longer than maximum_deadline; shorten it, or raise the maximum");
        }
        limits
    })
}
