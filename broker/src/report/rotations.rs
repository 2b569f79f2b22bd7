//! What is told of rotations, and of those who watch them.

use keyferry_proto::v1::RotationCounts;

use crate::rotation::engine::Engine;
use crate::rotation::watch::Watches;
use crate::rpc::timestamp;
use crate::telemetry::{Samples, names};

pub(super) fn counts(engine: &Engine, watches: &Watches) -> RotationCounts {
    let (counts, (streamed, behind)) = (engine.counts(), super::watches::streamed(watches));
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    RotationCounts {
        running_count: count(counts.running),
        retiring_count: count(counts.retiring),
        failed_count: count(counts.failed),
        subscriber_count: count(streamed),
        lagging_count: count(behind),
        next_schedule_time: counts.next_start.map(timestamp),
        oldest_start_time: counts.oldest.map(timestamp),
    }
}

pub(super) fn samples(engine: &Engine, out: &mut Samples) {
    let counts = engine.counts();
    for (state, count) in [("running", counts.running), ("retiring", counts.retiring), ("failed", counts.failed)] {
        out.set(&names::ROTATIONS, &[state], count as u64);
    }
    if let Some(oldest) = counts.oldest {
        out.set(&names::ROTATION_OLDEST, &[], oldest.as_secs());
    }
}
