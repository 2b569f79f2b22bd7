use std::fmt;
use std::ops::Deref;
use std::time::SystemTime;

use keyferry_proto::v1::{GetSecretResponse, ReadSource};
use prost_types::Timestamp;
use zeroize::{Zeroize as _, Zeroizing};

/// One version of a secret with its value.
#[derive(Clone)]
pub struct Secret {
    /// `stores/{store}/secrets/{secret}`
    pub name: String,
    /// The real one, even when the latest was asked for.
    pub version: String,
    pub payload: Payload,
    /// Where the broker had it from.
    pub source: ReadSource,
    /// When it was loaded from the provider.
    pub load_time: Option<SystemTime>,
    /// How long it may be kept.
    pub fresh_until_time: Option<SystemTime>,
    pub create_time: Option<SystemTime>,
    pub expire_time: Option<SystemTime>,
    /// What happened up to this revision of the epoch's rotation log is reflected here.
    pub revision: i64,
    pub epoch: String,
    /// Empty where the provider keeps none.
    pub content_type: String,
}

/// A secret's bytes, zeroed when dropped. They have no text form: what shows them has to say so.
///
/// ```compile_fail
/// fn shown(payload: &keyferry_client::Payload) -> String {
///     format!("{payload:?}")
/// }
/// ```
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "secret bytes have no text form")]
pub struct Payload(Zeroizing<Vec<u8>>);

/// Names the version whose bytes are not what the broker sent.
#[derive(Debug)]
pub(crate) struct Damaged(pub(crate) String);

impl Secret {
    pub(crate) fn from_answer(answer: GetSecretResponse) -> Result<Self, Damaged> {
        let source = answer.source();
        let payload = Payload(Zeroizing::new(answer.payload.to_vec()));
        // The transport's buffer goes too, where nothing else shares it.
        if let Ok(mut buffer) = answer.payload.try_into_mut() {
            buffer.zeroize();
        }
        if i64::from(crc32c::crc32c(&payload)) != answer.payload_crc32c {
            return Err(Damaged(answer.name));
        }
        let (name, version) = answer.name.split_once("/versions/").unwrap_or((&answer.name, ""));
        Ok(Self {
            name: name.to_owned(),
            version: version.to_owned(),
            payload,
            source,
            load_time: answer.load_time.and_then(time),
            fresh_until_time: answer.fresh_until_time.and_then(time),
            create_time: answer.create_time.and_then(time),
            expire_time: answer.expire_time.and_then(time),
            revision: answer.revision,
            epoch: answer.epoch,
            content_type: answer.content_type,
        })
    }
}

pub(crate) fn time(time: Timestamp) -> Option<SystemTime> {
    SystemTime::try_from(time).ok()
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("source", &self.source)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(crc32c: i64) -> GetSecretResponse {
        GetSecretResponse {
            name: "stores/local/secrets/db/versions/7".into(),
            payload: b"hunter2".to_vec().into(),
            payload_crc32c: crc32c,
            ..GetSecretResponse::default()
        }
    }

    #[test]
    fn tells_the_version_and_never_the_value() {
        let secret = Secret::from_answer(answer(crc32c::crc32c(b"hunter2").into())).unwrap();
        assert_eq!((&*secret.name, &*secret.version), ("stores/local/secrets/db", "7"));
        assert_eq!(&*secret.payload, b"hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    #[test]
    fn refuses_a_payload_without_its_checksum() {
        assert!(Secret::from_answer(answer(1)).is_err());
    }
}
