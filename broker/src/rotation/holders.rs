//! Who still holds a version: the seam between those who retire it and those who know the subscribers.

use tokio::sync::watch;

use crate::names::SecretName;

/// Subscribers that live, counted by what they say they run.
pub trait Holders: Send + Sync + std::fmt::Debug {
    /// Those who use any of the secrets: who has let go of the old version of each that it uses, and who has not.
    fn tally(&self, releases: &[Release]) -> Tally;

    /// Changes whenever a tally may have.
    fn changed(&self) -> watch::Receiver<u64>;
}

/// A secret, and the versions of it by which its users show that they have let go of the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    pub secret: SecretName,
    pub versions: Vec<String>,
}

/// Each counted once, however many of the secrets it uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub acknowledged: u64,
    pub pending: u64,
}
