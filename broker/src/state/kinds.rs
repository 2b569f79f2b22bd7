//! Every kind of record, registered once.

use super::key::Key;
use super::record::{Fault, Known, content};
use crate::databases::leases::{Deployment, Lease};
use crate::requests::Request;
use crate::rotation::Standing;
use crate::rotation::engine::{Rotation, Timetable};
use crate::rotation::subscribers::Subscriber;

/// A record of a kind that is not here belongs to another release.
pub static KINDS: [Known; 7] = [
    Known::of::<Lease>(),
    Known::of::<Request>(),
    Known::of::<Deployment>(),
    Known::of::<Standing>(),
    Known::of::<Subscriber>(),
    Known::of::<Rotation>(),
    Known::of::<Timetable>(),
];

/// Why the bytes under the key cannot be read; absent where they can.
pub fn fault(kinds: &[Known], key: &Key, bytes: &[u8]) -> Option<Fault> {
    match kinds.iter().find(|known| known.kind.name == key.kind()) {
        Some(known) => (known.check)(bytes).err(),
        // Its envelope is all that can be judged here.
        None => content(bytes).err(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_kinds_share_a_name_and_names_are_plain() {
        let names: BTreeSet<&str> = KINDS.iter().map(|known| known.kind.name).collect();
        assert_eq!(names.len(), KINDS.len());
        for name in names {
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !name.is_empty(), "{name}");
        }
    }
}
