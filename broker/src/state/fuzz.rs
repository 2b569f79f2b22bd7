//! What a state that somebody else wrote to can hold.

use keyferry_fuzz::{Fuzz, Verdict};

use super::kinds::KINDS;
use super::record::{Record, checksum, decode, encode};
use super::{Epoch, Fault, Key, Prefix, fault};
use crate::databases::leases::{Deployment, Lease};
use crate::requests::Request;
use crate::rotation::Standing;
use crate::rotation::engine::{Rotation, Timetable};
use crate::rotation::subscribers::Subscriber;

#[test]
fn a_record_that_can_be_read_is_written_as_it_reads_and_any_other_is_a_fault() {
    let words: Vec<_> = KINDS.iter().map(|known| known.kind.name).chain([" 1\n", " 2\n", "null", "[]"]).collect();
    Fuzz::new("records").words(&words).holds(|input| {
        // Bytes as they may stand in a file.
        let raw = fault(&KINDS, &Key::parse("leases/a").unwrap(), input);
        let Some((kind, version, body)) = parts(input) else {
            assert!(raw.is_some());
            return Verdict::Refused;
        };
        let record = [&[1, version][..], &checksum(version, body).to_le_bytes(), body].concat();
        let settles = match kind {
            "leases" => settles::<Lease>(&record),
            "requests" => settles::<Request>(&record),
            "deployments" => settles::<Deployment>(&record),
            "secrets" => settles::<Standing>(&record),
            "subscribers" => settles::<Subscriber>(&record),
            "rotations" => settles::<Rotation>(&record),
            _ => settles::<Timetable>(&record),
        };
        settles.is_ok().into()
    });
}

/// `KIND VERSION`, a line's end and the content.
fn parts(input: &[u8]) -> Option<(&str, u8, &[u8])> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    let (kind, version) = str::from_utf8(&input[..end]).ok()?.split_once(' ')?;
    Some((kind, version.parse().ok()?, &input[end + 1..]))
}

fn settles<R: Record>(record: &[u8]) -> Result<(), Fault> {
    let written = encode(&decode::<R>(record)?).unwrap();
    let again = encode(&decode::<R>(&written)?).unwrap();
    assert_eq!(written, again);
    Ok(())
}

#[test]
fn a_key_reads_back_as_itself_and_lies_in_its_own_prefixes_only() {
    Fuzz::new("state-keys").words(&["leases", "%2F", "%", "/", "@", "~", "%zz"]).holds(|input| {
        let Ok(text) = str::from_utf8(input) else { return Verdict::Refused };
        if let Some(epoch) = Epoch::parse(text) {
            assert_eq!(epoch.to_string(), text);
        }
        let prefix = Prefix::parse(text);
        let Ok(key) = Key::parse(text) else { return Verdict::Refused };
        assert_eq!(key.as_str(), text);
        assert_eq!(key.segments().count(), text.matches('/').count());
        assert!(Prefix::parse(key.kind()).unwrap().contains(&key));
        assert!(!prefix.unwrap().contains(&key), "what lies under a key is not the key");
        Verdict::Accepted
    });
}
