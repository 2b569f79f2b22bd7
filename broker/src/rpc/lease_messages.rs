//! Database roles, tokens and leases between the contract's messages and the domain.

use std::collections::BTreeMap;
use std::time::Duration;

use keyferry_proto::v1::mint_database_token_response::Credential;
use keyferry_proto::v1::{
    CredentialKind, DatabaseConnection, DatabaseEngine, DatabaseKind, DatabaseRole, Lease as LeaseMessage,
    LeaseRevokeCause, LeaseState, MintDatabaseTokenResponse, PasswordCredential,
};

use super::proto_time::{duration, timestamp};
use super::secret_messages::error_detail;
use crate::audit::Receipt;
use crate::databases::leases::{Cause, Database, Lease, Minted, Stage, Trouble};
use crate::databases::{PostgresSettings, RoleSettings};
use crate::error::{Failure, Reason};
use crate::names::{DatabaseName, NameError, RoleName};

/// The answer, made from an audit receipt.
pub(super) fn disclosed(minted: Minted, receipt: &Receipt) -> MintDatabaseTokenResponse {
    let (lease, password, database) = minted.disclose(receipt);
    // Made by us, of letters and digits.
    let password = String::from_utf8_lossy(&password).into_owned();
    MintDatabaseTokenResponse {
        user: lease.user.as_str().to_owned(),
        credential: Some(Credential::Password(PasswordCredential { password })),
        connection: Some(connection(&database)),
        expire_time: Some(timestamp(lease.expires)),
        lease: Some(lease_message(&lease, &Trouble::default())),
    }
}

pub(super) fn connection(database: &Database) -> DatabaseConnection {
    let PostgresSettings { host, port, database: name, .. } = &database.settings;
    DatabaseConnection {
        engine: DatabaseEngine::Postgresql.into(),
        host: host.clone(),
        port: i32::from(*port),
        database: name.clone(),
        ca_pem: database.ca.to_string(),
        parameters: [("sslmode".to_owned(), "verify-full".to_owned())].into(),
        ..DatabaseConnection::default()
    }
}

pub(super) fn role_message(name: &RoleName, role: &RoleSettings, database: &PostgresSettings) -> DatabaseRole {
    let span = |span: Duration| prost_types::Duration::try_from(span).ok();
    DatabaseRole {
        name: name.to_string(),
        description: role.description.clone(),
        kind: DatabaseKind::Postgresql.into(),
        engine: DatabaseEngine::Postgresql.into(),
        credential_kind: CredentialKind::Password.into(),
        database: database.database.clone(),
        default_ttl: span(role.default_ttl),
        max_ttl: span(role.max_ttl),
        max_lifetime: span(role.max_lifetime),
        revocable: true,
        renewable: role.max_lifetime > role.max_ttl,
        accepts_public_key: false,
    }
}

pub(super) fn lease_message(lease: &Lease, trouble: &Trouble) -> LeaseMessage {
    let (revoke_start, revoked) = match lease.stage {
        Stage::Pending | Stage::Active => (None, None),
        Stage::Revoking { since, .. } => (Some(since), None),
        Stage::Revoked { since, gone, .. } => (Some(since), Some(gone)),
    };
    let is_revoking = matches!(lease.stage, Stage::Revoking { .. });
    LeaseMessage {
        name: lease.name.to_string(),
        role: lease.role.to_string(),
        owner: lease.owner.to_string(),
        user: lease.user.as_str().to_owned(),
        state: state_of(lease).into(),
        create_time: Some(timestamp(lease.created)),
        expire_time: Some(timestamp(lease.expires)),
        max_expire_time: Some(timestamp(lease.max_expires)),
        revoke_cause: match lease.cause() {
            None => LeaseRevokeCause::Unspecified,
            Some(Cause::Expired) => LeaseRevokeCause::Expired,
            Some(Cause::Owner) => LeaseRevokeCause::Owner,
            Some(Cause::Operator) => LeaseRevokeCause::Operator,
            Some(Cause::MintIncomplete) => LeaseRevokeCause::MintIncomplete,
            Some(Cause::Reconciled) => LeaseRevokeCause::Reconciled,
        }
        .into(),
        revoke_start_time: revoke_start.map(timestamp),
        revoke_time: revoked.map(timestamp),
        attempts: i32::try_from(trouble.attempts).unwrap_or(i32::MAX),
        last_error: trouble.last_error.as_deref().map(error_detail),
        next_attempt_time: trouble.next_attempt.filter(|_| is_revoking).map(timestamp),
    }
}

pub(super) fn state_of(lease: &Lease) -> LeaseState {
    match lease.stage {
        Stage::Pending => LeaseState::Pending,
        Stage::Active => LeaseState::Active,
        Stage::Revoking { .. } => LeaseState::Revoking,
        Stage::Revoked { .. } => LeaseState::Revoked,
    }
}

/// Positive, where it is given; longer than any role allows is no error.
pub(super) fn ttl(asked: Option<&prost_types::Duration>) -> Result<Option<Duration>, Failure> {
    let ttl = asked.map(|span| duration("ttl", span)).transpose()?;
    if ttl == Some(Duration::ZERO) {
        return Err(Failure::bad_field(Reason::InvalidArgument, "ttl", "is zero; write 1s or more, or leave it out"));
    }
    Ok(ttl)
}

/// Which roles a selector or a filter means.
#[derive(Debug)]
pub(super) enum RolePrefix {
    Any,
    Database(DatabaseName),
    Role(RoleName),
}

impl RolePrefix {
    pub(super) fn parse(text: &str) -> Result<Self, NameError> {
        match text {
            "" => Ok(Self::Any),
            role if role.contains("/roles/") => RoleName::parse(role).map(Self::Role),
            database => DatabaseName::parse(database).map(Self::Database),
        }
    }

    pub(super) fn takes_in(&self, role: &RoleName) -> bool {
        match self {
            Self::Any => true,
            Self::Database(database) => role.database() == database.as_str(),
            Self::Role(wanted) => wanted == role,
        }
    }
}

/// Decisions about roles, each asked once a call.
#[derive(Debug)]
pub(super) struct Asked<F>(F, BTreeMap<(RoleName, bool), bool>);

impl<F: Fn(&RoleName, bool) -> bool> Asked<F> {
    pub(super) fn new(decide: F) -> Self {
        Self(decide, BTreeMap::new())
    }

    pub(super) fn allows(&mut self, role: &RoleName, own: bool) -> bool {
        *self.1.entry((role.clone(), own)).or_insert_with(|| (self.0)(role, own))
    }
}
