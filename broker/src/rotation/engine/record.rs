//! A rotation, as it is kept in the state. No value is part of it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::error::{Failure, Reason};
use crate::names::{RotationName, SecretName};
use crate::rotation::Origin;
use crate::secrets::SecretBytes;
use crate::state::{Kind, Record};

pub(super) static ROTATIONS: Kind = Kind { name: "rotations", upgrades: &[] };

/// After a store was asked to add a version. Its answer is given up long before.
const LATENESS: Duration = Duration::from_mins(5);

/// One run of what `[rotations.NAME]` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    pub name: RotationName,
    /// The NAME of its configuration.
    pub plan: String,
    pub strategy: StrategyKind,
    /// The one that was asked for first.
    pub targets: Vec<Target>,
    pub origin: Origin,
    /// The id of the caller that asked.
    pub initiator: Option<String>,
    pub justification: String,
    /// The stages passed through, the present one last.
    pub steps: Vec<Step>,
    pub last_error: Option<Trouble>,
    pub created: Timestamp,
    pub updated: Timestamp,
    /// When the old version retires, whoever still holds it.
    pub retires: Option<Timestamp>,
    /// Somebody decided that the old version retires, whoever still holds it.
    pub retire_now: bool,
    pub users: Option<Users>,
    /// Of the values that were about to be stored, by which they are found after a crash.
    pub(super) digests: Vec<String>,
    /// Nothing is left to be done.
    pub settled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub secret: SecretName,
    pub version: Option<Arc<str>>,
    /// The one that it replaces.
    pub previous: Option<Arc<str>>,
    pub last_error: Option<Trouble>,
    /// What became of these nobody knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) unanswered: Vec<Addition>,
}

/// A value that a store was asked to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Addition {
    digest: String,
    /// The store has added it by then, or never will.
    until: Timestamp,
}

/// Of a database, whose turns change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Users {
    /// Its full name.
    pub database: String,
    pub new: String,
    pub old: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub stage: Stage,
    pub reached: Timestamp,
    /// How often work was begun in it.
    pub attempts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Planned,
    Created,
    Set,
    Tested,
    Current,
    Retiring,
    Retired,
    Failed,
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StrategyKind {
    Generate,
    Postgres,
    External,
}

/// A failure, as far as it can be told to everybody who may see the rotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trouble {
    reason: String,
    message: String,
}

impl Rotation {
    pub fn stage(&self) -> Stage {
        self.steps.last().map_or(Stage::Planned, |step| step.stage)
    }

    pub fn attempts(&self) -> u32 {
        self.steps.last().map_or(0, |step| step.attempts)
    }

    pub fn reached(&self) -> Timestamp {
        self.steps.last().map_or(self.created, |step| step.reached)
    }

    pub fn secrets(&self) -> Vec<SecretName> {
        self.targets.iter().map(|target| target.secret.clone()).collect()
    }

    /// Until when an addition that nobody answered may come late.
    pub(super) fn awaits(&self, now: Timestamp) -> Option<Timestamp> {
        self.targets.iter().filter_map(|target| target.awaits(now)).max()
    }

    pub(super) fn enter(&mut self, stage: Stage, attempts: u32, now: Timestamp) {
        self.steps.push(Step { stage, reached: now, attempts });
        self.updated = now;
    }

    pub(super) fn has_been(&self, stage: Stage) -> bool {
        self.steps.iter().any(|step| step.stage == stage)
    }

    /// Another rotation's digest of the same value is a different one.
    pub(super) fn digest(&self, value: &SecretBytes) -> String {
        Digest::of_parts(&[self.name.as_str().as_bytes(), b"\0", value.expose()]).to_string()
    }
}

impl Target {
    pub(super) fn asks(&mut self, digest: String, now: Timestamp) {
        self.unanswered.retain(|addition| addition.until > now);
        self.unanswered.push(Addition { digest, until: now.plus(LATENESS) });
    }

    /// It is known what became of one of them, the last where several had this value.
    pub(super) fn answered(&mut self, digest: &str) {
        if let Some(place) = self.unanswered.iter().rposition(|addition| addition.digest == digest) {
            self.unanswered.remove(place);
        }
    }

    /// Until when one may come late.
    pub(super) fn awaits(&self, now: Timestamp) -> Option<Timestamp> {
        self.unanswered.iter().map(|addition| addition.until).max().filter(|until| *until > now)
    }
}

impl Stage {
    /// The old version is the current one.
    pub fn is_before_current(self) -> bool {
        matches!(self, Self::Planned | Self::Created | Self::Set | Self::Tested)
    }

    pub fn is_final(self) -> bool {
        matches!(self, Self::Retired | Self::Failed | Self::Cancelled)
    }
}

impl From<&Failure> for Trouble {
    fn from(failure: &Failure) -> Self {
        Self { reason: failure.reason().as_str_name().to_owned(), message: failure.message().to_owned() }
    }
}

impl From<&Trouble> for Failure {
    fn from(trouble: &Trouble) -> Self {
        Self::new(Reason::from_str_name(&trouble.reason).unwrap_or(Reason::Internal), trouble.message.clone())
    }
}

impl Record for Rotation {
    const KIND: &'static Kind = &ROTATIONS;
}
