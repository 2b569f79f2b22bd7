//! What is wrong with a caller's JSON. It names the place and never the value, which may be a secret.

use std::fmt::Write as _;

use serde_json::error::Category;

use crate::error::{Failure, Reason};

/// Where in a message something is.
#[derive(Clone, Debug)]
pub(super) enum Step<'s> {
    Field(&'s str),
    Key(String),
    Element(usize),
}

#[derive(Debug)]
pub(super) struct Fault {
    pub(super) path: String,
    pub(super) description: String,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        if fault.path.is_empty() {
            return Self::new(Reason::InvalidArgument, format!("the message {}", fault.description));
        }
        Self::bad_field(Reason::InvalidArgument, fault.path, fault.description)
    }
}

/// As an error about a field names it: `filter.labels["team"]`, `requests[2].name`.
pub(super) fn path(steps: &[Step<'_>]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Field(name) if path.is_empty() => path.push_str(name),
            Step::Field(name) => {
                let _ = write!(path, ".{name}");
            }
            Step::Key(key) if is_plain(key) => {
                let _ = write!(path, "[\"{key}\"]");
            }
            Step::Key(_) => path.push_str("[…]"),
            Step::Element(place) => {
                let _ = write!(path, "[{place}]");
            }
        }
    }
    path
}

/// What may be repeated to its sender, and to whoever reads its log.
pub(super) fn is_plain(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte))
}

/// The parser's own words may quote what it read, so only its place is taken from it.
pub(super) fn syntax(error: &serde_json::Error) -> Fault {
    let (line, column) = (error.line(), error.column());
    let description = match error.classify() {
        Category::Eof => "ends before its JSON does; send all of it".to_owned(),
        Category::Syntax | Category::Data | Category::Io => {
            format!("is not JSON at line {line}, column {column}; check what was sent")
        }
    };
    Fault { path: String::new(), description }
}
