//! The clouds as they look from the wire. Each double counts only as long as the vendor's own client accepts it.

pub mod api_management;
pub mod cloud_sql;
pub mod faults;
pub mod http;
pub mod identity;
pub mod key_vault;
pub mod logins;
pub mod pubsub;
pub mod secret_manager;
