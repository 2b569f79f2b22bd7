//! The key that signs checkpoints, and the public keys that verify them.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

/// What precedes the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

#[derive(Debug, Error)]
pub enum KeyError {
    #[error("cannot read the audit key {0}; check that it exists and that Keyferry may read it")]
    Read(PathBuf, #[source] io::Error),
    #[error(
        "cannot create the audit signing key {0}; make its folder writable, or put an Ed25519 key (PKCS#8 PEM) there"
    )]
    Create(PathBuf, #[source] io::Error),
    #[error("{0} is not an Ed25519 private key in PKCS#8 PEM; make one with `openssl genpkey -algorithm ed25519`")]
    NotPrivate(PathBuf),
    #[error("{0} is not an Ed25519 public key in PEM; the broker writes one beside the log as `public-*.pem`")]
    NotPublic(PathBuf),
    #[error("the random source gave no key")]
    Generate,
}

pub(super) struct SigningKey {
    pair: Ed25519KeyPair,
    id: String,
}

impl SigningKey {
    /// Reads the key, or makes one where there is none.
    pub(super) fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match std::fs::read(path) {
            Ok(pem) => Self::from_pem(&Zeroizing::new(pem)).ok_or_else(|| KeyError::NotPrivate(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path),
            Err(error) => Err(KeyError::Read(path.to_owned(), error)),
        }
    }

    fn from_pem(pem: &[u8]) -> Option<Self> {
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(pem).ok()?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der());
        der.zeroize();
        Some(Self::new(pair.ok()?))
    }

    fn create(path: &Path) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Generate)?;
        let der = pair.to_pkcs8v1().map_err(|_| KeyError::Generate)?;
        let pem = Zeroizing::new(pem("PRIVATE KEY", der.as_ref()));
        let write = || {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(pem.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| KeyError::Create(path.to_owned(), error))?;
        Ok(Self::new(pair))
    }

    fn new(pair: Ed25519KeyPair) -> Self {
        let id = key_id(pair.public_key().as_ref());
        Self { pair, id }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.pair.sign(message).as_ref());
        bytes
    }

    /// Puts the public half beside the log; keys used earlier stay there, since their checkpoints do too.
    pub(super) fn publish(&self, directory: &Path) -> io::Result<()> {
        let path = directory.join(format!("public-{}.pem", self.id));
        let text = pem("PUBLIC KEY", &[&SPKI_PREFIX, self.pair.public_key().as_ref()].concat());
        if std::fs::read(&path).is_ok_and(|found| found == text.as_bytes()) {
            return Ok(());
        }
        std::fs::write(path, text)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The keys that a verifier trusts, by id.
#[derive(Clone, Debug, Default)]
pub struct PublicKeys(Vec<(String, [u8; 32])>);

impl PublicKeys {
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let pem = std::fs::read(path).map_err(|error| KeyError::Read(path.to_owned(), error))?;
        let key = public_key(&pem).ok_or_else(|| KeyError::NotPublic(path.to_owned()))?;
        Ok(Self(vec![(key_id(&key), key)]))
    }

    /// Every `public-*.pem` beside the log: as trustworthy as the directory itself.
    pub fn beside(directory: &Path) -> Result<Self, KeyError> {
        let failed = |error| KeyError::Read(directory.to_owned(), error);
        let mut keys = Self::default();
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with("public-") && name.ends_with(".pem")) {
                keys.add(Self::read(&entry.path())?);
            }
        }
        Ok(keys)
    }

    pub fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(id, _)| id.as_str())
    }

    pub(super) fn knows(&self, id: &str) -> bool {
        self.ids().any(|known| known == id)
    }

    pub(super) fn verify(&self, id: &str, message: &[u8], signature: &[u8]) -> bool {
        self.0
            .iter()
            .filter(|(known, _)| known == id)
            .any(|(_, key)| UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok())
    }
}

fn public_key(pem: &[u8]) -> Option<[u8; 32]> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?;
    der.as_ref().strip_prefix(&SPKI_PREFIX)?.try_into().ok()
}

fn key_id(public: &[u8]) -> String {
    super::line::hash(public)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_missing_key_is_made_for_its_owner_only_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/audit.pem");
        let made = SigningKey::load_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = SigningKey::load_or_create(&path).unwrap();
        assert_eq!(made.id(), read.id());
        read.publish(folder.path()).unwrap();
        let keys = PublicKeys::beside(folder.path()).unwrap();
        let signature = made.sign(b"head");
        assert!(keys.verify(made.id(), b"head", &signature));
        assert!(!keys.verify(made.id(), b"other", &signature));
        assert!(!keys.verify("0000000000000000", b"head", &signature));
    }

    #[test]
    fn a_key_of_another_kind_is_refused_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.pem");
        std::fs::write(&path, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        let error = SigningKey::load_or_create(&path).unwrap_err();
        assert!(error.to_string().contains("openssl genpkey"), "{error}");
    }
}
