//! What the configuration says of databases that believe their cloud's tokens.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::providers::guard::GuardSettings;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudSqlSettings {
    pub instance: InstanceName,
    pub engine: CloudSqlEngine,
    /// Empty: the caller chooses.
    pub database: String,
    pub network: Network,
    /// Where callers connect, instead of where the instance says it is.
    pub host: Option<String>,
    pub port: Option<u16>,
    /// A name under `[credentials]`.
    pub credential: String,
    pub admin_url: String,
    pub iam_url: String,
    pub guard: GuardSettings,
    /// By id.
    pub roles: BTreeMap<String, (CloudSqlProof, GoogleRole)>,
}

/// `project:region:instance`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceName {
    /// A domain's project has a colon of its own.
    pub project: String,
    pub region: String,
    pub name: String,
}

/// The engines that know IAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudSqlEngine {
    Postgres,
    Mysql,
}

/// Which of an instance's addresses callers are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Public,
    Private,
    ServiceConnect,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoogleRole {
    pub description: String,
    /// Whose tokens they are.
    pub service_account: String,
    /// The database role of Spanner that sessions are to be created in.
    pub creator_role: Option<String>,
    pub default_ttl: Duration,
    pub max_ttl: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudSqlProof {
    Token,
    Certificate,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpannerSettings {
    /// `projects/…/instances/…/databases/…`
    pub database: String,
    pub host: String,
    pub port: u16,
    /// A name under `[credentials]`.
    pub credential: String,
    pub iam_url: String,
    pub guard: GuardSettings,
    /// By id.
    pub roles: BTreeMap<String, GoogleRole>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureSettings {
    pub engine: AzureEngine,
    pub host: String,
    pub port: u16,
    /// Empty: the caller chooses.
    pub database: String,
    pub ca: Option<PathBuf>,
    /// What tokens are asked for; a sovereign cloud has others.
    pub scope: String,
    pub guard: GuardSettings,
    /// By id.
    pub roles: BTreeMap<String, AzureRole>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AzureEngine {
    Postgres,
    Mysql,
    SqlServer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureRole {
    pub description: String,
    /// A name under `[credentials]`: the role's identity.
    pub identity: String,
    /// The user that this identity is in the database.
    pub user: String,
    /// A token that lives longer stays here.
    pub longest_life: Duration,
    /// Whether a token may end after the caller's own credential, as Entra alone decides how long it lives.
    pub may_outlive_caller: bool,
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.project, self.region, self.name)
    }
}
