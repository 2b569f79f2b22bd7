//! What is told of the sources of events, with the stores that they tell of.

use keyferry_proto::v1::{ErrorDetail, EventSourceStatus, HealthState};

use crate::app::Sources;
use crate::names::StoreName;
use crate::rotation::sources::Account;
use crate::rpc::timestamp;
use crate::status::ReasonExt as _;
use crate::telemetry::{Samples, names};

pub(super) fn status(sources: &Sources, store: &StoreName) -> Vec<EventSourceStatus> {
    let told = sources.told.iter().filter(|source| source.places().stores().any(|known| known == store));
    let told = told.map(|source| of(source.kind(), &source.account()));
    told.chain(sources.polled.get(store).map(|polled| of("poll", &polled.account()))).collect()
}

pub(super) fn samples(sources: &Sources, out: &mut Samples) {
    for source in &sources.told {
        let account = source.account();
        for (outcome, count) in account.counts() {
            out.set_nonzero(&names::EVENTS, &[source.name(), outcome], count);
        }
        out.set(&names::EVENTS_HEALTHY, &[source.name()], account.failure.is_none());
    }
}

/// Of a source that has told nothing yet, nobody knows whether it works.
fn of(source: &'static str, account: &Account) -> EventSourceStatus {
    let health = match account {
        Account { failure: Some(_), .. } => HealthState::Unhealthy,
        Account { received: Some(_), .. } => HealthState::Healthy,
        Account { .. } => HealthState::Unspecified,
    };
    EventSourceStatus {
        source: source.to_owned(),
        health: health.into(),
        receive_time: account.received.map(timestamp),
        last_error: account.failure.as_ref().map(|failure| ErrorDetail {
            code: failure.reason().code().into(),
            reason: failure.reason().into(),
            message: failure.message().to_owned(),
            ..ErrorDetail::default()
        }),
    }
}
