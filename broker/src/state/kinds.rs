//! Every kind of record, registered once.

use super::record::Kind;
use crate::databases::leases::{DEPLOYMENTS, LEASES, REQUESTS};

/// A record of a kind that is not here belongs to another release.
pub static KINDS: [&Kind; 3] = [&LEASES, &REQUESTS, &DEPLOYMENTS];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_kinds_share_a_name_and_names_are_plain() {
        let names: BTreeSet<&str> = KINDS.iter().map(|kind| kind.name).collect();
        assert_eq!(names.len(), KINDS.len());
        for name in names {
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !name.is_empty(), "{name}");
        }
    }
}
