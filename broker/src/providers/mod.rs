//! Where secrets are kept, and what stands between the broker and the clouds that keep them.

pub mod azure;
mod catalogue;
pub mod credential;
pub mod gcp;
pub mod guard;
pub mod local;
