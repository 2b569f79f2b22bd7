//! One scope's token, kept alive by one task: whoever needs it waits for that task, so there is never a second request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::{Broken, CredentialHealth, Supply, Token, TokenSource};
use crate::clock::{Clock, SharedClock, Timestamp};

/// How long a call waits where there is no token yet.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// For the whole chain; each link has a bound of its own.
pub(super) const MAX_ATTEMPT: Duration = Duration::from_secs(12);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_PASSING_RETRY: Duration = Duration::from_secs(10);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Between renewals that refusals ask for: a cloud that refuses every token must not drive the broker against Entra.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(30);
/// A machine that slept wakes up with its timers late.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

pub(super) struct Keeper {
    credential: Arc<str>,
    scope: String,
    clock: SharedClock,
    state: watch::Sender<State>,
    /// Has the task look again at what is due.
    look: Notify,
    /// Spreads replicas that started together.
    jitter: Jitter,
}

#[derive(Clone)]
pub(super) struct State {
    pub(super) held: Option<Held>,
    /// Why the last attempt failed; `None` after a good one.
    pub(super) broken: Option<Broken>,
    pub(super) failures: u64,
    /// Failures since the last success.
    row: u32,
    /// When the next attempt is due; one under way keeps the time it was due at.
    next: Instant,
    /// When a refusal last brought the next attempt forward.
    refusal: Option<Instant>,
    /// Whether that attempt is due or under way, and worth a wait.
    replacing: bool,
}

#[derive(Clone)]
pub(super) struct Held {
    pub(super) token: Token,
    pub(super) obtained_at: Timestamp,
    /// On the clock that nobody sets.
    until: Instant,
    /// By a cloud, though it should live.
    refused: bool,
}

impl Keeper {
    pub(super) fn new(credential: Arc<str>, scope: &str, clock: SharedClock) -> Arc<Self> {
        let next = clock.monotonic();
        let state = State { held: None, broken: None, failures: 0, row: 0, next, refusal: None, replacing: false };
        let (look, jitter) = (Notify::new(), Jitter::new(&credential, clock.now()));
        Arc::new(Self { credential, scope: scope.to_owned(), clock, state: watch::Sender::new(state), look, jitter })
    }

    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(super) async fn token(&self) -> Result<Token, Broken> {
        if let Some(token) = self.usable(&self.state.borrow()) {
            return Ok(token);
        }
        // By the timers it may be too early, if this host slept or its clock was set.
        self.look.notify_one();
        let mut states = self.state.subscribe();
        let deadline = self.clock.monotonic() + MAX_WAIT;
        let settled = |state: &State| self.usable(state).is_some() || state.is_hopeless_until(deadline);
        // Neither outcome says anything: the state does.
        let _ = tokio::time::timeout(MAX_WAIT, states.wait_for(settled)).await;
        let state = self.state();
        match (self.usable(&state), state.held.filter(|held| held.is_alive(&*self.clock)), state.broken) {
            (Some(token), _, _) => Ok(token),
            // One refusal may be one store's affair.
            (None, Some(refused), _) => Ok(refused.token),
            (None, None, Some(broken)) => Err(broken),
            (None, None, None) => Err(self.pending()),
        }
    }

    pub(super) fn refused(&self, token: &Token) {
        let now = self.clock.monotonic();
        self.state.send_if_modified(|state| {
            let Some(held) = state.held.as_mut().filter(|held| held.token.value() == token.value()) else {
                return false;
            };
            held.refused = true;
            let lately = state.refusal.is_some_and(|at| now.saturating_duration_since(at) < REFUSAL_INTERVAL);
            // A failing credential keeps its pace, and its last token serves those that take it.
            if lately || state.broken.is_some() {
                return false;
            }
            (state.refusal, state.replacing, state.next) = (Some(now), true, now);
            true
        });
        self.look.notify_one();
    }

    /// Never returns; its owner cancels it.
    pub(super) async fn keep(self: Arc<Self>, supply: Arc<Supply>) {
        let mut source = Ok(Arc::clone(&supply.first));
        loop {
            self.wait_until_due().await;
            let outcome = match &source {
                Ok(source) => self.obtain(&**source).await,
                Err(broken) => Err(Broken::clone(broken)),
            };
            let failed = outcome.is_err();
            self.settle(outcome);
            if failed {
                source = supply.rebuild();
            }
        }
    }

    async fn wait_until_due(&self) {
        loop {
            let wait = self.state.borrow().wait(&*self.clock);
            if wait.is_zero() {
                return;
            }
            tokio::select! {
                () = self.look.notified() => {}
                () = tokio::time::sleep(wait.min(LONGEST_SLEEP)) => {}
            }
        }
    }

