//! Leaves a provider alone that does not answer, and finds out with single requests when it does again.

use std::time::{Duration, Instant};

use super::account::Circuit;
use super::jitter::Jitter;
use super::retry::Verdict;
use crate::clock::Timestamp;

/// Requests without an answer, none with one in between, that open it. They must be about two things at least: a single
/// secret that the provider chokes on must not shut its store.
const SILENT_TO_OPEN: u32 = 5;
const FIRST_OPEN: Duration = Duration::from_secs(1);
/// Bounds how long after an outage nobody notices that it is over.
const LONGEST_OPEN: Duration = Duration::from_secs(30);
/// For those who come while a probe is out, and the start that others have over whoever failed the last one.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// Counts changes of state: what was sent before the last one says nothing about now.
    era: u64,
    /// Times that it opened since it was last closed.
    openings: u32,
    /// What the last probe was about, if that failed.
    failed: Option<Box<str>>,
}

#[derive(Debug)]
enum State {
    Closed(Silence),
    Open { until: Instant },
    Probing,
}

/// Requests in a row that were not answered.
#[derive(Debug, Default)]
struct Silence {
    requests: u32,
    /// What the first was about.
    about: Option<Box<str>>,
    several: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// With the time until the next probe.
    Opened(Duration),
    Closed,
}

/// When a request was let through.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    era: u64,
    about: &'a str,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed(Silence::default()), era: 0, openings: 0, failed: None }
    }
}

impl Breaker {
    /// Whether a request would be let through, or else when to come again.
    pub(super) fn check(&self, about: &str, now: Instant) -> Result<(), Duration> {
        match self.state {
            State::Open { until } => {
                let gives_way = self.failed.as_deref() == Some(about);
                let from = if gives_way { until + PROBE_PATIENCE } else { until };
                if now < from { Err(from - now) } else { Ok(()) }
            }
            State::Probing => Err(PROBE_PATIENCE),
            State::Closed(_) => Ok(()),
        }
    }

    /// The first request after the open time is the probe.
    pub(super) fn admit<'a>(&mut self, about: &'a str, now: Instant) -> Result<Ticket<'a>, Duration> {
        self.check(about, now)?;
        if matches!(self.state, State::Open { .. }) {
            self.change(State::Probing);
        }
        Ok(Ticket { era: self.era, about })
    }

    #[expect(clippy::needless_pass_by_value, reason = "a ticket is settled once")]
    pub(super) fn settle(
        &mut self,
        ticket: Ticket<'_>,
        verdict: Verdict,
        now: Instant,
        jitter: &mut Jitter,
    ) -> Option<Change> {
        if ticket.era != self.era {
            return None;
        }
        match (&mut self.state, verdict) {
            (State::Closed(silence), Verdict::Answered | Verdict::Throttled) => *silence = Silence::default(),
            (State::Closed(silence), Verdict::Silent) => {
                silence.requests = silence.requests.saturating_add(1);
                silence.several |= **silence.about.get_or_insert_with(|| ticket.about.into()) != *ticket.about;
                if silence.several && silence.requests >= SILENT_TO_OPEN {
                    return Some(self.open(now, jitter));
                }
            }
            (State::Probing, Verdict::Answered | Verdict::Throttled) => {
                (self.openings, self.failed) = (0, None);
                self.change(State::Closed(Silence::default()));
                return Some(Change::Closed);
            }
            (State::Probing, Verdict::Silent) => {
                self.failed = Some(ticket.about.into());
                return Some(self.open(now, jitter));
            }
            // The next one takes the probe over.
            (State::Probing, Verdict::Unknown) => self.change(State::Open { until: now }),
            (State::Closed(_), Verdict::Unknown) | (State::Open { .. }, _) => {}
        }
        None
    }

    pub(super) fn account(&self, now: Instant, wall: Timestamp) -> Circuit {
        match self.state {
            State::Closed(_) => Circuit::Closed,
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
