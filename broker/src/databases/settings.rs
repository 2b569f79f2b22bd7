//! What the configuration says of databases.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::cloud::{AzureSettings, CloudSqlSettings, SpannerSettings};
use crate::names::SecretName;

/// One entry of `[databases]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseSettings {
    Postgres(PostgresDatabase),
    Cockroach(CockroachDatabase),
    CloudSql(CloudSqlSettings),
    Spanner(SpannerSettings),
    Azure(AzureSettings),
}

/// Each part serves the roles of one credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresDatabase {
    pub users: Option<PostgresSettings>,
    pub certificates: Option<CertificateSettings>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CockroachDatabase {
    pub tokens: Option<JwtSettings>,
    pub certificates: Option<CertificateSettings>,
}

/// Users that are made for each lease.
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

/// Client certificates for users that are there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSettings {
    pub server: ServerSettings,
    pub authority: AuthoritySettings,
    /// By id.
    pub roles: BTreeMap<String, MappedRole>,
}

/// The CA that the database accepts client certificates of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthoritySettings {
    /// The CA's certificate in PEM, before those that lead from it to the root.
    pub certificate: SecretName,
    /// The CA's private key in PEM.
    pub key: SecretName,
}

/// Tokens that the broker signs, for users that are there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSettings {
    pub server: ServerSettings,
    pub audience: String,
    /// By id.
    pub roles: BTreeMap<String, MappedRole>,
}

/// The broker as an issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningSettings {
    pub url: String,
    pub secret: SecretName,
    pub refresh_interval: Duration,
    pub maximum_key_age: Duration,
}

/// Where a server is, and by what it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    pub host: String,
    pub port: u16,
    pub database: String,
    pub ca: PathBuf,
}

/// A role whose tokens all log in as one user of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedRole {
    pub description: String,
    pub user: String,
    pub default_ttl: Duration,
    pub max_ttl: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    pub live_per_caller: usize,
    pub sweep_interval: Duration,
}
