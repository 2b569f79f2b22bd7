use std::path::PathBuf;
use std::time::Duration;

/// Which backend keeps the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settings {
    Embedded(EmbeddedSettings),
    Etcd(EtcdSettings),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedSettings {
    pub file: PathBuf,
    /// How long a change can be watched from, unless there are too many.
    pub history_age: Duration,
    /// How many changes are kept for watches at most.
    pub history_changes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdSettings {
    pub endpoints: Vec<String>,
    /// What the broker's keys begin with.
    pub prefix: String,
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    /// For all members together to answer.
    pub timeout: Duration,
    /// How long a replica that fell silent counts as alive.
    pub session_ttl: Duration,
}
