//! Chance, so that many who failed together do not come back together.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Jitter {
    key: RandomState,
    drawn: u64,
}

impl Jitter {
    /// Anything from nothing to the whole of it.
    pub(super) fn of(&mut self, span: Duration) -> Duration {
        self.drawn = self.drawn.wrapping_add(1);
        let share = u32::try_from(self.key.hash_one(self.drawn) >> 32).unwrap_or(u32::MAX);
        span.mul_f64(f64::from(share) / f64::from(u32::MAX))
    }

    /// From half of it to the whole.
    pub(crate) fn around(&mut self, span: Duration) -> Duration {
        span / 2 + self.of(span / 2)
    }
}
