//! Leaves a provider alone that does not answer, and finds out with single requests when it does again.

use std::time::{Duration, Instant};

use super::account::Circuit;
use super::jitter::Jitter;
use super::retry::Verdict;
use crate::clock::Timestamp;

/// Requests without an answer, none with one in between, that open it.
const SILENT_TO_OPEN: u32 = 5;
const FIRST_OPEN: Duration = Duration::from_secs(1);
/// Bounds how long after an outage nobody notices that it is over.
const LONGEST_OPEN: Duration = Duration::from_secs(30);
/// For those who come while a probe is out.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// Counts changes of state: what was sent before the last one says nothing about now.
    era: u64,
    /// Times that it opened since it was last closed.
    openings: u32,
}

#[derive(Debug)]
enum State {
    Closed { silent: u32 },
    Open { until: Instant },
    Probing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// With the time until the next probe.
    Opened(Duration),
    Closed,
}

/// When a request was let through.
#[derive(Debug)]
pub(super) struct Ticket {
    era: u64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed { silent: 0 }, era: 0, openings: 0 }
    }
}

impl Breaker {
    /// Whether a request would be let through, or else when to come again.
    pub(super) fn check(&self, now: Instant) -> Result<(), Duration> {
        match self.state {
            State::Open { until } if now < until => Err(until - now),
            State::Probing => Err(PROBE_PATIENCE),
            State::Closed { .. } | State::Open { .. } => Ok(()),
        }
    }

    /// The first request after the open time is the probe.
    pub(super) fn admit(&mut self, now: Instant) -> Result<Ticket, Duration> {
        self.check(now)?;
        if matches!(self.state, State::Open { .. }) {
            self.change(State::Probing);
        }
        Ok(Ticket { era: self.era })
    }

    #[expect(clippy::needless_pass_by_value, reason = "a ticket is settled once")]
    pub(super) fn settle(
        &mut self,
        ticket: Ticket,
        verdict: Verdict,
        now: Instant,
        jitter: &mut Jitter,
    ) -> Option<Change> {
        if ticket.era != self.era {
            return None;
        }
        match (&mut self.state, verdict) {
            (State::Closed { silent }, Verdict::Answered | Verdict::Throttled) => *silent = 0,
            (State::Closed { silent }, Verdict::Silent) => {
                *silent += 1;
                if *silent >= SILENT_TO_OPEN {
                    return Some(self.open(now, jitter));
                }
            }
            (State::Probing, Verdict::Answered | Verdict::Throttled) => {
                self.openings = 0;
                self.change(State::Closed { silent: 0 });
                return Some(Change::Closed);
            }
            (State::Probing, Verdict::Silent) => return Some(self.open(now, jitter)),
            // The next one takes the probe over.
            (State::Probing, Verdict::Unknown) => self.change(State::Open { until: now }),
            (State::Closed { .. }, Verdict::Unknown) | (State::Open { .. }, _) => {}
        }
        None
    }

    pub(super) fn account(&self, now: Instant, wall: Timestamp) -> Circuit {
        match self.state {
            State::Closed { .. } => Circuit::Closed,
            State::Open { until } if now < until => Circuit::Open { retry: wall.plus(until - now) },
            State::Open { .. } | State::Probing => Circuit::HalfOpen,
        }
    }

    fn open(&mut self, now: Instant, jitter: &mut Jitter) -> Change {
        let longest = FIRST_OPEN.saturating_mul(1 << self.openings.min(16)).min(LONGEST_OPEN);
        let wait = jitter.around(longest);
        self.openings += 1;
        self.change(State::Open { until: now + wait });
        Change::Opened(wait)
    }

    fn change(&mut self, state: State) {
        self.state = state;
        self.era += 1;
    }
}
