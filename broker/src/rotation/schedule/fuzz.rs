//! Times as people write them.

use std::time::Duration;

use keyferry_fuzz::{Fuzz, Verdict};

use super::{Cron, Window};
use crate::clock::Timestamp;
use crate::config;

const WORDS: [&str; 16] = [
    "* ",
    "*/5 ",
    "0 ",
    "59 ",
    "23 ",
    "1-31 ",
    "29 2 ",
    "31 ",
    "jan-dec ",
    "sun",
    "sat",
    "7",
    "22:00-04:00",
    "24:00",
    "ms",
    "h",
];

#[test]
fn what_fires_does_so_later_on_a_whole_minute_and_a_window_opens_when_it_says() {
    let times = [0, 951_782_399, 1_800_000_001, 4_102_444_799, 253_000_000_000].map(Timestamp::from_secs);
    Fuzz::new("schedule").words(&WORDS).longest(256).inputs(8000).holds(|input| {
        let Ok(text) = str::from_utf8(input) else { return Verdict::Refused };
        let (cron, window, span) = (Cron::parse(text), Window::parse(text), config::parse_duration(text));
        for time in times {
            if let Ok(cron) = &cron
                && let Some(next) = cron.next(time)
            {
                assert!(next > time && next.as_micros() % 60_000_000 == 0, "{next} after {time}");
                // Nothing was passed over.
                let before = Timestamp::from_micros(next.as_micros() - 1).max(time);
                assert_eq!(cron.next(before), Some(next));
            }
            if let Ok(window) = &window {
                let opening = window.opening(time);
                assert!(window.contains(opening) && opening >= time);
                assert!(opening.since(time) < Duration::from_hours(24));
                assert_eq!(window.to_string(), text);
            }
        }
        (cron.is_ok() || window.is_ok() || span.is_ok()).into()
    });
}
