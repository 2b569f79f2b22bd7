//! What a record is in the store: a version and a checksum, then JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

/// How the bytes of every record begin; another number is a release that does it otherwise.
const ENVELOPE: u8 = 1;
const HEADER_BYTES: usize = 6;

/// A sort of record. Its name is the first segment of its keys.
#[derive(Debug)]
pub struct Kind {
    pub name: &'static str,
    /// From version 1 to 2, from 2 to 3, and so on: as many as there are, plus one, is the version that is written.
    pub upgrades: &'static [Upgrade],
}

/// The content in the next version's shape; `None` where it is not what this version wrote.
pub type Upgrade = fn(Value) -> Option<Value>;

/// Content of one kind. Never a secret: the store is read by whoever may read its file.
pub trait Record: Serialize + DeserializeOwned + Send + 'static {
    const KIND: &'static Kind;
}

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("its bytes were damaged; restore the state from a backup")]
    Damaged,
    #[error("a newer release wrote it; run that one")]
    Newer,
    #[error("its content is not what its version says; report this with the output of `keyferry state show`")]
    Content,
}

impl Kind {
    fn version(&self) -> u8 {
        u8::try_from(self.upgrades.len() + 1).unwrap_or(u8::MAX)
    }
}

/// A kind together with the type that reads it.
#[derive(Debug)]
pub struct Known {
    pub kind: &'static Kind,
    pub check: fn(&[u8]) -> Result<(), Fault>,
}

impl Known {
    pub const fn of<R: Record>() -> Self {
        Self { kind: R::KIND, check: |bytes| decode::<R>(bytes).map(drop) }
    }
}

pub(super) fn encode<R: Record>(record: &R) -> serde_json::Result<Vec<u8>> {
    let mut bytes = vec![ENVELOPE, R::KIND.version(), 0, 0, 0, 0];
    serde_json::to_writer(&mut bytes, record)?;
    let checksum = checksum(R::KIND.version(), bytes.get(HEADER_BYTES..).unwrap_or_default());
    if let Some(place) = bytes.get_mut(2..HEADER_BYTES) {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
    Ok(bytes)
}

pub(super) fn decode<R: Record>(bytes: &[u8]) -> Result<R, Fault> {
    let (version, body) = open(bytes)?;
    // The common case needs no tree in between.
    if version == R::KIND.version() {
        return serde_json::from_slice(body).map_err(|_| Fault::Content);
    }
    let upgrades = R::KIND.upgrades.get(usize::from(version).wrapping_sub(1)..).ok_or(Fault::Newer)?;
    let mut value: Value = serde_json::from_slice(body).map_err(|_| Fault::Content)?;
    for upgrade in upgrades {
        value = upgrade(value).ok_or(Fault::Content)?;
    }
    serde_json::from_value(value).map_err(|_| Fault::Content)
}

/// The version and the content of any kind's record, as they were written.
pub fn content(bytes: &[u8]) -> Result<(u8, Value), Fault> {
    let (version, body) = open(bytes)?;
    Ok((version, serde_json::from_slice(body).map_err(|_| Fault::Content)?))
}

fn open(bytes: &[u8]) -> Result<(u8, &[u8]), Fault> {
    match bytes {
        [ENVELOPE, version @ 1..=u8::MAX, a, b, c, d, body @ ..] => {
            let intact = checksum(*version, body) == u32::from_le_bytes([*a, *b, *c, *d]);
            if intact { Ok((*version, body)) } else { Err(Fault::Damaged) }
        }
        [envelope, ..] if *envelope > ENVELOPE => Err(Fault::Newer),
        _ => Err(Fault::Damaged),
    }
}

pub(super) fn checksum(version: u8, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[ENVELOPE, version]), body)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::state::{Key, fault};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Thing {
        name: String,
        colours: Vec<String>,
    }

    /// Version 1 had one `color`, version 2 several; version 3 calls them `colours`.
    static THINGS: Kind = Kind { name: "things", upgrades: &[one_to_many, renamed] };

    fn one_to_many(mut value: Value) -> Option<Value> {
        let fields = value.as_object_mut()?;
        let color = fields.remove("color")?;
        fields.insert("colors".to_owned(), json!([color]));
        Some(value)
    }

    fn renamed(mut value: Value) -> Option<Value> {
        let fields = value.as_object_mut()?;
        let colors = fields.remove("colors")?;
        fields.insert("colours".to_owned(), colors);
        Some(value)
    }

    impl Record for Thing {
        const KIND: &'static Kind = &THINGS;
    }

    fn thing() -> Thing {
        Thing { name: "a".into(), colours: vec!["red".into()] }
    }

    #[test]
    fn records_written_by_older_versions_are_read_as_the_newest() {
        for (version, old) in
            [&include_bytes!("testdata/thing-1.record")[..], include_bytes!("testdata/thing-2.record")]
                .iter()
                .enumerate()
        {
            assert_eq!(usize::from(content(old).unwrap().0), version + 1);
            assert_eq!(decode::<Thing>(old), Ok(thing()), "version {}", version + 1);
        }
        let new = encode(&thing()).unwrap();
        assert_eq!(content(&new).unwrap(), (3, json!({"name": "a", "colours": ["red"]})));
        assert_eq!(decode::<Thing>(&new), Ok(thing()));
    }

    #[test]
    fn a_registered_kind_is_judged_by_its_type_and_another_by_its_envelope_alone() {
        let kinds = [Known::of::<Thing>()];
        let (ours, other) = (Key::parse("things/a").unwrap(), Key::parse("others/a").unwrap());
        let [good, mut bad] = [encode(&thing()).unwrap(), encode(&thing()).unwrap()];
        bad.truncate(8);
        let foreign = include_bytes!("testdata/thing-2.record").to_vec();
        let content_only = [&[ENVELOPE, 3][..], &checksum(3, b"{}").to_le_bytes(), b"{}"].concat();
        for (key, bytes, expected) in [
            (&ours, &good, None),
            (&ours, &foreign, None),
            (&ours, &bad, Some(Fault::Damaged)),
            (&ours, &content_only, Some(Fault::Content)),
            (&other, &content_only, None),
            (&other, &bad, Some(Fault::Damaged)),
        ] {
            assert_eq!(fault(&kinds, key, bytes), expected, "{key}");
        }
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let good = encode(&thing()).unwrap();
        for at in 0..good.len() {
            for change in [1_u8, 0x80] {
                let mut bad = good.clone();
                bad[at] ^= change;
                assert!(decode::<Thing>(&bad).is_err(), "byte {at}");
            }
            assert!(decode::<Thing>(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_newer_release_s_record_is_told_from_a_damaged_one() {
        let body = br#"{"name":"a"}"#;
        let of = |version: u8| [&[ENVELOPE, version][..], &checksum(version, body).to_le_bytes(), body].concat();
        assert_eq!(decode::<Thing>(&of(4)), Err(Fault::Newer));
        assert_eq!(decode::<Thing>(&of(3)), Err(Fault::Content));
        assert_eq!(decode::<Thing>(&of(1)), Err(Fault::Content));
        assert_eq!(decode::<Thing>(&[ENVELOPE + 1, 1, 2]), Err(Fault::Newer));
        assert_eq!(decode::<Thing>(b""), Err(Fault::Damaged));
    }
}
