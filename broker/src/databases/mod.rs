//! Short-lived access to databases: users made for one lease each, the leases that see them gone, and credentials that
//! end by themselves.

pub mod leases;
pub mod postgres;
mod settings;
pub mod tokens;
mod users;

pub use settings::{
    AuthoritySettings, CertificateSettings, CockroachDatabase, DatabaseSettings, JwtSettings, LeaseSettings,
    LoginSettings, MappedRole, PostgresDatabase, PostgresSettings, RoleSettings, ServerSettings,
};
pub(crate) use users::new_password;
pub use users::{Account, NewUser, Tag, Tagged, UserName, Users};
