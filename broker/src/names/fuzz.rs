//! Every name that a request can hold.

use keyferry_fuzz::{Fuzz, Verdict};

use super::{DatabaseName, LeaseName, RoleName, RotationName, SecretName, StoreName, VersionId, VersionName};
use crate::databases::UserName;
use crate::gateway::sds::ResourceName;
use crate::rotation::subscribers::SubscriberName;

const WORDS: [&str; 11] = [
    "stores/",
    "secrets/",
    "/versions/",
    "latest",
    "databases/",
    "/roles/",
    "leases/",
    "rotations/",
    "a/../b",
    "kf_",
    "%2e%2e",
];

#[test]
fn a_name_that_is_accepted_reads_back_as_itself_and_could_be_no_other_path() {
    Fuzz::new("names").words(&WORDS).allocating(4096, 8).holds(|input| {
        let Ok(text) = str::from_utf8(input) else { return Verdict::Refused };
        let read = [
            StoreName::parse(text).ok().map(|name| name.to_string()),
            SecretName::parse(text).ok().map(|name| whole(&name)),
            VersionName::parse(text).ok().map(|name| name.to_string()),
            VersionId::exact(text).ok().map(|id| id.as_str().to_owned()),
            DatabaseName::parse(text).ok().map(|name| name.to_string()),
            RoleName::parse(text).ok().map(|name| format!("{}/roles/{}", name.database(), name.id())),
            LeaseName::parse(text).ok().map(|name| format!("leases/{}", name.id())),
            RotationName::parse(text).ok().map(|name| format!("rotations/{}", name.id())),
            SubscriberName::parse(text).ok().map(|name| name.as_str().to_owned()),
            ResourceName::parse(text).ok().map(|name| name.to_string()),
            UserName::parse(text).map(|name| name.as_str().to_owned()),
        ];
        for name in read.iter().flatten() {
            assert_eq!(name, text);
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte)), "{name:?}");
            assert!(name.split('/').all(|segment| !matches!(segment, "" | "." | "..")), "{name:?}");
            assert!(name.len() <= 512);
        }
        // What may be left out is all that it may differ in.
        if let Ok((name, written)) = VersionName::parse_or_latest(text) {
            assert_eq!(if written { name.to_string() } else { whole(&name.secret) }, text);
        }
        read.iter().any(Option::is_some).into()
    });
}

/// From its parts.
fn whole(name: &SecretName) -> String {
    let store = StoreName::from_id(name.store_id()).unwrap();
    assert_eq!(store.as_str(), name.store());
    let again = store.secret(name.id()).unwrap();
    assert_eq!(&again, name);
    again.to_string()
}
