//! Short-lived access to databases: users made for one lease each, and the leases that see them gone.

pub mod leases;
pub mod postgres;
mod settings;
mod users;

pub use settings::{DatabaseSettings, LeaseSettings, LoginSettings, RoleSettings};
pub use users::{Account, NewUser, Tag, Tagged, UserName, Users};