    async fn obtain(&self, source: &dyn TokenSource) -> Result<Token, Broken> {
        tokio::time::timeout(MAX_ATTEMPT, source.obtain(&self.scope)).await.unwrap_or_else(|_| {
            let link = source.chain().first().copied().unwrap_or_default();
            let message =
                format!("the chain took longer than {} s; check the network to its links", MAX_ATTEMPT.as_secs());
            Err(Broken::passing(link, message))
        })
    }

    fn settle(&self, outcome: Result<Token, Broken>) {
        let before = self.state.borrow().broken.clone();
        match (&outcome, before) {
            (Ok(token), before) if before.is_some() || self.state.borrow().held.is_none() => tracing::info!(
                credential = %self.credential,
                scope = self.scope,
                subject = token.subject.as_deref(),
                expires = %token.expires,
                "a cloud credential works"
            ),
            (Err(broken), before) if before.as_ref() != Some(broken) => tracing::warn!(
                credential = %self.credential,
                scope = self.scope,
                link = broken.link,
                problem = broken.message,
                "a cloud credential cannot be renewed"
            ),
            _ => {}
        }
        let (now, wall) = (self.clock.monotonic(), self.clock.now());
        self.state.send_modify(|state| match outcome {
            Ok(token) => state.succeeded(token, now, wall, self.jitter.next()),
            Err(broken) => state.failed(broken, now, self.jitter.next()),
        });
    }

    fn usable(&self, state: &State) -> Option<Token> {
        let held = state.held.as_ref().filter(|held| !state.replacing && held.is_alive(&*self.clock))?;
        Some(held.token.clone())
    }

    fn pending(&self) -> Broken {
        let message = format!("no token came within {} s; try again, or see GetStatus", MAX_WAIT.as_secs());
        Broken::passing("start", message)
    }
}

impl State {
    pub(super) fn health(&self, clock: &dyn Clock) -> CredentialHealth {
        let alive = self.held.as_ref().is_some_and(|held| held.is_alive(clock));
        let refused = self.held.as_ref().is_some_and(|held| held.refused);
        match (alive, &self.broken) {
            (true, None) if !refused => CredentialHealth::Healthy,
            (true, _) => CredentialHealth::Degraded,
            (false, Some(_)) => CredentialHealth::Unhealthy,
            (false, None) => CredentialHealth::Unknown,
        }
    }

    /// How long until an attempt is due.
    fn wait(&self, clock: &dyn Clock) -> Duration {
        let ended = self.held.as_ref().is_some_and(|held| !held.is_alive(clock));
        if ended && self.broken.is_none() {
            return Duration::ZERO;
        }
        self.next.saturating_duration_since(clock.monotonic())
    }

    /// Whether waiting until then cannot bring a token.
    fn is_hopeless_until(&self, deadline: Instant) -> bool {
        self.broken.as_ref().is_some_and(|broken| !broken.passing || self.next >= deadline)
    }

    fn succeeded(&mut self, token: Token, now: Instant, wall: Timestamp, jitter: f64) {
        let life = token.expires.since(wall);
        // Between 70 and 80 % of its life: an hour's token leaves a quarter of an hour for the other side to recover.
        self.next = now + life.mul_f64(0.7 + jitter / 10.0).max(FIRST_RETRY);
        self.held = Some(Held { token, obtained_at: wall, until: now + life, refused: false });
        self.broken = None;
        self.replacing = false;
        self.row = 0;
    }

    fn failed(&mut self, broken: Broken, now: Instant, jitter: f64) {
        let most = if broken.passing { LAST_PASSING_RETRY } else { LAST_RETRY };
        let pause = FIRST_RETRY.saturating_mul(1 << self.row.min(8)).min(most);
        self.next = now + pause.mul_f64(0.8 + jitter * 0.4);
        self.broken = Some(broken);
        // It may be one store's affair: the others need not wait for what does not come.
        self.replacing = false;
        self.row = self.row.saturating_add(1);
        self.failures += 1;
    }
}

impl Held {
    /// By both clocks: the monotonic one stands still while a machine sleeps, and the wall clock can be set back.
    fn is_alive(&self, clock: &dyn Clock) -> bool {
        clock.monotonic() < self.until && clock.now() < self.token.expires
    }
}

/// Spread, not secrecy: a hash of what differs between replicas.
struct Jitter(AtomicU32);

impl Jitter {
    fn new(name: &str, now: Timestamp) -> Self {
        let seed = crc32c::crc32c_append(std::process::id(), name.as_bytes());
        Self(AtomicU32::new(crc32c::crc32c_append(seed, &now.as_micros().to_le_bytes())))
    }

    /// From 0 to 1.
    fn next(&self) -> f64 {
        let last = self.0.load(Ordering::Relaxed);
        let next = crc32c::crc32c(&last.to_le_bytes());
        self.0.store(next, Ordering::Relaxed);
        f64::from(next) / f64::from(u32::MAX)
    }
}
