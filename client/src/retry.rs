use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::{Error, Refusal};

/// How often and how long a call is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) deadline: Duration,
    pub(crate) attempts: u32,
}

impl Patience {
    /// Calls `attempt` with the time that is left to it. Repeats only what the broker allows to be repeated.
    pub(crate) async fn call<T, F>(self, mut attempt: impl FnMut(Duration) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let end = Instant::now() + self.deadline;
        let mut attempts = self.attempts;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let outcome = timeout_at(end, attempt(left)).await.map_err(|_| Error::Deadline(self.deadline))?;
            attempts = attempts.saturating_sub(1);
            match outcome {
                Err(Error::Refused(Refusal { retry_delay: Some(delay), .. }))
                    if attempts > 0 && Instant::now() + delay < end =>
                {
                    sleep(delay).await;
                }
                outcome => return outcome,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::Reason;

    fn refused(retry_delay: Option<Duration>) -> Result<(), Error> {
        let message = "busy".to_owned();
        Err(Refusal { reason: Reason::Overloaded, code: Code::ResourceExhausted, message, retry_delay }.into())
    }

    async fn attempts_at(outcome: impl Fn(u32) -> Result<(), Error>, deadline: Duration) -> (u32, bool) {
        let mut made = 0;
        let result = Patience { deadline, attempts: 3 }.call(|_| {
            made += 1;
            std::future::ready(outcome(made))
        });
        let good = result.await.is_ok();
        (made, good)
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn repeats_what_the_broker_allows_until_it_succeeds_or_the_attempts_are_used_up() {
        assert_eq!(attempts_at(|made| if made < 3 { refused(Some(SHORT)) } else { Ok(()) }, LONG).await, (3, true));
        assert_eq!(attempts_at(|_| refused(Some(SHORT)), LONG).await, (3, false));
    }

    #[tokio::test]
    async fn does_not_repeat_what_the_broker_does_not_allow_or_the_deadline_has_no_room_for() {
        assert_eq!(attempts_at(|_| refused(None), LONG).await, (1, false));
        assert_eq!(attempts_at(|_| refused(Some(LONG)), SHORT).await, (1, false));
    }
}
