//! Who may do what: policy and quota behind one gate, whose permit everything deeper demands.

mod action;
mod gate;
mod policy;
mod store;

pub use action::{Action, Circumstances, Resource};
pub use gate::{Denied, Gate, Permit};
pub use policy::{Policies, PolicyError, Verdict};
pub use store::{PolicyStatus, PolicyStore};
