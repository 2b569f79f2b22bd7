//! Versioned secrets: what they are, who keeps them, and the path by which they are read and changed.

mod bytes;
mod cache;
mod custody;
mod errands;
mod latest;
mod newest;
mod pins;
mod provider;
mod revision;
mod service;

#[cfg(test)]
mod tests;

pub use bytes::SecretBytes;
pub use cache::{CacheAccount, Demand, Freshness, Source};
pub use custody::Custody;
pub use newest::Newest;
pub use pins::{Guarded, Ward, Word};
pub use provider::{Fetched, Labels, Listing, Page, Provider, SecretInfo, Switched, VersionInfo, VersionState};
pub use service::{CacheSettings, Read, Refreshed, Secrets, no_such_secret};
pub(crate) use service::{permitted_secret, was_not_made};
