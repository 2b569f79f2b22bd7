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
    /// Secret, the version before, the new one.
    pub targets: Vec<(String, Option<Arc<str>>, Option<Arc<str>>)>,
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
    /// Secret, the version that it runs, since when, and why it refused a newer one.
    pub runs: Vec<(String, Option<Arc<str>>, Timestamp, Option<String>)>,
}
