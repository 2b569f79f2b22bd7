//! What is wrong with a configuration, and where.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// As many as a reader will work through before trying again.
const SHOWN: usize = 100;

/// Everything found in one pass, in the order of the file. Never empty when it is returned as an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub(super) Vec<Problem>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub(super) place: Place,
    pub(super) message: String,
    pub(super) file: Arc<str>,
}

/// Their order is the order of the report.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Both count from one, the column in characters.
    Line {
        line: usize,
        column: usize,
    },
    /// Something is missing, or nothing in the file says it.
    File,
    Variable(String),
}

impl Problems {
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl Problem {
    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, message, file } = self;
        match place {
            Place::Line { line, column } => write!(f, "{file}:{line}:{column}: {message}"),
            Place::File => write!(f, "{file}: {message}"),
            Place::Variable(name) => write!(f, "{name}: {message}"),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().take(SHOWN).enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        match self.0.len().checked_sub(SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "\n… and {more} more"),
        }
    }
}

impl Error for Problems {}
