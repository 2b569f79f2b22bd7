//! What others speak to the broker in their own way: the web port and its routes.

mod answer;
pub mod web;

pub use answer::Answer;
pub use web::{Route, Web};
