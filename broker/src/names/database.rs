//! Names of databases, of the roles in them, and of leases.

use std::borrow::Borrow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{NameError, bounded, check};

/// `databases/{database}`
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatabaseName(Arc<str>);

/// `databases/{database}/roles/{role}`
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoleName {
    full: Arc<str>,
    database_end: usize,
}

/// `leases/{lease}`; later leases have greater names.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LeaseName(Arc<str>);

const DATABASE_FORM: &str = "databases/{database}";
const ROLE_FORM: &str = "databases/{database}/roles/{role}";
const LEASE_FORM: &str = "leases/{lease}";
const DATABASE_PREFIX: &str = "databases/";
const ROLE_PREFIX: &str = "/roles/";
const LEASE_PREFIX: &str = "leases/";

impl DatabaseName {
    pub fn parse(name: &str) -> Result<Self, NameError> {
        bounded(name, DATABASE_FORM)?;
        let id = name.strip_prefix(DATABASE_PREFIX).filter(|id| !id.contains('/'));
        Self::from_id(id.ok_or(NameError::Form(DATABASE_FORM))?)
    }

    /// From the bare id under which a configuration file declares the database.
    pub fn from_id(id: &str) -> Result<Self, NameError> {
        check_id("database", id)?;
        Ok(Self(format!("{DATABASE_PREFIX}{id}").into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn id(&self) -> &str {
        &self.0[DATABASE_PREFIX.len()..]
    }

    pub fn role(&self, id: &str) -> Result<RoleName, NameError> {
        check_id("role", id)?;
        Ok(RoleName { full: format!("{}{ROLE_PREFIX}{id}", self.0).into(), database_end: self.0.len() })
    }
}

impl RoleName {
    pub fn parse(name: &str) -> Result<Self, NameError> {
        bounded(name, ROLE_FORM)?;
        let (database, role) = name.split_once(ROLE_PREFIX).ok_or(NameError::Form(ROLE_FORM))?;
        DatabaseName::parse(database).map_err(|error| in_form(error, ROLE_FORM))?.role(role)
    }

    pub fn as_str(&self) -> &str {
        &self.full
    }

    /// The text without a copy.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.full)
    }

    /// The full name of the database.
    pub fn database(&self) -> &str {
        &self.full[..self.database_end]
    }

    pub fn database_id(&self) -> &str {
        &self.database()[DATABASE_PREFIX.len()..]
    }

    pub fn id(&self) -> &str {
        &self.full[self.database_end + ROLE_PREFIX.len()..]
    }
}

impl LeaseName {
    pub fn parse(name: &str) -> Result<Self, NameError> {
        bounded(name, LEASE_FORM)?;
        Self::from_id(name.strip_prefix(LEASE_PREFIX).ok_or(NameError::Form(LEASE_FORM))?)
    }

    pub fn from_id(id: &str) -> Result<Self, NameError> {
        check("lease", id, 32, "lower-case hexadecimal digits", |c| matches!(c, '0'..='9' | 'a'..='f'))?;
        Ok(Self(format!("{LEASE_PREFIX}{id}").into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text without a copy.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    pub fn id(&self) -> &str {
        &self.0[LEASE_PREFIX.len()..]
    }
}

fn check_id(part: &'static str, id: &str) -> Result<(), NameError> {
    check(part, id, 63, "lower-case letters, digits and hyphens", |c| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
    })
}

/// A fault in the shape of a part is one of the whole.
fn in_form(error: NameError, form: &'static str) -> NameError {
    if matches!(error, NameError::Form(_) | NameError::Empty(_)) { NameError::Form(form) } else { error }
}

/// Databases are looked up by the part of a role's name that is theirs.
impl Borrow<str> for DatabaseName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

shown_as_text!(DatabaseName, RoleName, LeaseName);

recorded_as_text!(RoleName, LeaseName);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_its_own_text_back() {
        let role = RoleName::parse("databases/orders-eu/roles/reader").unwrap();
        assert_eq!((role.database(), role.database_id(), role.id()), ("databases/orders-eu", "orders-eu", "reader"));
        assert_eq!(DatabaseName::parse("databases/orders-eu").unwrap().role("reader").unwrap(), role);
        let lease = LeaseName::parse("leases/0abc").unwrap();
        assert_eq!(LeaseName::from_id(lease.id()).unwrap(), lease);
    }

    #[test]
    fn refuses_what_could_become_sql_or_another_name() {
        for bad in [
            "",
            "databases/a",
            "databases//roles/r",
            "databases/a/roles/",
            "databases/a/roles/r/x",
            "databases/a/roles/r/roles/r",
            "databases/a/roles/r; drop table x",
            "databases/a/roles/\"r\"",
            "databases/a'/roles/r",
            "databases/A/roles/r",
            "databases/a/roles/r\0",
            "databases/../roles/r",
            "stores/a/roles/r",
        ] {
            assert!(RoleName::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "leases/", "leases/A", "leases/g", "leases/a/b", "leases/'", "lease/a"] {
            assert!(LeaseName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(LeaseName::parse(&format!("leases/{}", "a".repeat(33))).is_err());
    }
}
