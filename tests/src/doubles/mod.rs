//! The clouds as they look from the wire. Each double counts only as long as the vendor's own client accepts it.

pub mod faults;
pub mod http;
pub mod identity;
pub mod key_vault;
pub mod pubsub;
pub mod secret_manager;
