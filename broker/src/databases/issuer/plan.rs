//! Which key signs and which are published, at any moment.
//!
//! It follows from the versions' ages alone, so that all replicas agree without a word between them.

use std::time::Duration;

use crate::clock::Timestamp;

/// How far a key's life is spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// A new key is published for this long before it signs.
    pub(super) ahead: Duration,
    /// A key is published for this long after the next one signs.
    pub(super) after: Duration,
}

/// Of keys with these ages, the newest first: the place of the one that signs, and how many are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) signer: usize,
    pub(super) published: usize,
}

impl Pace {
    /// `None` without a key.
    pub(super) fn plan(self, created: &[Timestamp], now: Timestamp) -> Option<Plan> {
        let last = created.len().checked_sub(1)?;
        let is_known_to_all = |created: &Timestamp| created.plus(self.ahead) <= now;
        // With none before it, a key signs at once.
        let signer = created.iter().position(is_known_to_all).unwrap_or(last);
        let published = created.iter().skip(signer).take_while(|next| !self.is_over_before(**next, now)).count();
        Some(Plan { signer, published: (signer + 1 + published).min(created.len()) })
    }

    /// Whether no token lives any more that the key before this one signed.
    pub(super) fn is_over_before(self, next: Timestamp, now: Timestamp) -> bool {
        next.plus(self.ahead).plus(self.after) <= now
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PACE: Pace = Pace { ahead: Duration::from_secs(10), after: Duration::from_secs(100) };

    fn plan(created: &[u64], now: u64) -> (usize, usize) {
        let created: Vec<_> = created.iter().map(|at| Timestamp::from_secs(*at)).collect();
        let plan = PACE.plan(&created, Timestamp::from_secs(now)).unwrap();
        (plan.signer, plan.published)
    }

    #[test]
    fn the_first_key_signs_at_once() {
        assert_eq!(plan(&[1000], 1000), (0, 1));
        assert_eq!(plan(&[1000], 500), (0, 1));
        assert_eq!(PACE.plan(&[], Timestamp::from_secs(0)), None);
    }

    #[test]
    fn a_new_key_is_published_before_it_signs_and_the_old_one_for_as_long_as_its_tokens_live() {
        let created = [1000, 1];
        assert_eq!(plan(&created, 1000), (1, 2));
        assert_eq!(plan(&created, 1009), (1, 2));
        assert_eq!(plan(&created, 1010), (0, 2));
        assert_eq!(plan(&created, 1109), (0, 2));
        assert_eq!(plan(&created, 1110), (0, 1));
    }

    #[test]
    fn keys_that_follow_each_other_quickly_all_keep_their_overlap() {
        let created = [1040, 1020, 1000, 1];
        assert_eq!(plan(&created, 1045), (1, 4));
        assert_eq!(plan(&created, 1109), (0, 4));
        assert_eq!(plan(&created, 1110), (0, 3));
        assert_eq!(plan(&created, 1130), (0, 2));
        assert_eq!(plan(&created, 1150), (0, 1));
    }
}
