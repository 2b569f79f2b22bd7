//! What the configuration says of databases.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::names::SecretName;

/// One entry of `[databases]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseSettings {
    Postgres(PostgresSettings),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresSettings {
    pub host: String,
    pub port: u16,
    pub database: String,
    pub ca: PathBuf,
    pub user: String,
    pub login: LoginSettings,
    pub connections: usize,
    pub timeout: Duration,
    /// By id.
    pub roles: BTreeMap<String, RoleSettings>,
}

/// How the broker itself logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginSettings {
    Password(SecretName),
    Certificate { certificate: PathBuf, key: PathBuf },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleSettings {
    pub description: String,
    pub groups: Vec<String>,
    pub default_ttl: Duration,
    pub max_ttl: Duration,
    pub max_lifetime: Duration,
    pub connection_limit: u32,
    pub search_path: Vec<String>,
    pub heir: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    pub live_per_caller: usize,
    pub sweep_interval: Duration,
}
