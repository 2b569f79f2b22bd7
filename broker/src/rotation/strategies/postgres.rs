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

/// Which of the two users gets the next password: one whose credential is in nobody's hands.
#[derive(Debug)]
pub struct Turns<'a> {
    users: &'a [String; 2],
    /// Of each user, a version that is for it and can be read.
    held: [Option<String>; 2],
    /// A current version cannot be read, so that it is not known for whom it is.
    is_shut: bool,
}

impl<'a> Turns<'a> {
    pub fn new(users: &'a [String; 2]) -> Self {
        Self { users, held: [None, None], is_shut: false }
    }

    /// A version that can be read. Only the current one has to be for one of the two.
    pub fn in_use(&mut self, credential: Option<&Credential>, is_current: bool, version: &str) -> Result<(), Failure> {
        let user = credential.and_then(|credential| self.users.iter().position(|user| *user == credential.user));
        match user.and_then(|user| self.held.get_mut(user)) {
            Some(held) => *held = Some(version.to_owned()),
            None if is_current => return Err(foreign()),
            None => {}
        }
        Ok(())
    }

    /// A version that is disabled or destroyed.
    pub fn out_of_use(&mut self, is_current: bool) {
        self.is_shut |= is_current;
    }

    /// The next user, and the one whose turn ends.
    pub fn whose_next(&self) -> Result<(&'a str, Option<&'a str>), Failure> {
        let [first, second] = self.users;
        match &self.held {
            [None, None] => Ok((first, self.is_shut.then_some(second))),
            [Some(_), None] => Ok((second, Some(first))),
            [None, Some(_)] => Ok((first, Some(second))),
            [Some(one), Some(other)] => {
                let message = format!(
                    "{one} is for the user {first} and {other} for {second}; both can be read, so that the next password \
                     would cut off whoever uses one of them; disable the one that nobody uses any more, and rotate again"
                );
                Err(Failure::new(Reason::RotationState, message))
            }
        }
    }
}

/// Whoever the current value is for, it could not be seen to that it ends.
fn foreign() -> Failure {
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

    fn turns<'a>(users: &'a [String; 2], versions: &[(&str, bool)]) -> Result<(&'a str, Option<&'a str>), Failure> {
        let mut turns = Turns::new(users);
        for (user, is_current) in versions {
            let credential = Credential { user: (*user).to_owned(), password: Zeroizing::default() };
            turns.in_use(Some(&credential), *is_current, user)?;
        }
        turns.whose_next()
    }

    #[test]
    fn users_take_turns() {
        let users = ["a".to_owned(), "b".to_owned()];
        assert_eq!(turns(&users, &[]).unwrap(), ("a", None));
        assert_eq!(turns(&users, &[("a", true)]).unwrap(), ("b", Some("a")));
        assert_eq!(turns(&users, &[("b", true), ("b", false), ("c", false)]).unwrap(), ("a", Some("b")));
        assert_eq!(turns(&users, &[("c", true)]).unwrap_err().reason(), Reason::RotationNotConfigured);
    }

    #[test]
    fn nobody_s_password_is_changed_while_a_version_for_it_can_be_read() {
        let users = ["a".to_owned(), "b".to_owned()];
        for versions in [[("b", true), ("a", false)], [("a", true), ("b", true)]] {
            let refusal = turns(&users, &versions).unwrap_err();
            assert_eq!(refusal.reason(), Reason::RotationState);
            assert!(refusal.message().contains("disable the one"), "{refusal}");
        }
    }

    #[test]
    fn a_disabled_version_keeps_its_user_from_nothing_and_the_other_one_ends() {
        let users = ["a".to_owned(), "b".to_owned()];
        let mut turns = Turns::new(&users);
        turns.out_of_use(true);
        assert_eq!(turns.whose_next().unwrap(), ("a", Some("b")), "either may be the one that was taken out of use");
    }
}
