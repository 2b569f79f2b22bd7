//! Databases that believe their cloud's own tokens. The broker's credential only acts as the role's identity: what a
//! token opens is what that identity was granted.

mod azure;
mod cloud_sql;
mod google;
mod settings;
mod spanner;

pub use azure::AzureMinter;
pub use cloud_sql::{CloudSql, CloudSqlMinter};
pub use settings::{
    AzureEngine, AzureRole, AzureSettings, CloudSqlEngine, CloudSqlProof, CloudSqlSettings, GoogleRole, InstanceName,
    Network, SpannerSettings,
};
pub use spanner::SpannerMinter;

use std::time::Duration;

use super::tokens::Order;
use super::users::Account;
use crate::clock::Timestamp;
use crate::error::{Failure, Reason};
use crate::providers::guard::Guard;

/// By which another clock may differ from this one.
const SKEW: Duration = Duration::from_secs(60);

/// How a cloud has answered, as databases tell it.
fn account(guard: &Guard) -> Account {
    let account = guard.account();
    let failure = account.failure.map(|failure| Failure::new(failure.reason, failure.message));
    Account { success: account.success, failure }
}

/// What is left of the wish, in whole seconds.
fn life(order: &Order) -> Result<Duration, Failure> {
    let life = Duration::from_secs(order.until.since(order.now).as_secs());
    if life.is_zero() {
        let message = "the caller's own credential ends within a second; obtain another one, and mint with it";
        return Err(Failure::new(Reason::InvalidArgument, message));
    }
    Ok(life)
}

/// A credential that lasts past the wish, or not even for half of it, is not what was asked for.
fn check_end(order: &Order, expires: Timestamp) -> Result<(), Failure> {
    let (granted, asked) = (expires.since(order.now), order.until.since(order.now));
    let fault = if granted > asked + SKEW {
        "longer"
    } else if granted < asked / 2 {
        "less than half as long"
    } else {
        return Ok(());
    };
    let message = format!(
        "the credential for {} was asked for {} s and would live {fault} ({} s), so it is not handed out; set this \
         host's clock right, or ask for another ttl",
        order.role,
        asked.as_secs(),
        granted.as_secs(),
    );
    Err(Failure::new(Reason::ProviderUnavailable, message))
}

/// Who is behind the session, for the database's own lists and logs; PostgreSQL cuts it at 63 bytes.
fn application_name(caller: &str) -> String {
    let shown = caller.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' });
    "keyferry:".chars().chain(shown).take(63).collect()
}
