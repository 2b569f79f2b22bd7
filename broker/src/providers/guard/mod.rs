//! What every request to a cloud passes: its store's budget, its breaker, and the rules of trying again.

mod account;
mod breaker;
mod budget;
mod jitter;
mod retry;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

pub use self::account::{Account, Circuit, LastFailure, LedgerEntry};
use self::breaker::{Breaker, Change, Ticket};
pub use self::budget::Budget;
use self::budget::Queue;
pub(crate) use self::jitter::Jitter;
use self::retry::{RetryBudget, Verdict};
use crate::clock::{SharedClock, Timestamp};
use crate::error::{Failure, Reason};
use crate::status::ReasonExt as _;

/// Waiting costs memory, and whoever waits behind so many is better told.
const MAX_WAITING: usize = 16_384;

/// One store's guard. Requests go through it one by one, so that what it counts is what the cloud counts.
#[derive(Debug)]
pub struct Guard {
    /// The store's, or the database's.
    name: Arc<str>,
    settings: GuardSettings,
    clock: SharedClock,
    /// Whoever holds one is the head of its class's queue. They are handed on in the order of asking.
    heads: [tokio::sync::Mutex<()>; Operation::ALL.len()],
    state: Mutex<State>,
}

/// The classes that providers count apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reading values.
    Access,
    /// Reading metadata.
    Metadata,
    /// Writing.
    Write,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardSettings {
    pub access: Budget,
    pub metadata: Budget,
    pub write: Budget,
    /// How long a call waits in all: for its turns, and between its attempts.
    pub maximum_wait: Duration,
    /// How long one attempt may take.
    pub request_timeout: Duration,
}

#[derive(Debug)]
struct State {
    queues: [Queue; Operation::ALL.len()],
    breaker: Breaker,
    retries: RetryBudget,
    jitter: Jitter,
    success: Option<Timestamp>,
    failure: Option<LastFailure>,
}

impl Operation {
    pub const ALL: [Self; 3] = [Self::Access, Self::Metadata, Self::Write];

    pub fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Metadata => "metadata",
            Self::Write => "write",
        }
    }
}

impl Guard {
    pub fn new(name: Arc<str>, settings: GuardSettings, clock: SharedClock) -> Arc<Self> {
        let state = State {
            queues: [settings.access, settings.metadata, settings.write].map(Queue::new),
            breaker: Breaker::default(),
            retries: RetryBudget::default(),
            jitter: Jitter::default(),
            success: None,
            failure: None,
        };
        Arc::new(Self { name, settings, clock, heads: Default::default(), state: Mutex::new(state) })
    }

    /// `request` sends one request, and may be called again where its failure is one that passes. `about` names what it
    /// asks for, so that one bad secret is told from a bad store.
    pub async fn call<T, F>(
        &self,
        operation: Operation,
        about: &str,
        mut request: impl FnMut() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut patience = self.settings.maximum_wait;
        let mut turn = self.turn(operation, about, &mut patience).await?;
        let mut attempts = 1;
        let mut doubt = None;
        loop {
            let failure = match self.attempt(turn, request()).await {
                Err(failure) => failure,
                answer => return answer,
            };
            let pause = self.pause_before_retry(operation, about, attempts, &failure, patience);
            // A change that got no answer may have been made, whatever is said to its repetition.
            if operation == Operation::Write && Verdict::of(&failure) == Verdict::Silent {
                doubt.get_or_insert_with(|| failure.clone());
            }
            let failure = doubt.clone().unwrap_or(failure);
            let Some(pause) = pause else { return Err(failure) };
            sleep(pause).await;
            patience = patience.saturating_sub(pause);
            // What the provider said last is worth more than why it is not asked again.
            turn = match self.turn(operation, about, &mut patience).await {
                Ok(turn) => turn,
                Err(_) => return Err(failure),
            };
            attempts += 1;
        }
    }

    /// For a request that must not be sent twice.
    pub async fn once<T>(
        &self,
        operation: Operation,
        about: &str,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let turn = self.turn(operation, about, &mut self.settings.maximum_wait.clone()).await?;
        self.attempt(turn, request).await
    }

