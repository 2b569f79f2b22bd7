//! For the status page.

use crate::admin::{Overview, RotationRow, RunRow, SubscriberRow, TargetRow};
use crate::app::Parts;
use crate::error::Failure;
use crate::rotation::engine::{Rotation, Stage};
use crate::rotation::subscribers::Seen;

/// What fits on a page that somebody reads.
const ROTATIONS: usize = 20;
const SUBSCRIBERS: usize = 100;

pub fn overview(parts: &Parts) -> Overview {
    let head = parts.rotation.head().map_or(0, |head| head.revision.get());
    let subscribers = parts.watches.subscribers();
    Overview {
        status: super::status(parts),
        rotations: parts.engine.list(None, ROTATIONS).unwrap_or_default().iter().map(|(it, _)| rotation(it)).collect(),
        subscribers: subscribers.after(None, SUBSCRIBERS).iter().map(|seen| subscriber(seen, head)).collect(),
        subscriber_count: subscribers.count(),
    }
}

fn rotation(rotation: &Rotation) -> RotationRow {
    let stage = rotation.stage();
    let targets = rotation.targets.iter().map(|target| TargetRow {
        secret: target.secret.to_string(),
        old: target.previous.clone(),
        new: target.version.clone(),
    });
    RotationRow {
        name: rotation.name.to_string(),
        targets: targets.collect(),
        stage: name(stage),
        since: rotation.reached(),
        attempts: rotation.attempts(),
        trouble: rotation.last_error.as_ref().map(|trouble| Failure::from(trouble).message().to_owned()),
        is_over: stage.is_final(),
    }
}

fn subscriber(seen: &Seen, head: u64) -> SubscriberRow {
    let Seen { subscriber, stream, sent, last_seen } = seen;
    let runs = subscriber.runs.iter().map(|(secret, runs)| RunRow {
        secret: secret.to_string(),
        version: runs.version.clone(),
        since: runs.since,
        refused: runs.refused.as_ref().map(|refused| refused.why.clone()),
    });
    SubscriberRow {
        caller: subscriber.caller.clone(),
        name: subscriber.name.as_str().to_owned(),
        node: stream.as_ref().map(|stream| stream.node.clone()),
        last_seen: stream.as_ref().map_or(*last_seen, |stream| stream.since),
        behind: head.saturating_sub(*sent),
        runs: runs.collect(),
    }
}

fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Planned => "planned",
        Stage::Created => "created",
        Stage::Set => "set",
        Stage::Tested => "tested",
        Stage::Current => "current",
        Stage::Retiring => "retiring",
        Stage::Retired => "retired",
        Stage::Failed => "failed",
        Stage::Cancelled => "cancelled",
    }
}
