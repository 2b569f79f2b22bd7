//! What others speak to the broker in their own way: the web port and its routes.

mod answer;
mod body;
pub mod issuer;
pub mod web;
pub mod webhooks;

pub use answer::Answer;
pub use web::{Route, Web};
