//! What need not be secret but must differ from caller to caller.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Between half and all of it, so that not all come back at once.
pub(crate) fn around(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + 0.0005 * below(1001) as f64)
}

pub(crate) fn below(bound: usize) -> usize {
    // The remainder of a 64-bit number by a small one is even enough.
    usize::try_from(random() % bound.max(1) as u64).unwrap_or_default()
}

/// A UUID, version 4.
pub(crate) fn uuid() -> String {
    let bits = (u128::from(random()) << 64) | u128::from(random());
    let bits = bits & !(0xf << 76) & !(0b11 << 62) | (0x4 << 76) | (0b10 << 62);
    let text = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

fn random() -> u64 {
    // Its keys come from the system once a thread and are counted on from there.
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_one_and_no_two_are_the_same() {
        let (one, other) = (uuid(), uuid());
        assert_ne!(one, other);
        assert_eq!((one.len(), &one[14..15]), (36, "4"));
        assert!("89ab".contains(&one[19..20]), "{one}");
    }

    #[test]
    fn a_pause_is_spread_but_never_longer_nor_less_than_half() {
        let pauses: Vec<_> = (0..100).map(|_| around(Duration::from_secs(1))).collect();
        assert!(pauses.iter().all(|pause| (500..=1000).contains(&pause.as_millis())));
        assert!(pauses.iter().any(|pause| pause != &pauses[0]));
    }
}
