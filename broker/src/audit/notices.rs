//! What the log has yet to say about itself: one line for each, before the next record.

use super::line::{Body, Chain};
use super::recovery::{HeadState, Recovery};
use super::segment::{Loss, LossKind};
use crate::clock::Timestamp;

#[derive(Debug, Default)]
pub(super) struct Notices {
    pub(super) opened: Option<Recovery>,
    pub(super) gap: Option<Gap>,
    pub(super) losses: Vec<Loss>,
}

#[derive(Debug)]
pub(super) struct Gap {
    pub(super) since: Timestamp,
    pub(super) refused: u64,
    pub(super) reason: String,
}

impl Notices {
    /// All of it is in the log now.
    pub(super) fn settle(&mut self) {
        if let Some(gap) = std::mem::take(self).gap {
            tracing::info!(refused = gap.refused, "audit log accepts records again");
        }
    }

    pub(super) fn refused(&mut self, count: u64, reason: &str, now: Timestamp) {
        let gap = self.gap.get_or_insert_with(|| {
            tracing::error!(reason, "audit log refuses records");
            Gap { since: now, refused: 0, reason: reason.to_owned() }
        });
        gap.refused += count;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.opened.is_none() && self.gap.is_none() && self.losses.is_empty()
    }

    /// Adds one line for each.
    pub(super) fn append(
        &self,
        chain: &mut Chain,
        out: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
        now: Timestamp,
        node: &str,
    ) {
        if let Some(found) = &self.opened {
            let mut body = Body::begin(scratch, "event", now, node);
            body.text("event", "opened");
            if let Some(cut) = &found.cut {
                body.text("cut_file", &cut.file);
                body.number("cut_bytes", cut.bytes);
            }
            if let Some(damage) = &found.damage {
                body.text("damaged_file", &damage.file);
                body.number("damaged_lines", damage.lines);
                body.number("damaged_bytes", damage.bytes);
            }
            if let Some((first, last)) = found.missing {
                body.number("missing_first", first);
                body.number("missing_last", last);
            }
            if found.head == HeadState::Unusable {
                body.text("head", "unusable");
            }
            chain.append(out, scratch);
        }
        for loss in &self.losses {
            let mut body = Body::begin(scratch, "event", now, node);
            body.text("event", "lost");
            body.text("file", &loss.file);
            body.text("how", loss.kind.name());
            if let LossKind::NotSynced(reason) = &loss.kind {
                body.text("reason", reason);
            }
            body.number("first", loss.first);
            body.number("last", loss.last);
            chain.append(out, scratch);
        }
        if let Some(gap) = &self.gap {
            let mut body = Body::begin(scratch, "event", now, node);
            body.text("event", "gap");
            body.time("since", gap.since);
            body.number("refused", gap.refused);
            body.text("reason", &gap.reason);
            chain.append(out, scratch);
        }
    }
}
