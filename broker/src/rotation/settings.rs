//! What the configuration says of rotations.

use std::time::Duration;

use super::schedule::{Schedule, Window};
use super::strategies::generate::Form;
use super::strategies::postgres::{Place, ValueFormat};
use crate::names::{DatabaseName, SecretName};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationSettings {
    /// At least one.
    pub targets: Vec<SecretName>,
    pub strategy: Strategy,
    pub schedule: Option<Schedule>,
    pub window: Option<Window>,
    pub retire_after: Duration,
    pub subscriber_grace: Duration,
    pub give_up_after: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    Generate(Form),
    Postgres(TwoUsers),
    External,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwoUsers {
    pub database: DatabaseName,
    pub users: [String; 2],
    pub format: ValueFormat,
    pub place: Place,
}
