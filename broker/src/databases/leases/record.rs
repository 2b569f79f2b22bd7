//! A lease, as it is kept in the state. No credential is part of it.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::Timestamp;
use crate::databases::users::UserName;
use crate::names::{LeaseName, RoleName};
use crate::state::{Kind, Record};

pub static LEASES: Kind = Kind { name: "leases", upgrades: &[] };

/// The duty to remove a database user when its time is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    pub name: LeaseName,
    pub role: RoleName,
    /// The id of the caller that it was minted for.
    #[serde(serialize_with = "write_text", deserialize_with = "read_text")]
    pub owner: Arc<str>,
    pub user: UserName,
    /// The node that mints it: a pending lease of a process that is gone is not waited for.
    #[serde(serialize_with = "write_text", deserialize_with = "read_text")]
    pub minter: Arc<str>,
    pub created: Timestamp,
    pub expires: Timestamp,
    /// No renewal gets past it.
    pub max_expires: Timestamp,
    /// Counts its passwords: a call that is repeated makes another one.
    #[serde(default)]
    pub issue: u32,
    pub stage: Stage,
}

/// How far a lease is. It never comes back to life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Stage {
    /// Durable before the database hears of the user.
    Pending,
    /// Durable before the credential leaves.
    Active,
    Revoking {
        cause: Cause,
        since: Timestamp,
    },
    /// The user was seen to be gone.
    Revoked {
        cause: Cause,
        since: Timestamp,
        gone: Timestamp,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Expired,
    Owner,
    Operator,
    /// A crash, a lost answer of the database, or an audit record that could not be written.
    MintIncomplete,
    /// The sweep found that database and lease disagree.
    Reconciled,
}

impl Lease {
    /// Whether its user may be in use, or about to be.
    pub fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Pending | Stage::Active)
    }

    pub fn cause(&self) -> Option<Cause> {
        match self.stage {
            Stage::Pending | Stage::Active => None,
            Stage::Revoking { cause, .. } | Stage::Revoked { cause, .. } => Some(cause),
        }
    }

    #[must_use]
    pub(super) fn at(&self, stage: Stage) -> Self {
        Self { stage, ..self.clone() }
    }
}

fn write_text<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn read_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    String::deserialize(deserializer).map(Into::into)
}

impl Record for Lease {
    const KIND: &'static Kind = &LEASES;
}
