//! Names of rotations.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{NameError, bounded, check};

/// `rotations/{rotation}`; later rotations have greater names.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RotationName(Arc<str>);

const FORM: &str = "rotations/{rotation}";
const PREFIX: &str = "rotations/";

impl RotationName {
    pub fn parse(name: &str) -> Result<Self, NameError> {
        bounded(name, FORM)?;
        Self::from_id(name.strip_prefix(PREFIX).ok_or(NameError::Form(FORM))?)
    }

    pub fn from_id(id: &str) -> Result<Self, NameError> {
        check("rotation", id, 32, "lower-case hexadecimal digits", |c| matches!(c, '0'..='9' | 'a'..='f'))?;
        Ok(Self(format!("{PREFIX}{id}").into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text without a copy.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    pub fn id(&self) -> &str {
        &self.0[PREFIX.len()..]
    }
}

shown_as_text!(RotationName);
recorded_as_text!(RotationName);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_its_own_text_back_and_refuses_another_s() {
        let name = RotationName::parse("rotations/0abc").unwrap();
        assert_eq!(RotationName::from_id(name.id()), Ok(name));
        for bad in ["", "rotations/", "rotations/A", "rotations/a/b", "leases/a", "rotation/a"] {
            assert!(RotationName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(RotationName::parse(&format!("rotations/{}", "a".repeat(33))).is_err());
    }
}
