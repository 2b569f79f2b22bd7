//! What a caller may ask to do, and to what.

use std::net::IpAddr;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::names::{RoleName, SecretName, StoreName};
use crate::secrets::Labels;

/// The actions of the policy schema. A test holds the two together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    GetSecret,
    ListSecrets,
    ListSecretVersions,
    AddSecretVersion,
    EnableSecretVersion,
    DisableSecretVersion,
    ListDatabaseRoles,
    MintDatabaseToken,
    RenewLease,
    RevokeLease,
    RevokeAnyLease,
    ListLeases,
    ListAnyLease,
    WatchRotations,
    RotateSecret,
    GetRotation,
    CancelRotation,
    RetireRotation,
    ListSubscribers,
    RefreshSecret,
    WhoAmI,
    ExplainSelf,
    ExplainAccess,
    GetStatus,
}

impl Action {
    pub const ALL: [Self; 24] = [
        Self::GetSecret,
        Self::ListSecrets,
        Self::ListSecretVersions,
        Self::AddSecretVersion,
        Self::EnableSecretVersion,
        Self::DisableSecretVersion,
        Self::ListDatabaseRoles,
        Self::MintDatabaseToken,
        Self::RenewLease,
        Self::RevokeLease,
        Self::RevokeAnyLease,
        Self::ListLeases,
        Self::ListAnyLease,
        Self::WatchRotations,
        Self::RotateSecret,
        Self::GetRotation,
        Self::CancelRotation,
        Self::RetireRotation,
        Self::ListSubscribers,
        Self::RefreshSecret,
        Self::WhoAmI,
        Self::ExplainSelf,
        Self::ExplainAccess,
        Self::GetStatus,
    ];

    /// The id in policies, audit records and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GetSecret => "GetSecret",
            Self::ListSecrets => "ListSecrets",
            Self::ListSecretVersions => "ListSecretVersions",
            Self::AddSecretVersion => "AddSecretVersion",
            Self::EnableSecretVersion => "EnableSecretVersion",
            Self::DisableSecretVersion => "DisableSecretVersion",
            Self::ListDatabaseRoles => "ListDatabaseRoles",
            Self::MintDatabaseToken => "MintDatabaseToken",
            Self::RenewLease => "RenewLease",
            Self::RevokeLease => "RevokeLease",
            Self::RevokeAnyLease => "RevokeAnyLease",
            Self::ListLeases => "ListLeases",
            Self::ListAnyLease => "ListAnyLease",
            Self::WatchRotations => "WatchRotations",
            Self::RotateSecret => "RotateSecret",
            Self::GetRotation => "GetRotation",
            Self::CancelRotation => "CancelRotation",
            Self::RetireRotation => "RetireRotation",
            Self::ListSubscribers => "ListSubscribers",
            Self::RefreshSecret => "RefreshSecret",
            Self::WhoAmI => "WhoAmI",
            Self::ExplainSelf => "ExplainSelf",
            Self::ExplainAccess => "ExplainAccess",
            Self::GetStatus => "GetStatus",
        }
    }
}

impl Action {
    /// The groups that the schema puts it in.
    pub const fn groups(self) -> &'static [&'static str] {
        match self {
            Self::GetSecret | Self::ListSecrets | Self::ListSecretVersions | Self::WatchRotations => &["Read"],
            Self::AddSecretVersion | Self::EnableSecretVersion | Self::DisableSecretVersion => &["Change"],
            Self::ListDatabaseRoles
            | Self::MintDatabaseToken
            | Self::RenewLease
            | Self::RevokeLease
            | Self::ListLeases => &["Mint"],
            Self::RevokeAnyLease
            | Self::ListAnyLease
            | Self::RotateSecret
            | Self::GetRotation
            | Self::CancelRotation
            | Self::RetireRotation
            | Self::ListSubscribers
            | Self::RefreshSecret
            | Self::ExplainAccess
            | Self::GetStatus => &["Operate"],
            Self::WhoAmI | Self::ExplainSelf => &[],
        }
    }
}

/// What an action is asked of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    Store(StoreName),
    Secret(SecretName, Labels),
    DatabaseRole(RoleName),
    /// The broker itself: its status, its explanations.
    Broker,
}

impl Resource {
    /// The resource name that audit records and denials show.
    pub fn name(&self) -> Arc<str> {
        match self {
            Self::Store(name) => name.as_str().into(),
            Self::Secret(name, _) => name.shared(),
            Self::DatabaseRole(name) => name.shared(),
            Self::Broker => "broker".into(),
        }
    }
}

/// What of the call itself a policy may look at.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    pub now: Timestamp,
    pub peer: IpAddr,
}
