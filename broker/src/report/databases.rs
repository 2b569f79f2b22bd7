//! What is told of databases and leases, as messages and as numbers.

use keyferry_proto::v1::{DatabaseStatus, HealthState, LeaseCounts};

use crate::clock::Timestamp;
use crate::databases::Account;
use crate::databases::leases::Leases;
use crate::databases::tokens::{Kind, Tokens};
use crate::error::Reason;
use crate::names::DatabaseName;
use crate::rpc::{database_kind, error_detail, timestamp};
use crate::telemetry::{Samples, names};

pub(super) fn status(leases: &Leases, tokens: &Tokens) -> Vec<DatabaseStatus> {
    let statuses = all(leases, tokens).map(|(name, kind, account, swept)| DatabaseStatus {
        name: name.to_string(),
        kind: database_kind(kind).into(),
        health: health(&account).into(),
        success_time: account.success.map(timestamp),
        sweep_time: swept.map(timestamp),
        last_error: account.failure.as_ref().map(error_detail),
    });
    statuses.collect()
}

/// A database whose users have leases is told by its login, whatever else it is used for.
fn all<'a>(
    leases: &'a Leases,
    tokens: &'a Tokens,
) -> impl Iterator<Item = (&'a DatabaseName, Kind, Account, Option<Timestamp>)> {
    let leased =
        leases.databases().map(|(name, database, swept)| (name, Kind::Postgres, database.users.account(), swept));
    let has_leases = |wanted: &DatabaseName| leases.databases().any(|(name, ..)| name == wanted);
    let natural = tokens.databases().filter(move |(name, ..)| !has_leases(name));
    leased.chain(natural.map(|(name, kind, account)| (name, kind, account, None)))
}

/// Absent until the leases were read.
pub(super) fn counts(leases: &Leases) -> Option<LeaseCounts> {
    let counts = leases.counts()?;
    let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    Some(LeaseCounts {
        pending_count: whole(counts.pending),
        active_count: whole(counts.active),
        revoking_count: whole(counts.revoking),
        failing_count: whole(counts.failing),
        oldest_overdue_time: counts.overdue.map(timestamp),
    })
}

pub(super) fn samples(leases: &Leases, tokens: &Tokens, out: &mut Samples) {
    for (name, _, account, swept) in all(leases, tokens) {
        let health = health(&account);
        if health != HealthState::Unspecified {
            out.set(&names::DATABASE_HEALTHY, &[name.id()], health == HealthState::Healthy);
        }
        out.set_nonzero(&names::DATABASE_SWEPT, &[name.id()], swept.map_or(0, Timestamp::as_secs));
    }
    let Some(counts) = leases.counts() else { return };
    for (state, count) in [("pending", counts.pending), ("active", counts.active), ("revoking", counts.revoking)] {
        out.set(&names::LEASES, &[state], count);
    }
    out.set(&names::LEASES_FAILING, &[], counts.failing);
    out.set_nonzero(&names::LEASE_OVERDUE, &[], counts.overdue.map_or(0, Timestamp::as_secs));
}

/// Not known until it was asked once.
fn health(account: &Account) -> HealthState {
    match (&account.failure, account.success) {
        (None, None) => HealthState::Unspecified,
        (None, Some(_)) => HealthState::Healthy,
        // It works, for fewer than want it.
        (Some(failure), _) if failure.reason() == Reason::DatabaseExhausted => HealthState::Degraded,
        (Some(_), _) => HealthState::Unhealthy,
    }
}
