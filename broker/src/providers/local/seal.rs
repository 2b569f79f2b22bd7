//! Payloads at rest: AES-256-GCM under a key that belongs to one store file.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use zeroize::Zeroizing;

use super::key::LocalKey;
use crate::secrets::SecretBytes;

/// Random, so that two stores under one key file still share no key and no record can move between them.
pub(super) type FileId = [u8; 16];

/// Tells keys apart without telling anything about them.
pub(super) type KeyId = [u8; 8];

const CRC_LENGTH: usize = 4;
const TAG_LENGTH: usize = 16;

/// Nonces are random: safe for 2^32 writes to one file, which is 136 a second for a year.
pub(super) struct Sealer {
    key: RandomizedNonceKey,
    pub(super) key_id: KeyId,
}

/// What a sealed payload is bound to. A version's state is not: it changes and the payload stays.
#[derive(Clone, Copy)]
pub(super) struct Binding<'a> {
    pub(super) secret: &'a str,
    pub(super) version: u64,
    pub(super) created: u64,
}

/// A payload and the checksum that was sealed with it.
pub(super) struct Opened {
    pub(super) payload: SecretBytes,
    pub(super) crc32c: u32,
}

impl Sealer {
    pub(super) fn new(key: &LocalKey, file: &FileId) -> Result<Self, Unspecified> {
        let derived = Salt::new(HKDF_SHA256, file).extract(key.bytes());
        let payload_key = expand(&derived, b"keyferry local store v1: payloads")?;
        let mut key_id = KeyId::default();
        key_id.copy_from_slice(&expand(&derived, b"keyferry local store v1: key id")?[..size_of::<KeyId>()]);
        Ok(Self { key: RandomizedNonceKey::new(&AES_256_GCM, &*payload_key)?, key_id })
    }

    /// nonce ‖ AES-GCM(payload ‖ CRC32C) ‖ tag
    pub(super) fn seal(&self, payload: &SecretBytes, binding: Binding<'_>) -> Result<Vec<u8>, Unspecified> {
        let payload = payload.expose();
        // Sized once: a buffer that grew would leave plaintext in the one it left.
        let mut buffer = Zeroizing::new(Vec::with_capacity(payload.len() + CRC_LENGTH + TAG_LENGTH));
        buffer.extend_from_slice(payload);
        buffer.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        let nonce = self.key.seal_in_place_append_tag(Aad::from(binding.encode()), &mut *buffer)?;
        Ok([&nonce.as_ref()[..], &buffer].concat())
    }

    /// Nothing when the record was altered, or belongs to another secret, version or file.
    pub(super) fn open(&self, sealed: &[u8], binding: Binding<'_>) -> Option<Opened> {
        let (nonce, rest) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut buffer = Zeroizing::new(rest.to_vec());
        let plain = self.key.open_in_place(nonce, Aad::from(binding.encode()), &mut buffer).ok()?;
        let length = plain.len().checked_sub(CRC_LENGTH)?;
        let crc32c = u32::from_le_bytes(plain[length..].try_into().ok()?);
        buffer.truncate(length);
        // The buffer itself moves on into the payload, and the bytes beyond its end are wiped with it.
        let payload = SecretBytes::new(std::mem::take(&mut *buffer));
        (crc32c::crc32c(payload.expose()) == crc32c).then_some(Opened { payload, crc32c })
    }
}

impl Binding<'_> {
    /// The numbers first, at their fixed width, so that no two bindings read alike.
    fn encode(self) -> Vec<u8> {
        [&self.version.to_be_bytes()[..], &self.created.to_be_bytes(), self.secret.as_bytes()].concat()
    }
}

fn expand(derived: &Prk, purpose: &[u8]) -> Result<Zeroizing<[u8; 32]>, Unspecified> {
    let mut out = Zeroizing::new([0; 32]);
    derived.expand(&[purpose], HKDF_SHA256)?.fill(&mut *out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BINDING: Binding<'_> = Binding { secret: "db", version: 1, created: 7 };

    fn sealer(file: &FileId) -> Sealer {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "5a".repeat(32)).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        Sealer::new(&LocalKey::read_file(&path).unwrap(), file).unwrap()
    }

    #[test]
    fn opens_what_it_sealed() {
        let sealer = sealer(&[1; 16]);
        for payload in [&b""[..], b"x", &[0; 65_536]] {
            let sealed = sealer.seal(&SecretBytes::new(payload.to_vec()), BINDING).unwrap();
            let opened = sealer.open(&sealed, BINDING).unwrap();
            assert!(opened.payload.expose() == payload);
            assert_eq!(opened.crc32c, crc32c::crc32c(payload));
        }
    }

    #[test]
    fn refuses_every_flipped_bit_and_every_truncation() {
        let sealer = sealer(&[1; 16]);
        let sealed = sealer.seal(&SecretBytes::new(b"payload".to_vec()), BINDING).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(sealer.open(&altered, BINDING).is_none(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(sealer.open(&sealed[..length], BINDING).is_none(), "length {length}");
        }
    }

    #[test]
    fn refuses_a_record_of_another_secret_version_time_or_file() {
        let (here, elsewhere) = (sealer(&[1; 16]), sealer(&[2; 16]));
        let sealed = here.seal(&SecretBytes::new(b"payload".to_vec()), BINDING).unwrap();
        for binding in
            [Binding { secret: "db2", ..BINDING }, Binding { version: 2, ..BINDING }, Binding { created: 8, ..BINDING }]
        {
            assert!(here.open(&sealed, binding).is_none());
        }
        assert!(elsewhere.open(&sealed, BINDING).is_none());
        assert_ne!(here.key_id, elsewhere.key_id);
    }

    #[test]
    fn never_seals_alike_twice() {
        let (sealer, payload) = (sealer(&[1; 16]), SecretBytes::new(b"payload".to_vec()));
        assert_ne!(sealer.seal(&payload, BINDING).unwrap(), sealer.seal(&payload, BINDING).unwrap());
    }
}
