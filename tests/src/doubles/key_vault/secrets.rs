//! What the vault keeps: secrets by name regardless of case, each with its versions, live or deleted.

use std::collections::BTreeMap;

use aws_lc_rs::rand;
use keyferry_broker::clock::{Clock as _, SystemClock};
use serde_json::{Map, Value, json};

use super::HOST;
use super::refusal::Refusal;

const MAX_VALUE: usize = 25_600;
const MAX_TAGS: usize = 15;
const MAX_PAGE: usize = 25;
const RETENTION_DAYS: u64 = 90;

#[derive(Debug, Default)]
pub(super) struct Secrets {
    /// By name in lower case.
    live: BTreeMap<String, Secret>,
    deleted: BTreeMap<String, (Secret, u64)>,
    last_write: u64,
}

#[derive(Debug)]
struct Secret {
    /// As it was spelt first.
    name: String,
    /// The oldest first.
    versions: Vec<Version>,
}

#[derive(Debug)]
struct Version {
    id: String,
    value: String,
    content_type: Option<String>,
    tags: Map<String, Value>,
    enabled: bool,
    not_before: Option<u64>,
    expires: Option<u64>,
    created: u64,
    updated: u64,
}

/// One page of a list, and where the next begins.
pub(super) struct Part {
    pub(super) items: Vec<Value>,
    pub(super) next: Option<usize>,
}

impl Secrets {
    /// Values of versions that are not valid yet or no more are handed out, as Azure does.
    pub(super) fn get(&self, name: &str, version: Option<&str>) -> Result<Value, Refusal> {
        let (secret, version) = self.find(name, version)?;
        if !version.enabled {
            return Err(Refusal::forbidden("SecretDisabled"));
        }
        let mut bundle = version.bundle(secret);
        bundle["value"] = json!(version.value);
        Ok(bundle)
    }

    pub(super) fn set(&mut self, name: &str, body: &Value) -> Result<Value, Refusal> {
        let value = body["value"].as_str().ok_or_else(|| Refusal::bad_parameter("The value is missing."))?;
        if value.len() > MAX_VALUE {
            return Err(Refusal::bad_parameter("The value is too long."));
        }
        if self.deleted.contains_key(&key(name)) {
            return Err(Refusal::conflict("ObjectIsDeletedButRecoverable"));
        }
        let now = self.tick();
        let mut version = Version {
            id: new_id(),
            value: value.to_owned(),
            content_type: None,
            tags: Map::new(),
            enabled: true,
            not_before: None,
            expires: None,
            created: now,
            updated: now,
        };
        version.change(body)?;
        let secret = self.live.entry(key(name));
        let secret = secret.or_insert_with(|| Secret { name: name.to_owned(), versions: Vec::new() });
        let mut bundle = version.bundle(secret);
        bundle["value"] = json!(version.value);
        secret.versions.push(version);
        Ok(bundle)
    }

    pub(super) fn update(&mut self, name: &str, version: Option<&str>, body: &Value) -> Result<Value, Refusal> {
        self.find(name, version)?;
        let now = self.tick();
        let secret = self.live.get_mut(&key(name)).unwrap();
        let versions = &mut secret.versions;
        let index = version.map_or(versions.len() - 1, |id| versions.iter().position(|known| known.id == id).unwrap());
        versions[index].change(body)?;
        versions[index].updated = now;
        Ok(secret.versions[index].bundle(secret))
    }

    /// In an order that is none: by the end of the names.
    pub(super) fn list(&self, from: usize, size: usize) -> Part {
        part(self.live.values().map(Secret::item).collect(), from, size)
    }

    /// In an order that is none: that of random ids. Of a secret that is absent there are no versions.
    pub(super) fn versions(&self, name: &str, from: usize, size: usize) -> Part {
        let secret = self.live.get(&key(name));
        let items = secret.map(|secret| secret.versions.iter().map(|version| version.bundle(secret)).collect());
        part(items.unwrap_or_default(), from, size)
    }

    pub(super) fn delete(&mut self, name: &str) -> Result<Value, Refusal> {
        let now = self.tick();
        let secret = self.live.remove(&key(name)).ok_or_else(|| Refusal::not_found(name))?;
        let gone = (secret, now);
        let told = deleted(&gone);
        self.deleted.insert(key(name), gone);
        Ok(told)
    }

