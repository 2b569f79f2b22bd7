//! How long what was loaded is served, and what a failed load does to what is there.

use std::time::Duration;

use crate::error::Reason;

/// A store's settings. By default nothing is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    pub latest: Duration,
    pub pinned: Duration,
    pub labels: Duration,
    /// How long past its freshness a value is served while the provider fails.
    pub stale: Duration,
}

/// What a failed load says about the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The provider answered, and there is nothing to serve: what was kept is dropped, and the answer itself is kept
    /// for a while.
    Refused(Duration),
    /// The provider could not answer: what was kept may serve as stale.
    Unanswered,
    /// Neither: what was kept stays as fresh as it was and is not served beyond.
    Unclear,
}

/// A denial is an answer: whoever takes the broker's rights on a secret means it no longer to be handed out. A corrupt
/// payload is no outage either: somebody must look at it.
pub(super) fn verdict(reason: Reason) -> Verdict {
    let unanswered = matches!(
        reason,
        Reason::ProviderUnavailable
            | Reason::ProviderThrottled
            | Reason::ProviderCredential
            | Reason::ProviderBudgetExhausted
            | Reason::CircuitOpen
    );
    if unanswered { Verdict::Unanswered } else { refusal_kept_for(reason).map_or(Verdict::Unclear, Verdict::Refused) }
}

/// Whether a load that failed so was answered by the provider.
pub(in crate::secrets) fn is_answer(reason: Reason) -> bool {
    matches!(verdict(reason), Verdict::Refused(_))
}

fn refusal_kept_for(reason: Reason) -> Option<Duration> {
    if matches!(reason, Reason::SecretNotFound | Reason::VersionNotFound | Reason::VersionDisabled) {
        Some(Duration::from_secs(5))
    } else if reason == Reason::VersionDestroyed {
        // For good, so only the secret's deletion could make it another answer.
        Some(Duration::from_mins(1))
    } else {
        // An operator who grants the right should not wait.
        (reason == Reason::ProviderDenied).then_some(Duration::from_secs(2))
    }
}

/// Whether the answer is about the secret as a whole, so that none of its versions may be served on.
pub(super) fn spans_all_versions(reason: Reason) -> bool {
    matches!(reason, Reason::SecretNotFound | Reason::ProviderDenied)
}
