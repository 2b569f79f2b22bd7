//! Where secrets are kept.

pub mod local;
