//! What is told of the resources that Envoys fetch.

use keyferry_proto::v1::{EnvoyRejection, EnvoyResourceStatus, HealthState};

use crate::error::Failure;
use crate::gateway::sds::{Account, Board, Rejection, Resource, ResourceName};
use crate::rpc::{error_detail, timestamp};
use crate::telemetry::{Samples, names};

pub(super) fn status(board: &Board) -> Vec<EnvoyResourceStatus> {
    board.all().map(|(name, resource, account)| of(name, resource, account)).collect()
}

pub(super) fn samples(board: &Board, out: &mut Samples) {
    for (name, _, account) in board.all() {
        let name = name.as_str();
        out.set(&names::ENVOY_STREAMS, &[name], account.streams as u64);
        out.set(&names::ENVOY_HEALTHY, &[name], account.trouble.is_none());
        out.set(&names::ENVOY_PUBLISHED, &[name], account.published);
        out.set(&names::ENVOY_ANSWERS, &[name, "ack"], account.accepted);
        out.set(&names::ENVOY_ANSWERS, &[name, "nack"], account.rejected);
    }
}

fn of(name: &ResourceName, resource: &Resource, account: Account) -> EnvoyResourceStatus {
    let health = match &account {
        Account { trouble: Some(_), good: None, .. } => HealthState::Unhealthy,
        Account { trouble: Some(_), .. } => HealthState::Degraded,
        Account { rejections, .. } if !rejections.is_empty() => HealthState::Degraded,
        Account { good: Some(_), .. } => HealthState::Healthy,
        // Nobody has asked for it yet.
        Account { .. } => HealthState::Unspecified,
    };
    let (good, publish_time) = account.good.unzip();
    EnvoyResourceStatus {
        name: name.to_string(),
        kind: resource.kind.as_str().to_owned(),
        secrets: resource.secrets().map(ToString::to_string).collect(),
        health: health.into(),
        version: good.map(|versions| resource.version(&versions)).unwrap_or_default(),
        publish_time: publish_time.map(timestamp),
        last_error: account.trouble.map(|(reason, message)| error_detail(&Failure::new(reason, message))),
        stream_count: i32::try_from(account.streams).unwrap_or(i32::MAX),
        rejections: account.rejections.into_values().map(rejection).collect(),
    }
}

fn rejection(Rejection { caller, node, version, why, at }: Rejection) -> EnvoyRejection {
    EnvoyRejection { caller: caller.to_string(), node, version, message: why, time: Some(timestamp(at)) }
}
