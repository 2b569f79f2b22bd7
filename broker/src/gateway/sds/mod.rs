//! What Envoys fetch by the secret discovery service: resources made of secrets, looked at before they are published.

mod board;
#[cfg(test)]
mod fuzz;
mod material;
mod resource;

pub use board::{Account, Board, Rejection, Seat};
pub use material::Material;
pub use resource::{Kind, Resource, ResourceName, ResourceNameError, Versions};
