//! Bearer tokens: from the authorization header's text to a verified [`Token`].
//!
//! The order in which a token is believed: its form ([`compact`]), the issuer that it names and that is configured
//! ([`settings`]), that issuer's keys in force ([`issuer`], [`fetch`], [`key_set`], [`jwk`]), its signature, and only then
//! its claims ([`registered`], [`claims`]). [`cache`] spares a caller's next calls all of that.

mod algorithm;
mod bearer;
mod cache;
mod claims;
mod compact;
mod fetch;
mod issuer;
mod json;
mod jwk;
mod key_set;
mod mark;
mod registered;
mod rejection;
mod roca;
mod settings;
mod verified;
mod verifier;

#[cfg(test)]
mod tests;

pub use algorithm::{Algorithm, UnknownAlgorithm};
pub use bearer::bearer;
pub use claims::Claims;
pub use issuer::IssuerStatus;
pub use rejection::{Quoted, Rejection};
pub use settings::{IssuerError, IssuerSettings, KeySource, MAX_LEEWAY};
pub use verified::Token;
pub use verifier::TokenVerifier;
