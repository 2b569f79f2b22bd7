//! A class's budget: never more than its limit in any window, wherever the window begins.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Operation;
use super::account::LedgerEntry;
use super::jitter::Jitter;
use super::retry::Verdict;
use crate::clock::Timestamp;
use crate::error::{Detail, Failure, Reason};

/// Where the provider throttles without saying for how long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What a provider may ask for, so that one bad header does not shut a store.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// The present rate is read from the last part of the window, one in so many.
const RATE_SHARE: u32 = 4;

/// How many requests may be made in any span of `window`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub limit: u32,
    pub window: Duration,
}

#[derive(Debug)]
pub(super) struct Queue {
    budget: Budget,
    /// When the requests of the last window were made, the oldest first. An exact log, because an approximation
    /// either breaks the budget or wastes it; it is as long as the budget was ever used.
    made: VecDeque<Instant>,
    pub(super) waiting: usize,
    pause: Option<Pause>,
    /// Pauses in a row whose length the provider left to us.
    guesses: u32,
    requests: u64,
    throttled: u64,
    pub(super) refused: u64,
}

#[derive(Debug)]
struct Pause {
    until: Instant,
    reason: Reason,
}

impl Queue {
    pub(super) fn new(budget: Budget) -> Self {
        Self {
            budget: Budget { limit: budget.limit.max(1), ..budget },
            made: VecDeque::new(),
            waiting: 0,
            pause: None,
            guesses: 0,
            requests: 0,
            throttled: 0,
            refused: 0,
        }
    }

    pub(super) fn budget(&self) -> Budget {
        self.budget
    }

    /// How long whoever comes now would wait.
    pub(super) fn forecast(&self, now: Instant) -> Duration {
        self.turn_after(now, self.waiting)
    }

    /// How long the first of the queue has to wait.
    pub(super) fn next_turn(&self, now: Instant) -> Duration {
        self.turn_after(now, 0)
    }

    /// Exact: each request frees its place a window after it was made, for the one whose turn it then is.
    fn turn_after(&self, now: Instant, ahead: usize) -> Duration {
        let Budget { limit, window } = self.budget;
        let start = self.pause.as_ref().map_or(now, |pause| pause.until.max(now));
        let limit = limit as usize;
        let past = self.past(start);
        let free = limit.saturating_sub(self.made.len() - past);
        let (windows, place) = (ahead / limit, ahead % limit);
        let at = match place.checked_sub(free).and_then(|taken| self.made.get(past + taken)) {
            Some(made) => *made + window,
            None => start,
        };
        at.saturating_duration_since(now) + window * u32::try_from(windows).unwrap_or(u32::MAX)
    }

    /// A request is made now.
    pub(super) fn take(&mut self, now: Instant) {
        let past = self.past(now);
        self.made.drain(..past);
        self.made.push_back(now);
        self.requests += 1;
    }

    /// Takes to heart what the provider says of the load. A pause is for all, and those who wait already wait for its
    /// end too.
    pub(super) fn heed(
        &mut self,
        failure: Option<&Failure>,
        verdict: Verdict,
        now: Instant,
        jitter: &mut Jitter,
    ) -> Option<Duration> {
        match verdict {
            Verdict::Answered => self.guesses = 0,
            Verdict::Throttled => self.throttled += 1,
            Verdict::Silent | Verdict::Unknown => {}
        }
        let failure = failure.filter(|_| matches!(verdict, Verdict::Throttled | Verdict::Silent))?;
        let pause = if let Detail::RetryAfter(asked) = failure.detail() {
            let asked = (*asked).min(LONGEST_ASKED);
            // Many replicas were told the same.
            asked + jitter.of(asked / 10)
        } else if verdict == Verdict::Throttled && self.paused(now).is_none() {
            let longest = FIRST_PAUSE.saturating_mul(1 << self.guesses.min(16)).min(LONGEST_PAUSE);
            self.guesses += 1;
            jitter.around(longest)
        } else {
            // Many that were under way together are one throttling.
            return None;
        };
        let until = now + pause;
        if self.pause.as_ref().is_some_and(|pause| pause.until >= until) {
            return None;
        }
        self.pause = Some(Pause { until, reason: failure.reason() });
        Some(pause)
    }

    /// Why the provider wants to be left alone, while it does.
    pub(super) fn paused(&self, now: Instant) -> Option<Reason> {
        self.pause.as_ref().filter(|pause| pause.until > now).map(|pause| pause.reason)
    }

    pub(super) fn account(&self, operation: Operation, now: Instant, wall: Timestamp) -> LedgerEntry {
        let Budget { limit, window } = self.budget;
        let used = self.made.len() - self.past(now);
        let recent = self.made.len() - self.made.partition_point(|made| *made + window / RATE_SHARE <= now);
        let forecast = (recent + self.waiting) as u64 * u64::from(RATE_SHARE);
        let pause = self.pause.as_ref().filter(|pause| pause.until > now);
        LedgerEntry {
            operation,
            window,
            limit: limit.into(),
            used: used as u64,
            forecast,
            exhausted: self.exhausted_in(now, forecast).map(|span| wall.plus(span)),
            paused: pause.map(|pause| wall.plus(pause.until - now)),
            requests: self.requests,
            throttled: self.throttled,
            refused: self.refused,
        }
    }

    /// When the log would be full if requests kept coming at this rate while old ones leave it.
    fn exhausted_in(&self, now: Instant, per_window: u64) -> Option<Duration> {
        let Budget { limit, window } = self.budget;
        let live = self.made.range(self.past(now)..);
        let mut used = live.len() as u64;
        let limit = u64::from(limit);
        if used >= limit {
            return Some(Duration::ZERO);
        }
        if per_window == 0 {
            return None;
        }
        let until_full = |used: u64| window.mul_f64((limit - used) as f64 / per_window as f64);
        for made in live {
            let leaves = (*made + window).saturating_duration_since(now);
            let full = until_full(used);
            if full <= leaves {
                return Some(full);
            }
            used -= 1;
        }
        Some(until_full(used)).filter(|full| *full < window)
    }

    /// How many of the log are a window old or older at that time.
    fn past(&self, at: Instant) -> usize {
        self.made.partition_point(|made| *made + self.budget.window <= at)
    }
}
