//! `[quota]`

use super::kind::{count, duration};
use super::reader::Reader;
use super::section::Section;
use crate::admission::{Bucket, QuotaSettings};

const ABOUT: &str = "What one caller may do, on each replica.";

pub(super) fn read(reader: &mut Reader<'_>) -> QuotaSettings {
    reader.section("quota", ABOUT, |s| QuotaSettings {
        read: bucket(
            s,
            ["read_rate", "read_burst"],
            ["1000", "2000"],
            ["Calls per second that read secrets or list them.", "Such calls at once, after a pause."],
        ),
        mint: bucket(
            s,
            ["mint_rate", "mint_burst"],
            ["20", "40"],
            ["Calls per second that make a credential.", "Such calls at once, after a pause."],
        ),
        change: bucket(
            s,
            ["change_rate", "change_burst"],
            ["20", "40"],
            ["Calls per second that change a secret or a lease.", "Such calls at once, after a pause."],
        ),
        operate: bucket(
            s,
            ["operate_rate", "operate_burst"],
            ["20", "40"],
            ["Operators' calls per second.", "Such calls at once, after a pause."],
        ),
        streams: s.with_default("streams", count(1..=1_000_000), "100", "Streams open at a time."),
        distinct_secrets: s.with_default(
            "distinct_secrets",
            count(1..=1_000_000),
            "1000",
            "How many different secrets a caller may touch within the window: a guard against scraping.",
        ),
        distinct_window: s.with_default("distinct_window", duration("1m", "24h"), "1h", "That window."),
    })
}

fn bucket(
    s: &mut Section<'_, '_>,
    [rate, burst]: [&'static str; 2],
    [default_rate, default_burst]: [&str; 2],
    [rate_meaning, burst_meaning]: [&'static str; 2],
) -> Bucket {
    Bucket {
        rate: s.with_default(rate, count(1..=1_000_000), default_rate, rate_meaning),
        burst: s.with_default(burst, count(1..=1_000_000), default_burst, burst_meaning),
    }
}
