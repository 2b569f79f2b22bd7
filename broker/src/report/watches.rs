//! What is told of watches and their subscribers, as numbers.

use crate::rotation::watch::Watches;
use crate::telemetry::{Samples, names};

/// Subscribers with a stream at this replica, and those of them that have yet to be told of something.
pub(super) fn streamed(watches: &Watches) -> (usize, usize) {
    watches.subscribers().streamed(watches.log().last())
}

pub(super) fn samples(watches: &Watches, out: &mut Samples) {
    let (open, counts) = watches.counts();
    out.set(&names::STREAMS, &[], open as u64);
    let (streamed, behind) = streamed(watches);
    out.set(&names::SUBSCRIBERS_STREAMED, &[], streamed as u64);
    out.set(&names::SUBSCRIBERS_BEHIND, &[], behind as u64);
    out.set(&names::SUBSCRIBERS, &[], watches.subscribers().count() as u64);
    for (kind, count) in counts.messages() {
        out.set(&names::WATCH_MESSAGES, &[kind], count);
    }
    out.set(&names::WATCH_EVENTS, &[], counts.events());
    for (why, count) in counts.resyncs() {
        out.set(&names::WATCH_RESYNCS, &[why.as_str()], count);
    }
}
