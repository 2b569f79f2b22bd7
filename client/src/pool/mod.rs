//! Pools of connections that outlive the credentials they are made with.

#[cfg(feature = "deadpool-postgres")]
pub mod deadpool;
#[cfg(feature = "sqlx")]
pub mod sqlx;
#[cfg(feature = "deadpool-postgres")]
mod tls;
