//! Who still holds a version: the seam between those who retire it and those who know the subscribers.

use tokio::sync::watch;

use crate::names::SecretName;

/// Subscribers that live, counted by what they say they run.
pub trait Holders: Send + Sync + std::fmt::Debug {
    /// Those who run one of these versions of the secret, and those who do not.
    fn tally(&self, secret: &SecretName, versions: &[&str]) -> Tally;

    /// Changes whenever a tally may have.
    fn changed(&self) -> watch::Receiver<u64>;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub acknowledged: u64,
    pub pending: u64,
}
