//! How a new value comes to be.

pub mod generate;
pub mod postgres;
