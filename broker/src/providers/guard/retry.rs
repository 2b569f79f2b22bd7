//! What a failure says of the provider, and whether a request is sent again.

use std::time::Duration;

use super::jitter::Jitter;
use crate::error::{Failure, Reason};

const MAX_ATTEMPTS: u32 = 3;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// Each answer earns a tenth of a retry, and this many may be saved up. Where nothing is answered, nothing is earned.
const ANSWERS_PER_RETRY: u32 = 10;
const MAX_SAVED: u32 = 10;

/// What one outcome says of the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It works, even where it said no: a refusal, too, is an answer.
    Answered,
    /// It works, and wants less of us.
    Throttled,
    /// It does not answer, or not with sense.
    Silent,
    /// Nothing: the request was abandoned, or failed on our side.
    Unknown,
}

impl Verdict {
    /// A denial is an answer about one secret: to count it would let one missing grant shut the whole store. A dead
    /// credential is none: its own supervisor spaces the attempts to renew it, and no request was answered or lost.
    pub(super) fn of(failure: &Failure) -> Self {
        let reason = failure.reason();
        let ours = matches!(reason, Reason::ProviderCredential | Reason::Cancelled | Reason::DeadlineExceeded)
            || matches!(reason, Reason::Internal | Reason::Unspecified);
        if reason == Reason::ProviderUnavailable {
            Self::Silent
        } else if reason == Reason::ProviderThrottled {
            Self::Throttled
        } else if ours {
            Self::Unknown
        } else {
            Self::Answered
        }
    }
}

/// How long to wait before the next attempt, by chance anything up to a bound that doubles; `None` for no other.
pub(super) fn backoff(attempts: u32, verdict: Verdict, jitter: &mut Jitter) -> Option<Duration> {
    let passes = matches!(verdict, Verdict::Throttled | Verdict::Silent);
    (passes && attempts < MAX_ATTEMPTS).then(|| jitter.of(FIRST_BACKOFF * (1 << (attempts - 1))))
}

/// Keeps retries to a share of answers, so that an outage does not multiply the load of what is trying to come back.
#[derive(Debug)]
pub(super) struct RetryBudget {
    /// In units of one answer's earnings.
    saved: u32,
    spent: u64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { saved: MAX_SAVED * ANSWERS_PER_RETRY, spent: 0 }
    }
}

impl RetryBudget {
    pub(super) fn earn(&mut self) {
        self.saved = (self.saved + 1).min(MAX_SAVED * ANSWERS_PER_RETRY);
    }

    pub(super) fn spend(&mut self) -> bool {
        let Some(left) = self.saved.checked_sub(ANSWERS_PER_RETRY) else { return false };
        self.saved = left;
        self.spent += 1;
        true
    }

    pub(super) fn spent(&self) -> u64 {
        self.spent
    }
}