    pub(super) fn get_deleted(&self, name: &str) -> Result<Value, Refusal> {
        self.deleted.get(&key(name)).map(deleted).ok_or_else(|| Refusal::not_found(name))
    }

    pub(super) fn list_deleted(&self, from: usize, size: usize) -> Part {
        part(self.deleted.values().map(deleted).collect(), from, size)
    }

    pub(super) fn recover(&mut self, name: &str) -> Result<Value, Refusal> {
        let (secret, _) = self.deleted.remove(&key(name)).ok_or_else(|| Refusal::not_found(name))?;
        let bundle = secret.newest().bundle(&secret);
        self.live.insert(key(name), secret);
        Ok(bundle)
    }

    pub(super) fn purge(&mut self, name: &str) -> Result<(), Refusal> {
        self.deleted.remove(&key(name)).map(drop).ok_or_else(|| Refusal::not_found(name))
    }

    fn find(&self, name: &str, version: Option<&str>) -> Result<(&Secret, &Version), Refusal> {
        let secret = self.live.get(&key(name)).ok_or_else(|| Refusal::not_found(name))?;
        let version = match version {
            None => Some(secret.newest()),
            Some(id) => secret.versions.iter().find(|version| version.id == id),
        };
        Ok((secret, version.ok_or_else(|| Refusal::not_found(name))?))
    }

    /// Azure tells times in seconds, so each write takes one of its own: what was later can be seen.
    fn tick(&mut self) -> u64 {
        self.last_write = SystemClock.now().as_secs().max(self.last_write + 1);
        self.last_write
    }
}

impl Secret {
    fn newest(&self) -> &Version {
        self.versions.last().unwrap()
    }

    /// The newest version, under the secret's own id.
    fn item(&self) -> Value {
        let mut item = self.newest().bundle(self);
        item["id"] = json!(format!("https://{HOST}/secrets/{}", self.name));
        item
    }
}

impl Version {
    /// What is not mentioned stays.
    fn change(&mut self, body: &Value) -> Result<(), Refusal> {
        if let Some(tags) = body["tags"].as_object() {
            if tags.len() > MAX_TAGS {
                return Err(Refusal::bad_parameter("There are too many tags."));
            }
            self.tags.clone_from(tags);
        }
        if let Some(content_type) = body["contentType"].as_str() {
            self.content_type = Some(content_type.to_owned());
        }
        let attributes = &body["attributes"];
        self.enabled = attributes["enabled"].as_bool().unwrap_or(self.enabled);
        self.not_before = attributes["nbf"].as_u64().or(self.not_before);
        self.expires = attributes["exp"].as_u64().or(self.expires);
        Ok(())
    }

    /// Without the value.
    fn bundle(&self, secret: &Secret) -> Value {
        let mut bundle = json!({
            "id": format!("https://{HOST}/secrets/{}/{}", secret.name, self.id),
            "attributes": {
                "enabled": self.enabled, "created": self.created, "updated": self.updated,
                "recoveryLevel": "Recoverable+Purgeable", "recoverableDays": RETENTION_DAYS,
            },
        });
        for (name, time) in [("nbf", self.not_before), ("exp", self.expires)] {
            if let Some(time) = time {
                bundle["attributes"][name] = json!(time);
            }
        }
        if let Some(content_type) = &self.content_type {
            bundle["contentType"] = json!(content_type);
        }
        if !self.tags.is_empty() {
            bundle["tags"] = json!(self.tags);
        }
        bundle
    }
}

fn deleted((secret, when): &(Secret, u64)) -> Value {
    let mut item = secret.item();
    item["recoveryId"] = json!(format!("https://{HOST}/deletedsecrets/{}", secret.name));
    item["deletedDate"] = json!(when);
    item["scheduledPurgeDate"] = json!(when + RETENTION_DAYS * 86_400);
    item
}

fn part(mut items: Vec<Value>, from: usize, size: usize) -> Part {
    items.sort_by_cached_key(|item| item["id"].as_str().unwrap().chars().rev().collect::<String>());
    let end = (from + size.clamp(1, MAX_PAGE)).min(items.len());
    let next = (end < items.len()).then_some(end);
    Part { items: items.drain(from.min(end)..end).collect(), next }
}

fn key(name: &str) -> String {
    name.to_ascii_lowercase()
}

fn new_id() -> String {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).unwrap();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
