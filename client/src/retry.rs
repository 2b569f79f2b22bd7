use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::Code;

use crate::{Error, Options, Reason, Refusal, chance};

/// How often and how long calls are tried. Clones share the budget for repeats.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    pub(crate) deadline: Duration,
    attempts: u32,
    budget: Arc<Budget>,
}

/// Repeats of what a broker refused are paid for by calls that succeed, so that clients do not multiply an outage.
#[derive(Debug)]
struct Budget(AtomicU32);

/// One call with all its attempts.
struct Attempts<'a> {
    patience: &'a Patience,
    sent: u32,
    pauses: u32,
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Patience {
    pub(crate) fn new(options: &Options) -> Self {
        Self { deadline: options.deadline, attempts: options.attempts, budget: Arc::new(Budget::full()) }
    }

    /// Calls `attempt`, which must be harmless when repeated, with the time that is left to it.
    pub(crate) async fn call<T, F>(&self, mut attempt: impl FnMut(Duration) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let end = Instant::now() + self.deadline;
        let mut attempts = Attempts { patience: self, sent: 0, pauses: 0 };
        let mut last = None;
        let late = |last: Option<Error>| Error::Deadline(self.deadline, last.map(Box::new));
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(outcome) = timeout_at(end, attempt(left)).await else { return Err(late(last)) };
            let error = match outcome {
                Ok(answer) => {
                    self.budget.earn();
                    return Ok(answer);
                }
                // The transport counts the same time, and may have been the first to notice.
                Err(Error::Lost(_)) if Instant::now() >= end => return Err(late(last)),
                Err(error) => error,
            };
            match attempts.pause_after(&error) {
                Some(pause) if Instant::now() + pause < end => sleep(pause).await,
                _ => return Err(error),
            }
            last = Some(error);
        }
    }
}

impl Attempts<'_> {
    /// How long to wait before the call is made again, if it may be.
    fn pause_after(&mut self, error: &Error) -> Option<Duration> {
        match error {
            // Nothing was carried out, and the dialer sees to it that waiting costs the broker nothing.
            Error::Unreachable(_) => Some(self.pause()),
            Error::Refused(Refusal { reason: Reason::Draining, .. }) => Some(self.pause()),
            Error::Lost(_) => self.may_send().then(|| self.pause()),
            Error::Refused(refusal) => {
                let asked = refusal.retry_delay;
                // A proxy that lost its broker knows nothing of retries.
                let nameless = refusal.reason_name.is_empty() && refusal.code == Code::Unavailable;
                let again = (asked.is_some() || nameless) && self.may_send() && self.patience.budget.spend();
                again.then(|| asked.map_or_else(|| self.pause(), |asked| asked + chance::around(asked / 4)))
            }
            Error::Endpoint(_)
            | Error::Name(_)
            | Error::Credentials(_)
            | Error::Token(_)
            | Error::Deadline(..)
            | Error::Damaged(_)
            | Error::NoPassword(_)
            | Error::Unexpected(_) => None,
        }
    }

    fn may_send(&mut self) -> bool {
        self.sent += 1;
        self.sent < self.patience.attempts
    }

    fn pause(&mut self) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.pauses.min(10)).min(LONGEST_PAUSE);
        self.pauses += 1;
        chance::around(pause)
    }
}

impl Budget {
    /// In tenths of a repeat.
    const FULL: u32 = 100;
    const REPEAT: u32 = 10;

    fn full() -> Self {
        Self(AtomicU32::new(Self::FULL))
    }

    fn earn(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| (left < Self::FULL).then(|| left + 1));
    }

    fn spend(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(Self::REPEAT)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::Unreachable;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(10);

    fn refused(reason: Reason, retry_delay: Option<Duration>) -> Error {
        let reason_name = reason.as_str_name().trim_start_matches("ERROR_REASON_").to_owned();
        let code = Code::ResourceExhausted;
        let (message, metadata, help) = ("busy".to_owned(), Default::default(), Vec::new());
        Refusal { reason, reason_name, code, message, retry_delay, metadata, help }.into()
    }

    fn busy() -> Error {
        refused(Reason::Overloaded, Some(SHORT))
    }

    fn lost() -> Error {
        Error::Lost(Arc::new(tonic::Status::unavailable("cut")))
    }

    fn unreachable() -> Error {
        Unreachable::Tcp("keyferry:7443".to_owned(), Arc::new(io::ErrorKind::ConnectionRefused.into())).into()
    }

    fn patience(deadline: Duration) -> Patience {
        Patience::new(&Options { deadline, attempts: 3, ..Options::to("https://keyferry") })
    }

    /// How often it was tried, and whether it succeeded.
    async fn tried(patience: &Patience, outcome: impl Fn(u32) -> Result<(), Error>) -> (u32, bool) {
        let mut made = 0;
        let result = patience.call(|_| {
            made += 1;
            std::future::ready(outcome(made))
        });
        let good = result.await.is_ok();
        (made, good)
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_what_may_be_repeated_until_it_succeeds_or_the_attempts_are_used_up() {
        for error in [busy, lost] {
            let third = |made| if made < 3 { Err(error()) } else { Ok(()) };
            assert_eq!(tried(&patience(LONG), third).await, (3, true));
            assert_eq!(tried(&patience(LONG), |_| Err(error())).await, (3, false));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_a_broker_that_is_away_as_long_as_the_deadline_has_room() {
        let draining = || refused(Reason::Draining, Some(LONG));
        for error in [unreachable, draining] {
            let back = |made| if made < 30 { Err(error()) } else { Ok(()) };
            assert_eq!(tried(&patience(LONG), back).await, (30, true));
        }
        let started = Instant::now();
        let error = patience(LONG).call(|_| std::future::ready(Err::<(), _>(unreachable()))).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable(_)), "{error}");
        assert!((LONG - LONGEST_PAUSE..=LONG).contains(&started.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_repeat_what_the_broker_does_not_allow_or_the_deadline_has_no_room_for() {
        assert_eq!(tried(&patience(LONG), |_| Err(refused(Reason::Overloaded, None))).await, (1, false));
        assert_eq!(tried(&patience(SHORT), |_| Err(refused(Reason::Overloaded, Some(LONG)))).await, (1, false));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_at_least_as_long_as_the_broker_asks() {
        let started = Instant::now();
        tried(&patience(LONG), |made| if made < 2 { Err(refused(Reason::Overloaded, Some(LONG / 2))) } else { Ok(()) })
            .await;
        assert!(started.elapsed() >= LONG / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_not_multiplied() {
        let patience = patience(LONG);
        let mut made = 0;
        for _ in 0..1000 {
            made += tried(&patience, |_| Err(busy())).await.0;
        }
        assert_eq!(made, 1000 + Budget::FULL / Budget::REPEAT);
        for _ in 0..Budget::REPEAT {
            tried(&patience, |_| Ok(())).await;
        }
        assert_eq!(tried(&patience, |_| Err(busy())).await.0, 2, "what succeeds pays for repeats");
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_time_tells_what_was_heard_last() {
        let patience = patience(LONG);
        let mut made = 0;
        let result = patience.call(|_| {
            made += 1;
            let first = made == 1;
            async move { if first { Err::<(), _>(lost()) } else { std::future::pending().await } }
        });
        let error = result.await.unwrap_err();
        assert!(matches!(&error, Error::Deadline(_, Some(last)) if matches!(**last, Error::Lost(_))), "{error}");
    }
}
