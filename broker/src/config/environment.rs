//! `KEYFERRY_*` variables, which override the file.

use std::collections::BTreeMap;

use super::problem::Place;
use crate::suggestion::nearest;

pub(super) const PREFIX: &str = "KEYFERRY_";

/// Read by the program before there is a configuration, or by its verbs that call a broker.
pub(super) const RESERVED: [&str; 7] = [
    "KEYFERRY_CONFIG",
    "KEYFERRY_SERVER",
    "KEYFERRY_CA",
    "KEYFERRY_CERT",
    "KEYFERRY_KEY",
    "KEYFERRY_TOKEN_FILE",
    "KEYFERRY_PROFILE",
];

/// The variables of this process; a name that is not Unicode cannot be one of ours.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
}

#[derive(Default)]
pub(super) struct Environment {
    values: BTreeMap<String, String>,
    /// Which key each variable stands for.
    keys: BTreeMap<String, String>,
}

impl Environment {
    pub(super) fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let values = variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
        Self { values, keys: BTreeMap::new() }
    }

    pub(super) fn get(&self, variable: &str) -> Option<&str> {
        self.values.get(variable).map(String::as_str)
    }

    /// `[stores.a] key_file` and `[stores.a-key] file` share a variable; nobody can tell which one it means.
    pub(super) fn declare(&mut self, variable: &str, key: &str) -> Option<(Place, String)> {
        let other = self.keys.insert(variable.to_owned(), key.to_owned())?;
        let set = other != key && self.values.contains_key(variable);
        set.then(|| {
            let message = format!("means both {other} and {key}; set them in the file instead");
            (Place::Variable(variable.to_owned()), message)
        })
    }

    pub(super) fn unknown(&self) -> Vec<(Place, String)> {
        let unknown = self.values.iter().filter(|(name, value)| {
            !self.keys.contains_key(*name) && !RESERVED.contains(&name.as_str()) && !is_service_link(name, value)
        });
        let message = |name: &str| match nearest(name, self.keys.keys().map(String::as_str)) {
            Some(near) => format!("no key has this variable; did you mean {near}?"),
            None => "no key has this variable; unset it, or see the configuration reference".to_owned(),
        };
        unknown.map(|(name, _)| (Place::Variable(name.clone()), message(name))).collect()
    }
}

pub(super) fn variable(section: &str, key: &str) -> String {
    let name = format!("{PREFIX}{section}_{key}");
    name.chars().map(|c| if c == '-' || c == '.' { '_' } else { c.to_ascii_uppercase() }).collect()
}

/// Kubernetes describes a service called `keyferry` or `keyferry-…` to every pod in variables of our prefix.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    if name.ends_with("_SERVICE_HOST") || (name.ends_with("_PORT") && is_url) {
        return true;
    }
    if name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return is_port(value);
    }
    let Some((_, port)) = name.rsplit_once("_PORT_").filter(|(_, port)| !is_port(port)) else {
        return false;
    };
    let mut parts = port.split('_');
    parts.next().is_some_and(is_port) && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
}
