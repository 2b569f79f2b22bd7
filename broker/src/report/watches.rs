//! What is told of watches and their subscribers, as numbers.

use crate::rotation::watch::Watches;
use crate::telemetry::{Samples, names};

pub(super) fn samples(watches: &Watches, out: &mut Samples) {
    let (open, counts) = watches.counts();
    out.set(&names::STREAMS, &[], open as u64);
    out.set(&names::SUBSCRIBERS, &[], watches.subscribers().count() as u64);
    for (kind, count) in counts.messages() {
        out.set(&names::WATCH_MESSAGES, &[kind], count);
    }
    out.set(&names::WATCH_EVENTS, &[], counts.events());
    for (why, count) in counts.resyncs() {
        out.set(&names::WATCH_RESYNCS, &[why.as_str()], count);
    }
}
