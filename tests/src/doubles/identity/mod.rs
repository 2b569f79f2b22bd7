//! The clouds' identity services: they believe a token for the reasons that the real ones have, and refuse in their words.

mod entra;
mod google;
mod keys;
mod oidc;
mod presented;
mod service;

pub use entra::{EntraIdentity, EntraService, FederatedCredential, ManagedIdentity, TENANT};
pub use google::{GoogleIdentity, GoogleService, PROJECT, PoolProvider};
pub use oidc::OidcIssuer;
pub(crate) use service::header;
pub use service::{Flaw, Service};
