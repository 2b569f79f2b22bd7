//! What a subscriber watches.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::names::{NameError, SecretName};
use crate::secrets::Labels;

const MAX_NAMES: usize = 1000;
const MAX_PREFIXES: usize = 16;
const MAX_LABELS: usize = 16;
/// Of a prefix, and of a label's key and value each.
const MAX_TEXT: usize = 512;
/// What every secret's name begins with.
const ROOT: &str = "stores/";

/// A secret matches when it is named or has one of the prefixes, where there are any, and carries all the labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Sorted, each once.
    names: Vec<SecretName>,
    prefixes: Vec<String>,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum FilterError {
    #[error("selects nothing; write names, labels, or prefixes, of which \"stores/\" takes in all that you may see")]
    Empty,
    #[error("takes at most {MAX_NAMES} names, {MAX_PREFIXES} prefixes and {MAX_LABELS} labels")]
    TooMany,
    #[error("has the name {0:?}, which {1}")]
    Name(String, #[source] NameError),
    #[error(
        "has a prefix that does not begin with \"stores/\"; write as much of stores/{{store}}/secrets/{{secret}} as you like"
    )]
    Prefix,
    #[error("has a prefix or a label of over {MAX_TEXT} bytes, or a label without a key")]
    Text,
}

impl Filter {
    pub fn new(names: &[String], prefixes: Vec<String>, labels: BTreeMap<String, String>) -> Result<Self, FilterError> {
        if names.is_empty() && prefixes.is_empty() && labels.is_empty() {
            return Err(FilterError::Empty);
        }
        if names.len() > MAX_NAMES || prefixes.len() > MAX_PREFIXES || labels.len() > MAX_LABELS {
            return Err(FilterError::TooMany);
        }
        if prefixes.iter().any(|prefix| !prefix.starts_with(ROOT)) {
            return Err(FilterError::Prefix);
        }
        let sound = |(key, value): (&String, &String)| !key.is_empty() && key.len().max(value.len()) <= MAX_TEXT;
        if prefixes.iter().any(|prefix| prefix.len() > MAX_TEXT) || !labels.iter().all(sound) {
            return Err(FilterError::Text);
        }
        let parse = |name: &String| {
            SecretName::parse(name).map_err(|error| FilterError::Name(name.chars().take(MAX_TEXT).collect(), error))
        };
        let mut names = names.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        names.sort_unstable();
        names.dedup();
        Ok(Self { names, prefixes, labels })
    }

    /// Exactly these.
    pub fn of(names: impl Iterator<Item = SecretName>) -> Self {
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names.dedup();
        Self { names, prefixes: Vec::new(), labels: BTreeMap::new() }
    }

    /// Those that are named; the caller is told when it may not see one.
    pub fn names(&self) -> &[SecretName] {
        &self.names
    }

    /// All that it is made of.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let names = self.names.iter().map(SecretName::as_str);
        let labels = self.labels.iter().flat_map(|(key, value)| [key, value]);
        names.chain(self.prefixes.iter().chain(labels).map(String::as_str))
    }

    /// For the record of the call: all of it, as far as it is short.
    pub fn shown(&self) -> String {
        const MOST: usize = 512;
        let names = self.names.iter().map(SecretName::as_str);
        let prefixes = self.prefixes.iter().map(|prefix| format!("{prefix}*"));
        let labels = self.labels.iter().map(|(key, value)| format!("{key}={value}"));
        let parts = names.map(str::to_owned).chain(prefixes).chain(labels);
        let mut shown = String::new();
        for part in parts {
            if shown.len() + part.len() > MOST {
                shown.push_str(" …");
                break;
            }
            if !shown.is_empty() {
                shown.push(' ');
            }
            shown.push_str(&part);
        }
        shown
    }

    /// Whether secrets match that are not named.
    pub fn is_open(&self) -> bool {
        !self.prefixes.is_empty() || self.names.is_empty()
    }

    pub fn reads_labels(&self) -> bool {
        !self.labels.is_empty()
    }

    /// By name alone; the labels are another question.
    pub fn takes_in(&self, secret: &SecretName) -> bool {
        (self.names.is_empty() && self.prefixes.is_empty())
            || self.names.binary_search(secret).is_ok()
            || self.prefixes.iter().any(|prefix| secret.as_str().starts_with(prefix))
    }

    pub fn accepts(&self, labels: &Labels) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// The one store that all of it lies in, if it is one.
    pub fn store(&self) -> Option<&str> {
        let mut stores =
            self.prefixes.iter().map(|prefix| prefix[ROOT.len()..].split_once('/').map(|(store, _)| store));
        let first = stores.next()??;
        stores.all(|store| store == Some(first)).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(names: &[&str], prefixes: &[&str], labels: &[(&str, &str)]) -> Result<Filter, FilterError> {
        Filter::new(
            &names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(),
            prefixes.iter().map(|&prefix| prefix.to_owned()).collect(),
            labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
        )
    }

    fn secret(id: &str) -> SecretName {
        SecretName::parse(&format!("stores/a/secrets/{id}")).unwrap()
    }

    #[test]
    fn names_and_prefixes_widen_it_and_labels_narrow_it() {
        let both = filter(&["stores/a/secrets/x"], &["stores/a/secrets/db-"], &[]).unwrap();
        assert!(both.takes_in(&secret("x")) && both.takes_in(&secret("db-1")) && !both.takes_in(&secret("y")));
        let labels = filter(&[], &[], &[("team", "pay")]).unwrap();
        assert!(labels.takes_in(&secret("x")) && labels.is_open() && labels.reads_labels());
        let carried = |pairs: &[(&str, &str)]| {
            let owned = pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
            labels.accepts(&Labels::new(owned.collect()))
        };
        assert!(carried(&[("team", "pay"), ("tier", "1")]));
        assert!(!carried(&[("team", "payroll")]) && !carried(&[]));
    }

    #[test]
    fn a_name_that_begins_like_another_is_not_that_other() {
        let named = filter(&["stores/a/secrets/x"], &[], &[]).unwrap();
        assert!(!named.takes_in(&secret("xy")) && !named.is_open());
    }

    #[test]
    fn what_selects_nothing_or_too_much_is_refused() {
        assert_eq!(filter(&[], &[], &[]), Err(FilterError::Empty));
        assert_eq!(filter(&[], &["secrets/"], &[]), Err(FilterError::Prefix));
        assert_eq!(filter(&[], &[""], &[]), Err(FilterError::Prefix));
        assert_eq!(filter(&[], &["stores/"; 17], &[]), Err(FilterError::TooMany));
        assert_eq!(filter(&["stores/a/secrets/x"; 1001], &[], &[]), Err(FilterError::TooMany));
        assert_eq!(filter(&[], &[], &[("", "x")]), Err(FilterError::Text));
        assert_eq!(filter(&[], &[&format!("stores/{}", "x".repeat(512))], &[]), Err(FilterError::Text));
        assert!(matches!(filter(&["stores/a/secrets/*"], &[], &[]), Err(FilterError::Name(..))));
    }

    #[test]
    fn prefixes_within_one_store_are_known_to_be() {
        let store = |prefixes: &[&str]| filter(&[], prefixes, &[]).unwrap().store().map(str::to_owned);
        assert_eq!(store(&["stores/a/secrets/x", "stores/a/"]), Some("a".to_owned()));
        assert_eq!(store(&["stores/a/", "stores/ab/"]), None);
        assert_eq!(store(&["stores/a"]), None, "it may go on as stores/ab");
        assert_eq!(store(&["stores/"]), None);
    }
}
