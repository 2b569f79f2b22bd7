//! What lies where in etcd.

use crate::state::failure::StateError;
use crate::state::key::{Key, Prefix};

#[derive(Debug)]
pub(super) struct Layout {
    root: String,
}

impl Layout {
    pub(super) fn new(prefix: &str) -> Self {
        Self { root: format!("{prefix}/") }
    }

    pub(super) fn epoch(&self) -> Vec<u8> {
        self.name("epoch", "")
    }

    pub(super) fn leader(&self) -> Vec<u8> {
        self.name("leader", "")
    }

    pub(super) fn nodes(&self) -> Vec<u8> {
        self.name("nodes/", "")
    }

    pub(super) fn node(&self, node: &str) -> Vec<u8> {
        self.name("nodes/", node)
    }

    pub(super) fn records(&self) -> Vec<u8> {
        self.name("records/", "")
    }

    pub(super) fn record(&self, key: &Key) -> Vec<u8> {
        self.name("records/", key.as_str())
    }

    pub(super) fn key(&self, name: &[u8]) -> Result<Key, StateError> {
        let text = name.strip_prefix(&*self.records()).and_then(|rest| str::from_utf8(rest).ok());
        let foreign =
            StateError::Unavailable("a key under its prefix is not Keyferry's; give it a prefix of its own", None);
        Key::parse(text.ok_or(foreign.clone())?).map_err(|_| foreign)
    }

    /// From the first name after `after` to the first that no longer has the prefix.
    pub(super) fn range(&self, prefix: &Prefix, after: Option<&Key>) -> (Vec<u8>, Vec<u8>) {
        let first = self.name("records/", prefix.as_str());
        let mut end = first.clone();
        // It ends with `/`, whose successor is another byte of the grammar's alphabet.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let from = after.map_or_else(Vec::new, |after| [self.record(after), vec![0]].concat());
        (from.max(first), end)
    }

    fn name(&self, place: &str, rest: &str) -> Vec<u8> {
        format!("{}{place}{rest}", self.root).into_bytes()
    }
}
