//! Policy files: what is no policy is told by file and place, and what is one decides.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use keyferry_fuzz::{Fuzz, Verdict};
use rcgen::{CertificateParams, KeyPair, SanType};

use super::super::{Action, Circumstances, Resource};
use super::{Policies, PolicyError, Sources};
use crate::clock::Timestamp;
use crate::identity::{Caller, Certificate};
use crate::names::SecretName;
use crate::secrets::Labels;

const WORDS: [&str; 20] = [
    "permit (principal, action, resource);",
    "forbid ",
    "when { ",
    "unless { ",
    "} ",
    "@id(\"a\")",
    "principal",
    "resource",
    "Keyferry::Action::\"GetSecret\"",
    "Keyferry::Store::\"a\"",
    " in ",
    " has ",
    " like \"*\"",
    ".getTag(\"a\")",
    ".hasTag(\"a\")",
    "context.peer",
    "ip(\"10.0.0.0/8\")",
    "datetime(\"2026-01-01\")",
    " && ",
    "?principal",
];

#[test]
fn policies_are_taken_whole_and_decide_or_are_refused_with_their_place() {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI("spiffe://test/cart".try_into().unwrap())];
    let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
    let certificate = Arc::new(Certificate::parse(&der).unwrap());
    let caller = Caller::by_certificate("x509/spiffe://test/cart".into(), certificate);
    let resource = Resource::Secret(SecretName::parse("stores/a/secrets/b").unwrap(), Labels::default());
    let at = Circumstances { now: Timestamp::from_secs(1_800_000_000), peer: IpAddr::V4(Ipv4Addr::LOCALHOST) };
    Fuzz::new("policy").words(&WORDS).inputs(1500).longest(2048).allocating(1 << 22, 1 << 16).holds(|input| {
        let sources = Sources(vec![("a.cedar".to_owned(), String::from_utf8_lossy(input).into_owned())]);
        match Policies::parse(&sources) {
            Ok(policies) => {
                assert_eq!(policies.hash(), sources.hash());
                policies.decide(&caller, Action::GetSecret, &resource, at);
                Verdict::Accepted
            }
            Err(PolicyError::Invalid(problems)) => {
                assert!(
                    !problems.is_empty() && problems.iter().all(|problem| problem.contains("a.cedar")),
                    "{problems:?}"
                );
                Verdict::Refused
            }
            Err(error) => panic!("{error}"),
        }
    });
}
