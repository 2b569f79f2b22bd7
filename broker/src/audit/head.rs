//! The signed file `head`: the newest checkpoint known to be on the disk.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::key::{PublicKeys, SigningKey};
use super::line::Hash;
use crate::clock::Timestamp;

const NAME: &str = "head";
const MAX_SIZE: u64 = 4096;

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    pub(super) node: String,
    /// The checkpoint's own line; zero for a log that has none yet.
    pub(super) seq: u64,
    hash: String,
    time: String,
    pub(super) key: String,
    signature: String,
}

/// Why a head was not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    Missing,
    Unreadable,
    UnknownKey,
    BadSignature,
}

impl Head {
    pub(super) fn sign(key: &SigningKey, node: &str, seq: u64, hash: &Hash, time: Timestamp) -> Self {
        let mut head = Self {
            node: node.to_owned(),
            seq,
            hash: URL_SAFE_NO_PAD.encode(hash),
            time: time.to_string(),
            key: key.id().to_owned(),
            signature: String::new(),
        };
        head.signature = URL_SAFE_NO_PAD.encode(key.sign(&head.message()));
        head
    }

    pub(super) fn load(directory: &Path, keys: &PublicKeys) -> Result<Self, Defect> {
        let path = directory.join(NAME);
        match std::fs::metadata(&path) {
            Ok(found) if found.is_file() && found.len() <= MAX_SIZE => {}
            Ok(_) => return Err(Defect::Unreadable),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Defect::Missing),
            Err(_) => return Err(Defect::Unreadable),
        }
        let bytes = std::fs::read(path).map_err(|_| Defect::Unreadable)?;
        let head: Self = serde_json::from_slice(&bytes).map_err(|_| Defect::Unreadable)?;
        head.hash().ok_or(Defect::Unreadable)?;
        if !keys.knows(&head.key) {
            return Err(Defect::UnknownKey);
        }
        let signature = URL_SAFE_NO_PAD.decode(&head.signature).map_err(|_| Defect::BadSignature)?;
        if keys.verify(&head.key, &head.message(), &signature) { Ok(head) } else { Err(Defect::BadSignature) }
    }

    /// Replaces the head in one step, so that a reader sees the old or the new one.
    pub(super) fn store(&self, directory: &Path) -> io::Result<()> {
        let temporary = directory.join("head.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_data()?;
        std::fs::rename(temporary, directory.join(NAME))
    }

    pub(super) fn hash(&self) -> Option<Hash> {
        URL_SAFE_NO_PAD.decode(&self.hash).ok()?.try_into().ok()
    }

    fn message(&self) -> Vec<u8> {
        // JSON keeps the parts apart, whatever the node is called.
        let parts = serde_json::json!(["keyferry audit head 1", self.node, self.seq, self.hash, self.time]);
        parts.to_string().into_bytes()
    }
}
