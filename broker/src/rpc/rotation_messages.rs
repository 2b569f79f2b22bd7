//! Rotations between the contract's messages and the domain.

use std::sync::Arc;

use keyferry_proto::v1::{
    ErrorDetail, Rotation as RotationMessage, RotationSource, RotationState, RotationStep, RotationStrategy,
    RotationTarget,
};

use super::proto_time::timestamp;
use super::secret_messages::error_detail;
use crate::error::Failure;
use crate::names::{SecretName, VersionId};
use crate::rotation::Origin;
use crate::rotation::engine::{Rotation, Stage, Step, StrategyKind, Target, Trouble};
use crate::rotation::holders::Tally;
use crate::state::Revision;

/// Where the rotation stands, beside its record.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) tally: Tally,
    pub(super) revision: Revision,
    pub(super) epoch: String,
}

pub(super) fn rotation_message(rotation: &Rotation, standing: Standing) -> RotationMessage {
    let Standing { tally, revision, epoch } = standing;
    RotationMessage {
        name: rotation.name.to_string(),
        secret: rotation.targets.first().map(|target| target.secret.to_string()).unwrap_or_default(),
        strategy: strategy(rotation.strategy).into(),
        state: state_of(rotation.stage()).into(),
        targets: rotation.targets.iter().map(target_message).collect(),
        source: source(rotation.origin).into(),
        initiator: rotation.initiator.clone().unwrap_or_default(),
        justification: rotation.justification.clone(),
        steps: rotation.steps.iter().map(step_message).collect(),
        last_error: rotation.last_error.as_ref().map(trouble_message),
        create_time: Some(timestamp(rotation.created)),
        update_time: Some(timestamp(rotation.updated)),
        retire_deadline_time: rotation.retires.map(timestamp),
        acknowledged_count: i32::try_from(tally.acknowledged).unwrap_or(i32::MAX),
        pending_count: i32::try_from(tally.pending).unwrap_or(i32::MAX),
        revision: i64::try_from(revision.get()).unwrap_or(i64::MAX),
        epoch,
    }
}

pub(super) fn state_of(stage: Stage) -> RotationState {
    match stage {
        Stage::Planned => RotationState::Planned,
        Stage::Created => RotationState::Created,
        Stage::Set => RotationState::Set,
        Stage::Tested => RotationState::Tested,
        Stage::Current => RotationState::Current,
        Stage::Retiring => RotationState::Retiring,
        Stage::Retired => RotationState::Retired,
        Stage::Failed => RotationState::Failed,
        Stage::Cancelled => RotationState::Cancelled,
    }
}

fn strategy(kind: StrategyKind) -> RotationStrategy {
    match kind {
        StrategyKind::Generate => RotationStrategy::Generate,
        StrategyKind::Postgres => RotationStrategy::Postgres,
        StrategyKind::External => RotationStrategy::External,
    }
}

fn source(origin: Origin) -> RotationSource {
    match origin {
        Origin::Operator => RotationSource::Operator,
        Origin::Schedule => RotationSource::Schedule,
        Origin::PubSub => RotationSource::Pubsub,
        Origin::EventGrid => RotationSource::EventGrid,
        Origin::Poll => RotationSource::Poll,
    }
}

fn target_message(target: &Target) -> RotationTarget {
    RotationTarget {
        secret: target.secret.to_string(),
        version: target.version.as_ref().map(|id| version(&target.secret, id)).unwrap_or_default(),
        previous_version: target.previous.as_ref().map(|id| version(&target.secret, id)).unwrap_or_default(),
        last_error: target.last_error.as_ref().map(trouble_message),
    }
}

fn version(secret: &SecretName, id: &Arc<str>) -> String {
    secret.version(VersionId::Exact(Arc::clone(id))).to_string()
}

fn step_message(step: &Step) -> RotationStep {
    RotationStep {
        state: state_of(step.stage).into(),
        reach_time: Some(timestamp(step.reached)),
        attempts: i32::try_from(step.attempts).unwrap_or(i32::MAX),
    }
}

fn trouble_message(trouble: &Trouble) -> ErrorDetail {
    error_detail(&Failure::from(trouble))
}
