//! The seam to a database that makes a user for each lease.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::{Failure, Reason};
use crate::names::LeaseName;
use crate::secrets::SecretBytes;

/// One configured database. Failures carry our reasons and never the database's text.
///
/// Every operation can be repeated: one whose answer was lost is asked again.
pub trait Users: Send + Sync + fmt::Debug {
    /// Whether a login would succeed now.
    fn probe(&self) -> BoxFuture<'_, Result<(), Failure>>;

    /// Whole or not at all. After a failure the user may exist nevertheless.
    fn create<'a>(&'a self, user: &'a NewUser) -> BoxFuture<'a, Result<(), Failure>>;

    /// Another password for a user that exists.
    fn set_password<'a>(&'a self, user: &'a UserName, password: &'a SecretBytes) -> BoxFuture<'a, Result<(), Failure>>;

    /// Lets the user log in for longer.
    fn extend<'a>(&'a self, user: &'a UserName, until: Timestamp) -> BoxFuture<'a, Result<(), Failure>>;

    /// Succeeds once neither the user nor a session of it is there; what it owned goes to the heir.
    fn remove<'a>(&'a self, user: &'a UserName, heir: &'a str) -> BoxFuture<'a, Result<(), Failure>>;

    /// Shows all users that some broker made here, one by one: there may be very many.
    fn list<'a>(&'a self, show: &'a mut (dyn FnMut(Tagged) + Send)) -> BoxFuture<'a, Result<(), Failure>>;

    /// How it has answered so far.
    fn account(&self) -> Account;
}

#[derive(Clone, Debug, Default)]
pub struct Account {
    /// When it last did what it was asked.
    pub success: Option<Timestamp>,
    /// Cleared by the next success.
    pub failure: Option<Failure>,
}

impl Account {
    pub fn is_in_doubt(&self) -> bool {
        self.success.is_none() || self.failure.is_some()
    }
}

#[allow(missing_debug_implementations, reason = "holds a secret")]
pub struct NewUser {
    pub name: UserName,
    pub password: SecretBytes,
    pub until: Timestamp,
    pub groups: Vec<String>,
    pub connection_limit: u32,
    pub search_path: Vec<String>,
    pub tag: Tag,
}

/// A user's name, always of our own making: `kf_{role}_{random}` from letters, digits and underscores.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(Arc<str>);

const USER_PREFIX: &str = "kf_";
/// What is left of a role's id; PostgreSQL cuts names at 63 bytes.
const ROLE_LENGTH: usize = 32;
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

impl UserName {
    /// A name that nobody has had.
    pub fn generate(role: &str) -> Result<Self, Failure> {
        let role: String = role.chars().take(ROLE_LENGTH).map(|c| if c == '-' { '_' } else { c }).collect();
        Ok(Self(format!("{USER_PREFIX}{role}_{}", random_text::<20>()?).into()))
    }

    /// From a record or a database. `None`: not one of ours.
    pub fn parse(name: &str) -> Option<Self> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let rest = name.strip_prefix(USER_PREFIX)?;
        (!rest.is_empty() && name.len() <= 63 && rest.chars().all(allowed)).then(|| Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UserName {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::parse(&name).ok_or("not the name of a user that a broker made")
    }
}

impl From<UserName> for String {
    fn from(name: UserName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A password that nobody has had: handed out once, stored nowhere.
pub(crate) fn new_password() -> Result<SecretBytes, Failure> {
    Ok(SecretBytes::new(random_text::<32>()?.into_bytes()))
}

fn random_text<const LENGTH: usize>() -> Result<String, Failure> {
    let mut bytes = [0; LENGTH];
    fill_random(&mut bytes)?;
    Ok(bytes.iter().map(|byte| char::from(BASE32[usize::from(byte % 32)])).collect())
}

pub(super) fn fill_random(bytes: &mut [u8]) -> Result<(), Failure> {
    rand::fill(bytes).map_err(|error| {
        Failure::new(Reason::Internal, "the system has no random numbers; report this").caused_by(error)
    })
}

/// What a user in the database says of itself, so that an audit there leads back here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Which brokers made it: those that share one state. Others leave it alone.
    pub deployment: String,
    pub lease: LeaseName,
    /// The bare id.
    pub role: String,
    pub caller: String,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keyferry {} {} {} {}", self.deployment, self.lease.id(), self.role, self.caller)
    }
}

impl Tag {
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(5, ' ');
        let mut next = || parts.next().map(ToOwned::to_owned);
        let (mark, deployment, lease, role, caller) = (next()?, next()?, next()?, next()?, next()?);
        let lease = LeaseName::from_id(&lease).ok()?;
        (mark == "keyferry").then_some(Self { deployment, lease, role, caller })
    }
}

/// A user as a sweep finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tagged {
    pub name: UserName,
    pub tag: Tag,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn makes_names_that_fit_and_need_no_quoting() {
        for role in ["reader", "a-very-long-role-name-that-nobody-should-give-but-somebody-will-1"] {
            let name = UserName::generate(role).unwrap();
            assert_eq!(UserName::parse(name.as_str()), Some(name.clone()));
            assert_ne!(UserName::generate(role).unwrap(), name);
        }
        for foreign in ["postgres", "kf_", "kf_A", "kf_a\"; drop", "kf-a", "kf_a'"] {
            assert_eq!(UserName::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn reads_its_tags_and_no_other_comment() {
        let tag = Tag {
            deployment: "d1".into(),
            lease: LeaseName::from_id("0a").unwrap(),
            role: "r".into(),
            caller: "x509/a b ' \\".into(),
        };
        assert_eq!(Tag::parse(&tag.to_string()), Some(tag));
        for comment in ["", "keyferry", "keyferry d1 0a r", "keyferry d1 NOT r x", "the boss's account"] {
            assert_eq!(Tag::parse(comment), None, "{comment}");
        }
    }
}
