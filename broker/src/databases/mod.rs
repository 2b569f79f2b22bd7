//! Short-lived access to databases: users made for one lease each, the leases that see them gone, and credentials that
//! end by themselves.

pub mod certificates;
pub mod cloud;
pub mod cockroach;
#[cfg(test)]
mod fuzz;
pub mod issuer;
mod kept;
pub mod leases;
mod pem;
pub mod postgres;
mod server;
mod settings;
pub mod tokens;
mod users;

pub use kept::OwnSecret;
pub use server::CaError;
pub use settings::{
    AuthoritySettings, CertificateSettings, CockroachDatabase, DatabaseSettings, JwtSettings, LeaseSettings,
    LoginSettings, MappedRole, PostgresDatabase, PostgresSettings, RoleSettings, ServerSettings, SigningSettings,
};
pub(crate) use users::new_password;
pub use users::{Account, NewUser, Tag, Tagged, UserName, Users};
