//! When a rotation is due by itself: by a cron expression or an interval, spread by jitter, within a window. All in UTC.

mod cron;
#[cfg(test)]
mod fuzz;
mod window;

use std::time::Duration;

pub use cron::Cron;
pub use window::Window;

use crate::clock::Timestamp;
use crate::digest::Digest;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub rhythm: Rhythm,
    /// Each run starts so much later at most.
    pub jitter: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rhythm {
    Cron(Cron),
    /// From the start of the run before.
    Every(Duration),
}

impl Schedule {
    /// When the first run after `last` starts. `name` makes schedules of one rhythm start apart; every replica and every
    /// restart comes to the same moment.
    pub fn next(&self, name: &str, last: Timestamp, window: Option<&Window>) -> Option<Timestamp> {
        let nominal = match &self.rhythm {
            Rhythm::Cron(cron) => cron.next(last)?,
            Rhythm::Every(interval) => last.plus(*interval),
        };
        let start = nominal.plus(self.delay(name, nominal));
        Some(window.map_or(start, |window| window.opening(start)))
    }

    fn delay(&self, name: &str, nominal: Timestamp) -> Duration {
        let most = u64::try_from(self.jitter.as_micros()).unwrap_or(u64::MAX);
        let digest = Digest::of_parts(&[&nominal.as_micros().to_be_bytes(), name.as_bytes()]);
        let chance = digest.0.first_chunk().copied().map(u64::from_be_bytes).unwrap_or_default();
        Duration::from_micros(chance % most.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn at(text: &str) -> Timestamp {
        let time: jiff::Timestamp = text.parse().unwrap();
        Timestamp::from_micros(time.as_microsecond().try_into().unwrap())
    }

    #[test]
    fn jitter_is_the_same_for_a_run_and_differs_between_runs_and_names() {
        let schedule = Schedule { rhythm: Rhythm::Every(24 * HOUR), jitter: HOUR };
        let last = at("2026-01-01T00:00:00Z");
        let next = schedule.next("a", last, None).unwrap();
        assert_eq!(schedule.next("a", last, None), Some(next));
        assert!(next.since(last.plus(24 * HOUR)) <= HOUR);
        assert_ne!(schedule.next("b", last, None), Some(next));
        assert_ne!(schedule.next("a", last.plus(HOUR), None), Some(next.plus(HOUR)));
    }

    #[test]
    fn jitter_never_reaches_beyond_its_bound() {
        let schedule = Schedule { rhythm: Rhythm::Every(HOUR), jitter: Duration::from_secs(1) };
        for run in 0..1000 {
            let last = Timestamp::from_secs(run);
            let next = schedule.next("a", last, None).unwrap();
            assert!(next >= last.plus(HOUR) && next <= last.plus(HOUR + Duration::from_secs(1)));
        }
    }

    #[test]
    fn a_run_outside_the_window_waits_for_its_opening() {
        let window = Window::parse("22:00-04:00").unwrap();
        let schedule = Schedule { rhythm: Rhythm::Cron(Cron::parse("0 12 * * *").unwrap()), jitter: Duration::ZERO };
        let next = schedule.next("a", at("2026-01-01T00:00:00Z"), Some(&window));
        assert_eq!(next, Some(at("2026-01-01T22:00:00Z")));
    }
}
