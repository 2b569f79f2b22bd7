//! Counts of durations in buckets, each at most a sixty-fourth of its value wide.

use std::time::Duration;

const SUB_BUCKETS: u64 = 64;
const BUCKETS: usize = 59 * SUB_BUCKETS as usize;

#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Box<[u64]>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into(), total: 0 }
    }
}

impl Histogram {
    pub fn record(&mut self, nanoseconds: u64) {
        self.counts[bucket(nanoseconds)] += 1;
        self.total += 1;
    }

    pub fn add(&mut self, other: &Self) {
        for (ours, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *ours += theirs;
        }
        self.total += other.total;
    }

    /// What `share` of all durations do not exceed, or at most a sixty-fourth more.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let reached = self.filled().find(|&(_, count)| {
            seen += count;
            seen >= rank
        });
        Duration::from_nanos(reached.map_or(0, |(most, _)| most))
    }

    /// The longest duration and the count of each bucket that has one.
    pub fn filled(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts.iter().enumerate().filter(|&(_, &count)| count > 0).map(|(index, &count)| (longest(index), count))
    }
}

/// Durations below 128 ns have a bucket each; after them, each doubling has as many as the one before.
fn bucket(value: u64) -> usize {
    let shift = (value | SUB_BUCKETS).ilog2() - SUB_BUCKETS.ilog2();
    (u64::from(shift) * SUB_BUCKETS + (value >> shift)) as usize
}

fn longest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / SUB_BUCKETS).saturating_sub(1);
    // Wraps for the last bucket of all, which ends where numbers do.
    (bucket - shift * SUB_BUCKETS + 1).wrapping_shl(shift as u32).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_is_at_most_a_sixty_fourth_shorter_than_its_longest() {
        for power in 0..64 {
            for value in [1_u64 << power, (1 << power) - 1, (1 << power) + (1 << power) / 3] {
                let longest = longest(bucket(value));
                assert!(value <= longest && longest - value <= value / SUB_BUCKETS, "{value}: {longest}");
            }
        }
        assert_eq!(longest(bucket(u64::MAX)), u64::MAX);
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_durations() {
        let mut histogram = Histogram::default();
        for value in (1..=100).rev() {
            histogram.record(value);
        }
        let [half, most, all] = [0.5, 0.99, 1.0].map(|share| histogram.quantile(share).as_nanos());
        assert_eq!((half, most, all), (50, 99, 100));
        let mut both = histogram.clone();
        both.add(&histogram);
        assert_eq!((both.quantile(0.5).as_nanos(), both.filled().map(|(_, count)| count).sum::<u64>()), (50, 200));
    }
}
