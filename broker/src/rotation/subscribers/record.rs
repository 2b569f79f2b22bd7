//! A subscriber, as it is kept in the state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::clock::Timestamp;
use crate::names::SecretName;
use crate::rotation::watch::Filter;
use crate::state::{Kind, Record};

pub static SUBSCRIBERS: Kind = Kind { name: "subscribers", upgrades: &[] };

/// Who watches, under the name that it gave itself, and what it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscriber {
    /// The caller's id.
    pub caller: Arc<str>,
    pub name: SubscriberName,
    pub way: Way,
    pub filter: Filter,
    pub stream: Option<Stream>,
    /// Of a stream that is open: when it was opened.
    pub last_seen: Timestamp,
    /// The last that it was sent, when this was written.
    pub revision: u64,
    pub runs: BTreeMap<SecretName, Runs>,
    /// Of the secrets that are rotated, those that it holds no version of though its filter takes them in: it may not
    /// read them, or asks for other labels.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub excused: BTreeSet<SecretName>,
}

/// What a caller tells its subscribers apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SubscriberName(Arc<str>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    Watch,
    /// The secret discovery service, whose ACK acknowledges.
    Envoy,
    /// A gateway whose named values the broker refreshes.
    ApiManagement,
}

/// An open stream. A newer one of the same subscriber takes its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    pub node: String,
    /// Unique among all streams of all replicas.
    pub session: Session,
    pub since: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Session(pub u64);

/// What it runs of one secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runs {
    /// Absent: it has refused one and never taken one.
    pub version: Option<Arc<str>>,
    pub since: Timestamp,
    pub refused: Option<Refused>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    pub version: Arc<str>,
    pub why: String,
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "is not made of 1 to 63 lower-case letters, digits, \".\", \"_\" and \"-\", with a letter or digit at both ends"
)]
pub struct SubscriberNameError;

impl Record for Subscriber {
    const KIND: &'static Kind = &SUBSCRIBERS;
}

impl Subscriber {
    /// Somebody who was not heard of before.
    pub(super) fn new(caller: Arc<str>, name: SubscriberName, filter: Filter, now: Timestamp) -> Self {
        let (runs, excused) = (BTreeMap::new(), BTreeSet::new());
        Self { caller, name, way: Way::Watch, filter, stream: None, last_seen: now, revision: 0, runs, excused }
    }

    /// About what it takes in memory, and in the state at most.
    pub(super) fn weight(&self) -> usize {
        const EACH: usize = 64;
        let runs = self.runs.iter().map(|(secret, runs)| {
            let refused = runs.refused.as_ref().map_or(0, |refused| refused.version.len() + refused.why.len());
            secret.as_str().len() + runs.version.as_ref().map_or(0, |version| version.len()) + refused + EACH
        });
        let excused = self.excused.iter().map(|secret| secret.as_str().len() + EACH);
        let texts = self.filter.texts().map(|text| text.len() + EACH);
        self.caller.len() + self.name.as_str().len() + 4 * EACH + runs.chain(excused).chain(texts).sum::<usize>()
    }

    pub fn is_streamed_as(&self, session: Session) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.session == session)
    }

    /// The last word counts, also when it goes back to an older version.
    pub(super) fn takes(&mut self, secret: SecretName, version: Arc<str>, now: Timestamp) {
        let runs = self.runs(secret, now);
        if runs.version.as_ref() != Some(&version) {
            runs.since = now;
        }
        runs.version = Some(version);
        runs.refused = None;
    }

    pub(super) fn refuses(&mut self, secret: SecretName, version: Arc<str>, why: &str, now: Timestamp) {
        self.runs(secret, now).refused = Some(Refused { version, why: why.to_owned() });
    }

    fn runs(&mut self, secret: SecretName, now: Timestamp) -> &mut Runs {
        self.runs.entry(secret).or_insert(Runs { version: None, since: now, refused: None })
    }
}

impl SubscriberName {
    pub fn parse(text: &str) -> Result<Self, SubscriberNameError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let inner = |byte: u8| plain(byte) || matches!(byte, b'.' | b'_' | b'-');
        let bytes = text.as_bytes();
        let ends = bytes.first().zip(bytes.last()).is_some_and(|(&first, &last)| plain(first) && plain(last));
        if ends && bytes.len() <= 63 && bytes.iter().all(|&byte| inner(byte)) {
            Ok(Self(text.into()))
        } else {
            Err(SubscriberNameError)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SubscriberName {
    type Error = SubscriberNameError;

    fn try_from(text: String) -> Result<Self, SubscriberNameError> {
        Self::parse(&text)
    }
}

impl From<SubscriberName> for String {
    fn from(name: SubscriberName) -> Self {
        name.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_follows_the_contract_s_grammar() {
        for good in ["a", "0", "a.b_c-d", &"x".repeat(63)] {
            assert_eq!(SubscriberName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a.", "A", "a b", "ä", "a/b", &"x".repeat(64)] {
            assert_eq!(SubscriberName::parse(bad), Err(SubscriberNameError), "{bad:?}");
        }
    }

    #[test]
    fn a_refusal_leaves_what_it_runs_and_an_acceptance_clears_it() {
        let (early, late) = (Timestamp::from_secs(1), Timestamp::from_secs(2));
        let filter = Filter::new(&[], vec!["stores/".to_owned()], BTreeMap::new()).unwrap();
        let mut subscriber = Subscriber::new("x509/a".into(), SubscriberName::parse("a").unwrap(), filter, early);
        let secret = SecretName::parse("stores/a/secrets/s").unwrap();
        subscriber.takes(secret.clone(), "1".into(), early);
        subscriber.refuses(secret.clone(), "2".into(), "no room", late);
        let refused = subscriber.runs[&secret].clone();
        assert_eq!((refused.version.as_deref(), refused.since), (Some("1"), early));
        assert_eq!(refused.refused, Some(Refused { version: "2".into(), why: "no room".to_owned() }));
        subscriber.takes(secret.clone(), "1".into(), late);
        let again = Runs { version: Some("1".into()), since: early, refused: None };
        assert_eq!(subscriber.runs[&secret], again, "it has run it all along");
        subscriber.takes(secret.clone(), "2".into(), late);
        assert_eq!(subscriber.runs[&secret].since, late);
    }
}
