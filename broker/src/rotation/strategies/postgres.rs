//! A password of PostgreSQL, with two users that take turns: while one is in use, the other gets a new password.

use std::fmt::Write as _;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::error::{Failure, Reason};
use crate::secrets::SecretBytes;

/// The seam to the database that the users are in. Every operation can be repeated.
pub trait Logins: Send + Sync + std::fmt::Debug {
    /// From now on the user logs in with this password and no other.
    fn admit<'a>(&'a self, user: &'a str, password: &'a SecretBytes) -> BoxFuture<'a, Result<(), Failure>>;

    /// Whether a login as this user succeeds.
    fn prove<'a>(&'a self, user: &'a str, password: &'a SecretBytes) -> BoxFuture<'a, Result<(), Failure>>;

    /// Succeeds once the user cannot log in and has no session.
    fn expel<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<(), Failure>>;
}

/// How the secret's value tells the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueFormat {
    /// An object of `user`, `password`, `host`, `port` and `database`.
    Json,
    /// `postgresql://…`
    Url,
}

/// Where the credential is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub host: String,
    pub port: u16,
    pub database: String,
}

#[allow(missing_debug_implementations, reason = "holds a secret")]
#[derive(PartialEq, Eq)]
pub struct Credential {
    pub user: String,
    pub password: Zeroizing<String>,
}

impl ValueFormat {
    pub fn write(self, credential: &Credential, place: &Place) -> SecretBytes {
        let Credential { user, password } = credential;
        let Place { host, port, database } = place;
        let mut text = Zeroizing::new(String::with_capacity(4 * (user.len() + host.len() + database.len()) + 512));
        // Writing to a string cannot fail.
        let _ = match self {
            Self::Json => {
                let [user, host, database] = [user, host, database].map(|text| serde_json::Value::from(text.as_str()));
                // Of letters and digits, as every password that is made here.
                let password = password.as_str();
                write!(
                    text,
                    r#"{{"user":{user},"password":"{password}","host":{host},"port":{port},"database":{database}}}"#
                )
            }
            Self::Url => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                let (user, database) = (escaped(user), escaped(database));
                let password = password.as_str();
                write!(text, "postgresql://{user}:{password}@{host}:{port}/{database}?sslmode=verify-full")
            }
        };
        SecretBytes::new(text.as_bytes().to_vec())
    }
}

impl Credential {
    pub fn new(user: String, password: &SecretBytes) -> Self {
        Self { user, password: Zeroizing::new(String::from_utf8_lossy(password.expose()).into_owned()) }
    }

    /// Of a value in either format, whoever wrote it.
    pub fn read(value: &SecretBytes) -> Option<Self> {
        let text = std::str::from_utf8(value.expose()).ok()?.trim();
        if text.starts_with('{') { Self::of_json(text) } else { Self::of_url(text) }
    }

    pub fn password(&self) -> SecretBytes {
        SecretBytes::new(self.password.as_bytes().to_vec())
    }

    fn of_json(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Value {
            user: String,
            password: Zeroized,
        }
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Zeroized(String);
        let Value { user, password } = serde_json::from_str(text).ok()?;
        Some(Self { user, password: Zeroizing::new(password.0) })
    }

    fn of_url(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"))?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let (user, password) = authority.rsplit_once('@')?.0.split_once(':')?;
        Some(Self { user: unescaped(user)?, password: Zeroizing::new(unescaped(password)?) })
    }
}

/// The user whose turn it is, given the one in use; the first, where none is.
pub fn idle<'a>(users: &'a [String; 2], in_use: Option<&str>) -> Result<&'a str, Failure> {
    let [first, second] = users;
    match in_use {
        None => Ok(first),
        Some(user) if user == first => Ok(second),
        Some(user) if user == second => Ok(first),
        Some(_) => Err(foreign()),
    }
}

/// Whoever the current value is for, it could not be seen to that it ends.
pub fn foreign() -> Failure {
    let message = "the secret's current value names neither of the rotation's users; add a version that is the \
                   credential of one of them, and rotate again";
    Failure::new(Reason::RotationNotConfigured, message)
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            escaped.push(byte.into());
        } else {
            // Writing to a string cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(match byte {
            b'%' => digit(rest.next()?)? << 4 | digit(rest.next()?)?,
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: &str) -> Place {
        Place { host: host.to_owned(), port: 5432, database: "a b".to_owned() }
    }

    #[test]
    fn a_credential_comes_back_from_either_format() {
        for user in ["app_a", "a\"b\\", "ä:@/?#%x", "{"] {
            let credential = Credential { user: user.to_owned(), password: Zeroizing::new("abc234".to_owned()) };
            for format in [ValueFormat::Json, ValueFormat::Url] {
                let read = Credential::read(&format.write(&credential, &place("db"))).unwrap();
                assert_eq!((read.user.as_str(), read.password.as_str()), (user, "abc234"));
            }
        }
    }

    #[test]
    fn values_are_what_clients_expect() {
        let credential = Credential { user: "app_a".to_owned(), password: Zeroizing::new("p".to_owned()) };
        let json = ValueFormat::Json.write(&credential, &place("db"));
        let json: serde_json::Value = serde_json::from_slice(json.expose()).unwrap();
        let expected =
            serde_json::json!({"user": "app_a", "password": "p", "host": "db", "port": 5432, "database": "a b"});
        assert_eq!(json, expected);
        let url = ValueFormat::Url.write(&credential, &place("::1"));
        assert_eq!(url.expose(), b"postgresql://app_a:p@[::1]:5432/a%20b?sslmode=verify-full");
    }

    #[test]
    fn what_people_write_by_hand_is_read_too() {
        for value in [
            "postgres://app_a:p%40ss@db/x",
            " postgresql://app_a:p%40ss@db:5432/x?sslmode=require#y\n",
            r#"{"password": "p@ss", "user": "app_a", "more": [1]}"#,
        ] {
            let read = Credential::read(&SecretBytes::new(value.as_bytes().to_vec())).unwrap();
            assert_eq!((read.user.as_str(), read.password.as_str()), ("app_a", "p@ss"), "{value}");
        }
        for value in [
            "",
            "{",
            "{}",
            "hunter2",
            "postgres://db/x",
            "postgres://app_a@db",
            "mysql://a:b@c",
            "\u{0}",
            "{\"user\":1}",
        ] {
            assert!(Credential::read(&SecretBytes::new(value.as_bytes().to_vec())).is_none(), "{value}");
        }
    }

    #[test]
    fn users_take_turns() {
        let users = ["a".to_owned(), "b".to_owned()];
        assert_eq!(idle(&users, None).unwrap(), "a");
        assert_eq!(idle(&users, Some("a")).unwrap(), "b");
        assert_eq!(idle(&users, Some("b")).unwrap(), "a");
        assert_eq!(idle(&users, Some("c")).unwrap_err().reason(), Reason::RotationNotConfigured);
    }
}
