//! How much a database asks its cloud for.

use std::time::Duration;

use crate::config::kind::{count, duration};
use crate::config::section::Section;
use crate::providers::guard::{Budget, GuardSettings};

const WINDOW: Duration = Duration::from_secs(60);

pub(super) fn read(s: &mut Section<'_, '_>, access: &str, meaning: &'static str) -> GuardSettings {
    let limit = s.with_default("access_budget", count(1..=60_000), access, meaning);
    let budget = Budget { limit, window: WINDOW };
    GuardSettings {
        access: budget,
        // Asked for every few minutes, and nothing is ever written.
        metadata: budget,
        write: budget,
        maximum_wait: s.with_default(
            "maximum_wait",
            duration("100ms", "5m"),
            "5s",
            "How long a mint may wait in all for its budget, for pauses that the cloud asked for, and between its \
             attempts.",
        ),
        request_timeout: s.with_default(
            "request_timeout",
            duration("1s", "1m"),
            "10s",
            "How long the cloud has for one answer.",
        ),
    }
}
