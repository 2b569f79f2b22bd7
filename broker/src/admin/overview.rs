//! What the status page shows: the broker's own account of itself, and who rotates and who listens. No secret is in it.

use std::sync::Arc;

use keyferry_proto::v1::BrokerStatus;

use crate::clock::Timestamp;

/// Read at one moment.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    pub status: BrokerStatus,
    /// Newest first; those before, up to a bound.
    pub rotations: Vec<RotationRow>,
    pub subscribers: Vec<SubscriberRow>,
    /// How many there are, where not all are shown.
    pub subscriber_count: usize,
}

#[derive(Clone, Debug)]
pub struct RotationRow {
    pub name: String,
    pub targets: Vec<TargetRow>,
    pub stage: &'static str,
    pub since: Timestamp,
    pub attempts: u32,
    pub trouble: Option<String>,
    pub is_over: bool,
}

#[derive(Clone, Debug)]
pub struct SubscriberRow {
    pub caller: Arc<str>,
    pub name: String,
    /// The replica that its stream is open at.
    pub node: Option<String>,
    pub last_seen: Timestamp,
    /// Revisions of the log that it was not sent yet.
    pub behind: u64,
    pub runs: Vec<RunRow>,
}

#[derive(Clone, Debug)]
pub struct TargetRow {
    pub secret: String,
    pub old: Option<Arc<str>>,
    pub new: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
pub struct RunRow {
    pub secret: String,
    pub version: Option<Arc<str>>,
    pub since: Timestamp,
    /// Why it refused a newer one.
    pub refused: Option<String>,
}
