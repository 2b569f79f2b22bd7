//! What is told of the stores: the guard's account, as a message and as numbers.

use std::sync::Arc;

use keyferry_proto::v1::{
    CircuitState, ErrorDetail, HealthState, ProviderOperation, QuotaLedgerEntry, StoreKind, StoreStatus,
};

use crate::app::Guards;
use crate::names::StoreName;
use crate::providers::guard::{Account, Circuit, Guard, LastFailure, LedgerEntry, Operation};
use crate::rpc::timestamp;
use crate::status::ReasonExt as _;
use crate::telemetry::{Samples, names};

/// A store without a guard is the broker's own file.
pub(super) fn status(name: &StoreName, guard: Option<&Arc<Guard>>) -> StoreStatus {
    let Some(guard) = guard else {
        return StoreStatus {
            name: name.to_string(),
            kind: StoreKind::Local.into(),
            health: HealthState::Healthy.into(),
            ..StoreStatus::default()
        };
    };
    let account = guard.account();
    let (circuit, retry) = match account.circuit {
        Circuit::Closed => (CircuitState::Closed, None),
        Circuit::Open { retry } => (CircuitState::Open, Some(timestamp(retry))),
        Circuit::HalfOpen => (CircuitState::HalfOpen, None),
    };
    StoreStatus {
        name: name.to_string(),
        health: health(&account).into(),
        circuit: circuit.into(),
        circuit_retry_time: retry,
        quota: account.ledger.iter().map(ledger_entry).collect(),
        success_time: account.success.map(timestamp),
        last_error: account.failure.as_ref().map(last_error),
        ..StoreStatus::default()
    }
}

pub(super) fn samples(guards: &Guards, out: &mut Samples) {
    for (name, guard) in guards {
        let (store, account) = (name.id(), guard.account());
        out.set(&names::CIRCUIT_CLOSED, &[store], account.circuit == Circuit::Closed);
        out.set(&names::STORE_RETRIES, &[store], account.retries);
        for entry in &account.ledger {
            let labels = [store, entry.operation.name()];
            out.set(&names::STORE_REQUESTS, &labels, entry.requests);
            out.set(&names::STORE_THROTTLED, &labels, entry.throttled);
            out.set(&names::BUDGET_REFUSED, &labels, entry.refused);
            out.set(&names::BUDGET_LIMIT, &labels, entry.limit);
            out.set(&names::BUDGET_USED, &labels, entry.used);
            out.set(&names::BUDGET_FORECAST, &labels, entry.forecast);
        }
    }
}

/// Not known until the provider was asked once.
fn health(account: &Account) -> HealthState {
    let held_back = account.ledger.iter().any(|entry| entry.paused.is_some() || entry.left() == 0);
    if account.circuit != Circuit::Closed {
        HealthState::Unhealthy
    } else if account.failure.is_some() || held_back {
        HealthState::Degraded
    } else if account.success.is_some() {
        HealthState::Healthy
    } else {
        HealthState::Unspecified
    }
}

fn ledger_entry(entry: &LedgerEntry) -> QuotaLedgerEntry {
    let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    QuotaLedgerEntry {
        operation: match entry.operation {
            Operation::Access => ProviderOperation::Access,
            Operation::Metadata => ProviderOperation::Metadata,
            Operation::Write => ProviderOperation::Write,
        }
        .into(),
        window: prost_types::Duration::try_from(entry.window).ok(),
        limit: whole(entry.limit),
        used: whole(entry.used),
        left: whole(entry.left()),
        forecast: whole(entry.forecast),
        exhaust_time: entry.exhausted.map(timestamp),
        throttled_count: whole(entry.throttled),
        refused_count: whole(entry.refused),
    }
}

fn last_error(failure: &LastFailure) -> ErrorDetail {
    ErrorDetail {
        code: failure.reason.code().into(),
        reason: failure.reason.into(),
        message: failure.message.clone(),
        ..ErrorDetail::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;
    use crate::clock::SystemClock;
    use crate::error::{Failure, Reason};
    use crate::providers::guard::{Budget, GuardSettings};
    use crate::telemetry::names::Metric;

    #[tokio::test]
    async fn a_store_that_is_out_is_unhealthy_and_says_when_it_is_tried_again() {
        let (name, guard) = guard();
        assert_eq!(status(&name, Some(&guard)).health(), HealthState::Unspecified, "nobody asked it yet");
        answer(&guard, None).await;
        assert_eq!(status(&name, Some(&guard)).health(), HealthState::Healthy);
        answer(&guard, Some(Reason::SecretNotFound)).await;
        assert_eq!(status(&name, Some(&guard)).health(), HealthState::Healthy);
        answer(&guard, Some(Reason::ProviderDenied)).await;
        assert_eq!(status(&name, Some(&guard)).health(), HealthState::Degraded);
        for about in ["a", "b", "c", "d", "e"] {
            let silent = async { Err::<(), _>(Failure::new(Reason::ProviderUnavailable, "no")) };
            guard.once(Operation::Access, about, silent).await.unwrap_err();
        }
        let status = status(&name, Some(&guard));
        assert_eq!((status.health(), status.circuit()), (HealthState::Unhealthy, CircuitState::Open));
        assert!(status.circuit_retry_time.is_some() && status.success_time.is_some());
        let error = status.last_error.unwrap();
        assert_eq!((error.reason(), error.code), (Reason::ProviderUnavailable, tonic::Code::Unavailable.into()));
        let access = &status.quota[0];
        assert_eq!(
            (access.operation(), access.limit, access.used, access.left),
            (ProviderOperation::Access, 100, 8, 92)
        );

        let mut samples = Samples::default();
        super::samples(&Guards::from([(name, guard)]), &mut samples);
        let of = |metric: &'static Metric| samples.of(metric).next().unwrap().point.clone();
        assert_eq!((of(&names::STORE_REQUESTS), of(&names::BUDGET_USED)), (8_u64.into(), 8_u64.into()));
        assert_eq!(of(&names::CIRCUIT_CLOSED), false.into());
    }

    #[tokio::test]
    async fn a_store_whose_budget_is_used_up_is_degraded() {
        let (name, guard) = guard();
        for _ in 0..100 {
            answer(&guard, None).await;
        }
        let status = status(&name, Some(&guard));
        assert_eq!((status.health(), status.quota[0].left), (HealthState::Degraded, 0));
        assert!(status.quota[0].exhaust_time.is_some());
    }

    async fn answer(guard: &Guard, failure: Option<Reason>) {
        let outcome = failure.map_or(Ok(()), |reason| Err(Failure::new(reason, "no")));
        assert_eq!(guard.once(Operation::Access, "db", async { outcome }).await.is_ok(), failure.is_none());
    }

    fn guard() -> (StoreName, Arc<Guard>) {
        let budget = Budget { limit: 100, window: Duration::from_secs(3_600) };
        let settings = GuardSettings {
            access: budget,
            metadata: budget,
            write: budget,
            maximum_wait: Duration::from_secs(1),
            request_timeout: Duration::from_secs(1),
        };
        let name = StoreName::from_id("cloud").unwrap();
        (name.clone(), Guard::new(name.as_str().into(), settings, Arc::new(SystemClock)))
    }
}