    pub fn account(&self) -> Account {
        let (now, wall) = (self.clock.monotonic(), self.clock.now());
        self.lock().account(now, wall)
    }

    async fn attempt<T>(
        &self,
        turn: Turn<'_>,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let outcome = match timeout(self.settings.request_timeout, request).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.unanswered(turn.operation)),
        };
        turn.end(outcome.as_ref().err());
        outcome
    }

    /// Waits for the right to send one request, and takes what it waited off the patience.
    async fn turn<'a>(
        &'a self,
        operation: Operation,
        about: &'a str,
        patience: &mut Duration,
    ) -> Result<Turn<'a>, Failure> {
        let now = self.clock.monotonic();
        let _place = match self.enter(operation, about, now, *patience)? {
            Entry::Turn(turn) => return Ok(turn),
            Entry::Place(place) => place,
        };
        let until = now + *patience;
        let turn = timeout(*patience, self.wait(operation, about, until)).await;
        *patience = until.saturating_duration_since(self.clock.monotonic());
        turn.unwrap_or_else(|_| Err(self.lock().refuse(self, operation, self.clock.monotonic())))
    }

    /// At once where nobody waits and nothing stands against it, else a place in the queue if it is worth waiting.
    fn enter<'a>(
        &'a self,
        operation: Operation,
        about: &'a str,
        now: Instant,
        patience: Duration,
    ) -> Result<Entry<'a>, Failure> {
        let mut state = self.lock();
        state.breaker.check(about, now).map_err(|wait| self.circuit_open(wait))?;
        let queue = &mut state.queues[operation as usize];
        let wait = queue.forecast(now);
        if wait.is_zero() && queue.waiting == 0 {
            return self.admit(&mut state, operation, about, now).map(Entry::Turn);
        }
        if wait > patience || queue.waiting >= MAX_WAITING {
            return Err(state.refuse(self, operation, now));
        }
        queue.waiting += 1;
        Ok(Entry::Place(Place { guard: self, operation }))
    }

    /// Only the head of the queue watches the time; the others wait to become it.
    async fn wait<'a>(&'a self, operation: Operation, about: &'a str, until: Instant) -> Result<Turn<'a>, Failure> {
        let _head = self.heads[operation as usize].lock().await;
        loop {
            let wait = {
                let now = self.clock.monotonic();
                let mut state = self.lock();
                state.breaker.check(about, now).map_err(|wait| self.circuit_open(wait))?;
                let wait = state.queues[operation as usize].next_turn(now);
                if wait.is_zero() {
                    return self.admit(&mut state, operation, about, now);
                }
                if now + wait > until {
                    return Err(state.refuse(self, operation, now));
                }
                wait
            };
            sleep(wait).await;
        }
    }

    fn admit<'a>(
        &'a self,
        state: &mut State,
        operation: Operation,
        about: &'a str,
        now: Instant,
    ) -> Result<Turn<'a>, Failure> {
        let ticket = state.breaker.admit(about, now).map_err(|wait| self.circuit_open(wait))?;
        state.queues[operation as usize].take(now);
        Ok(Turn { guard: self, operation, ticket: Some(ticket) })
    }

    /// `None` where the failure lasts, or where trying again would cost more than it brings.
    fn pause_before_retry(
        &self,
        operation: Operation,
        about: &str,
        attempts: u32,
        failure: &Failure,
        patience: Duration,
    ) -> Option<Duration> {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        let backoff = retry::backoff(attempts, Verdict::of(failure), &mut state.jitter)?;
        let wait = backoff.max(state.queues[operation as usize].forecast(now));
        let worth = wait <= patience && state.breaker.check(about, now).is_ok();
        (worth && state.retries.spend()).then_some(backoff)
    }

    fn circuit_open(&self, wait: Duration) -> Failure {
        let message = format!(
            "{} did not answer several times in a row and is left alone; it is asked again in {}",
            self.name,
            shown(wait)
        );
        Failure::new(Reason::CircuitOpen, message).retry_after(wait)
    }

    fn unanswered(&self, operation: Operation) -> Failure {
        let advice = match operation {
            Operation::Access | Operation::Metadata => "retry",
            Operation::Write => "the change may have been made all the same: look before you retry",
        };
        let within = shown(self.settings.request_timeout);
        Failure::new(Reason::ProviderUnavailable, format!("{} did not answer within {within}; {advice}", self.name))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Why no turn comes in time, and when to ask again.
    fn refuse(&mut self, guard: &Guard, operation: Operation, now: Instant) -> Failure {
        let (store, class) = (&guard.name, operation.name());
        let queue = &mut self.queues[operation as usize];
        let wait = queue.forecast(now);
        if let Some(reason) = queue.paused(now) {
            let message = format!("{store} asked to be left alone by {class} requests; retry in {}", shown(wait));
            return Failure::new(reason, message).retry_after(wait);
        }
        queue.refused += 1;
        let Budget { limit, window } = queue.budget();
        let message = format!(
            "the budget of {store}, {limit} {class} requests in {}, is used up; retry in {}, or raise {class}_budget",
            shown(window),
            shown(wait)
        );
        Failure::new(Reason::ProviderBudgetExhausted, message).retry_after(wait)
    }

    fn record(&mut self, guard: &Guard, operation: Operation, ticket: Ticket<'_>, failure: Option<&Failure>) {
        let (now, wall) = (guard.clock.monotonic(), guard.clock.now());
        let verdict = failure.map_or(Verdict::Answered, Verdict::of);
        let store = &*guard.name;
        match self.breaker.settle(ticket, verdict, now, &mut self.jitter) {
            Some(Change::Opened(wait)) => tracing::warn!(store, probe_in = ?wait, "circuit opened"),
            Some(Change::Closed) => tracing::info!(store, "circuit closed"),
            None => {}
        }
        if verdict == Verdict::Answered {
            self.retries.earn();
        }
        let queue = &mut self.queues[operation as usize];
        if let Some(pause) = queue.heed(failure, verdict, now, &mut self.jitter) {
            tracing::warn!(store, operation = operation.name(), ?pause, "the provider asked for a pause");
        }
        match failure {
            None => (self.success, self.failure) = (Some(wall), None),
            Some(failure) => {
                if matches!(verdict, Verdict::Answered | Verdict::Throttled) {
                    self.success = Some(wall);
                }
                // That a secret does not exist is no trouble of the store's.
                if failure.reason().blames_broker() {
                    let (reason, message) = (failure.reason(), failure.message().to_owned());
                    self.failure = Some(LastFailure { at: wall, reason, message });
                }
            }
        }
    }

    fn account(&self, now: Instant, wall: Timestamp) -> Account {
        Account {
            circuit: self.breaker.account(now, wall),
            ledger: Operation::ALL.map(|operation| self.queues[operation as usize].account(operation, now, wall)),
            retries: self.retries.spent(),
            success: self.success,
            failure: self.failure.clone(),
        }
    }
}

enum Entry<'g> {
    Turn(Turn<'g>),
    Place(Place<'g>),
}

/// A place in a queue, given up when its holder gets its turn or goes away.
struct Place<'g> {
    guard: &'g Guard,
    operation: Operation,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.guard.lock().queues[self.operation as usize].waiting -= 1;
    }
}

/// The right to send one request. One that is dropped without an end was abandoned, and proves nothing.
struct Turn<'g> {
    guard: &'g Guard,
    operation: Operation,
    ticket: Option<Ticket<'g>>,
}

impl Turn<'_> {
    fn end(mut self, failure: Option<&Failure>) {
        if let Some(ticket) = self.ticket.take() {
            self.guard.lock().record(self.guard, self.operation, ticket, failure);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let now = self.guard.clock.monotonic();
            let state = &mut *self.guard.lock();
            state.breaker.settle(ticket, Verdict::Unknown, now, &mut state.jitter);
        }
    }
}

/// For a sentence: no finer than anybody reads it.
fn shown(span: Duration) -> String {
    format!("{:?}", Duration::from_millis(span.as_micros().div_ceil(1000).try_into().unwrap_or(u64::MAX)))
}
