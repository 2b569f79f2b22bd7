//! Versioned secrets: what they are, who keeps them, and the path by which they are read and changed.

mod bytes;
mod provider;
mod service;

pub use bytes::SecretBytes;
pub use provider::{Fetched, Labels, Listing, Page, Provider, SecretInfo, VersionInfo, VersionState};
pub use service::{Demand, Read, Secrets, Source, no_such_secret};
