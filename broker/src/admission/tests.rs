//! Policy, its cache and quota, on callers with real certificates.

mod consistency;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair, SanType};

use super::*;
use crate::clock::{Clock, SharedClock, SystemClock, Timestamp};
use crate::error::Reason;
use crate::identity::{Caller, Certificate};
use crate::names::{SecretName, StoreName, VersionId};
use crate::secrets::{CacheSettings, Demand, SecretBytes, Secrets};

const NOON: u64 = 1_800_000_000;

fn caller(path: &str) -> Caller {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://test{path}").try_into().unwrap())];
    let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
    Caller::by_certificate(format!("x509/spiffe://test{path}").into(), Arc::new(Certificate::parse(&der).unwrap()))
}

fn secret(id: &str, labels: &[(&str, &str)]) -> Resource {
    let labels: BTreeMap<String, String> = labels.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    Resource::Secret(SecretName::parse(&format!("stores/s/secrets/{id}")).unwrap(), Arc::new(labels))
}

fn at(seconds: u64, peer: [u8; 4]) -> Circumstances {
    Circumstances { now: Timestamp::from_secs(seconds), peer: IpAddr::V4(Ipv4Addr::from(peer)) }
}

fn policies(text: &str) -> Result<Policies, PolicyError> {
    files(&[("test.cedar", text)])
}

fn files(files: &[(&str, &str)]) -> Result<Policies, PolicyError> {
    let directory = tempfile::tempdir().unwrap();
    for (file, text) in files {
        std::fs::write(directory.path().join(file), text).unwrap();
    }
    Policies::load(directory.path())
}

fn allows(text: &str, who: &Caller, action: Action, resource: &Resource) -> bool {
    policies(text).unwrap().decide(who, action, resource, at(NOON, [127, 0, 0, 1])).allowed
}

#[test]
#[expect(clippy::wildcard_enum_match_arm, reason = "all others are of secrets")]
fn every_action_of_the_code_is_one_of_the_schema_in_the_same_groups() {
    for action in Action::ALL {
        let everything = format!("permit (principal, action == Keyferry::Action::\"{}\", resource);", action.as_str());
        assert!(policies(&everything).is_ok(), "{action:?}");
        let mut groups = vec!["Read", "Change", "Mint", "Operate"];
        groups.retain(|group| {
            let policies = policies(&format!("permit (principal, action in Keyferry::Action::\"{group}\", resource);"));
            let resource = match action {
                Action::ListSecrets => Resource::Store(StoreName::from_id("s").unwrap()),
                Action::WhoAmI | Action::ExplainSelf | Action::ExplainAccess | Action::GetStatus => Resource::Broker,
                _ => secret("a", &[]),
            };
            policies.unwrap().decide(&caller("/a"), action, &resource, at(NOON, [127, 0, 0, 1])).allowed
        });
        // Roles of databases cannot be asked about yet.
        if !action.groups().contains(&"Mint") && !action.as_str().ends_with("AnyLease") {
            assert_eq!(groups, action.groups(), "{action:?}");
        }
    }
}

#[test]
fn nothing_is_permitted_that_no_policy_permits() {
    assert!(!allows("forbid (principal, action, resource);", &caller("/a"), Action::GetSecret, &secret("a", &[])));
    assert!(matches!(Policies::load(tempfile::tempdir().unwrap().path()), Err(PolicyError::None(_))));
    assert!(matches!(Policies::load(std::path::Path::new("/nowhere")), Err(PolicyError::Read(..))));
}

#[test]
fn labels_and_certificates_decide() {
    let text = r#"
        permit (principal, action, resource)
        when { principal has certificate && principal.certificate has spiffe
               && principal.certificate.spiffe.path == "/cart" };
        forbid (principal, action, resource is Keyferry::Secret)
        when { resource.hasTag("env") && resource.getTag("env") == "prod" };
    "#;
    assert!(allows(text, &caller("/cart"), Action::GetSecret, &secret("a", &[("env", "dev")])));
    assert!(!allows(text, &caller("/cart"), Action::GetSecret, &secret("a", &[("env", "prod")])));
    assert!(!allows(text, &caller("/cart2"), Action::GetSecret, &secret("a", &[])), "no prefix match");
    assert!(!allows(text, &caller("/Cart"), Action::GetSecret, &secret("a", &[])), "case counts");
}

#[test]
fn a_policy_that_fails_to_evaluate_denies() {
    // Cedar would skip the forbid, and with it what it was to prevent.
    let text = r#"
        permit (principal, action, resource);
        forbid (principal, action == Keyferry::Action::"GetSecret", resource)
        when { context.now.offset(duration("106751991167d")) > context.now };
    "#;
    let verdict =
        policies(text).unwrap().decide(&caller("/a"), Action::GetSecret, &secret("a", &[]), at(NOON, [127, 0, 0, 1]));
    assert!(!verdict.errors.is_empty() && !verdict.allowed, "{verdict:?}");
}

#[test]
fn what_the_schema_does_not_know_is_refused_at_load() {
    for bad in [
        "permit (principal, action, resource) when { principal.nonsense };",
        "permit (principal, action == Keyferry::Action::\"getsecret\", resource);",
        "permit (principal == User::\"a\", action, resource);",
        "permit (principal, action, resource) when { resource.getTag(\"env\") == \"prod\" };",
        "permit (principal == ?principal, action, resource);",
        "permit (principal, action, resource",
        "@id(\"a\") permit (principal, action, resource); @id(\"a\") forbid (principal, action, resource);",
    ] {
        let error = policies(bad).expect_err(bad).to_string();
        assert!(error.contains("test.cedar") || error.contains("policy"), "{error}");
    }
}

#[test]
fn the_hash_tells_two_sets_apart_wherever_their_text_is_cut() {
    let permit = "permit (principal, action, resource);".to_owned();
    let forbid = "forbid (principal, action, resource);".to_owned();
    let hash = |sources: &[(&str, &str)]| files(sources).unwrap().hash();
    let both = format!("{permit}{forbid}");
    let hashes = [
        hash(&[("a.cedar", &both)]),
        hash(&[("a.cedar", &permit), ("b.cedar", &forbid)]),
        hash(&[("b.cedar", &permit), ("a.cedar", &forbid)]),
    ];
    assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2]);
}

#[test]
fn what_is_wrong_with_a_policy_is_told_with_its_place_and_a_way_out() {
    for (text, expected) in [
        ("permit (principal, action, resource)", "test.cedar:1:37: unexpected end of input"),
        ("// é\npermit (principal, action, resource)\n  when { 'a' == \"a\" };", "test.cedar:3:10: "),
        (
            "permit (principal, action, resource);\n\nforbid (principal, action, resource)\nwhen { principal.nonsense };",
            "test.cedar:4:8: for policy `test.cedar#2`",
        ),
        ("permit (principal, action == Keyferry::Action::\"GetSecrt\", resource);", "; did you mean"),
        ("permit (principal == ?principal, action, resource);", "test.cedar: a template"),
    ] {
        let error = files(&[("good.cedar", "permit (principal, action, resource);"), ("test.cedar", text)]);
        let error = error.expect_err(text).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn a_file_without_a_policy_is_refused_and_what_was_in_force_stays() {
    let directory = tempfile::tempdir().unwrap();
    let (permit, forbid) = (directory.path().join("a.cedar"), directory.path().join("b.cedar"));
    std::fs::write(&permit, "permit (principal, action, resource);").unwrap();
    std::fs::write(&forbid, "forbid (principal, action, resource);").unwrap();
    let store = PolicyStore::open(directory.path().to_owned(), hands()).unwrap();
    let before = store.status().hash;

    for nothing in ["", "// to be written\n"] {
        std::fs::write(&forbid, nothing).unwrap();
        assert!(!store.reload());
        assert!(store.status().rejected.unwrap().contains("b.cedar: holds no policy"));
        assert_eq!(store.status().hash, before);
    }
    std::fs::write(&forbid, "forbid (principal, action, resource);").unwrap();
    assert!(!store.reload());
    assert_eq!(store.status().rejected, None);
    std::fs::remove_file(&forbid).unwrap();
    assert!(store.reload());
}

#[test]
fn a_file_is_not_read_while_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let whole = "permit (principal, action, resource); forbid (principal, action, resource);";
    let written = std::cell::Cell::new(5);
    let write_on = || {
        written.set((written.get() + 20).min(whole.len()));
        std::fs::write(directory.path().join("a.cedar"), &whole[..written.get()]).unwrap();
    };
    write_on();
    let judged = Err("nothing yet".to_owned());
    let read = || policy::Sources::read(directory.path());
    let settled = || store::settled(&judged, read, write_on);
    assert_eq!(Policies::parse(&settled().unwrap().unwrap()).unwrap().len(), 2);
    // What was judged already is not waited for again, however broken it is.
    let judged = Ok(read().unwrap().hash());
    assert!(store::settled(&judged, read, || panic!("no need to wait")).is_none());
}

#[test]
fn labels_are_asked_for_only_where_a_policy_may_read_them() {
    let reads = |text: &str| policies(text).unwrap().reads_labels(Action::GetSecret);
    let permit = "permit (principal, action, resource is Keyferry::Secret) when";
    assert!(!reads("permit (principal, action, resource);"));
    assert!(!reads("permit (principal, action, resource) when { principal.hasTag(\"hasTag\") };"));
    assert!(reads(&format!("{permit} {{ resource.hasTag(\"env\") }};")));
    assert!(reads(&format!("{permit} {{ principal.hasTag(\"a\") || !resource.hasTag(\"env\") }};")));
    assert!(reads(&format!("{permit} {{ resource.hasTag(\"a\") && resource.getTag(\"a\") == \"b\" }};")));
    assert!(reads(&format!(
        "{permit} {{ (if context.peer.isLoopback() then resource else resource).hasTag(\"a\") }};"
    )));
    let others = policies(
        "permit (principal, action in Keyferry::Action::\"Change\", resource) when { resource.hasTag(\"env\") };",
    );
    let others = others.unwrap();
    assert!(others.reads_labels(Action::AddSecretVersion) && !others.reads_labels(Action::GetSecret));
}

/// A clock that a test moves.
#[derive(Debug)]
struct Hands(Mutex<Duration>, Instant);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(NOON).plus(*self.0.lock().unwrap())
    }

    fn monotonic(&self) -> Instant {
        self.1 + *self.0.lock().unwrap()
    }
}

fn hands() -> Arc<Hands> {
    Arc::new(Hands(Mutex::default(), SystemClock.monotonic()))
}

fn settings() -> QuotaSettings {
    let bucket = Bucket { rate: 10, burst: 3 };
    QuotaSettings {
        read: bucket,
        mint: bucket,
        change: bucket,
        operate: bucket,
        streams: 2,
        distinct_secrets: 2,
        distinct_window: Duration::from_secs(100),
    }
}

fn gate(directory: &std::path::Path, text: &str, clock: &Arc<Hands>) -> Gate {
    std::fs::write(directory.join("a.cedar"), text).unwrap();
    let store = PolicyStore::open(directory.to_owned(), Arc::clone(clock) as _).unwrap();
    Gate::new(store, Quota::new(settings(), Arc::clone(clock) as _))
}

#[tokio::test]
async fn a_permit_for_anything_else_gives_no_value_and_changes_none() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.cedar"), "permit (principal, action, resource);").unwrap();
    let clock: SharedClock = Arc::new(SystemClock);
    let store = PolicyStore::open(directory.path().to_owned(), Arc::clone(&clock)).unwrap();
    let gate = Gate::new(store, Quota::new(settings(), Arc::clone(&clock)));
    let settings = CacheSettings { size: 1 << 20, stores: BTreeMap::new() };
    let secrets = Secrets::new(BTreeMap::new(), &settings, None, &clock);
    let (who, latest, first) = (caller("/cart"), VersionId::Latest, VersionId::exact("1").unwrap());
    let mut ways = 0;
    for action in Action::ALL {
        let at = at(NOON, [127, 0, 0, 1]);
        let Ok(permit) = gate.admit(&who, action, QuotaClass::None, secret("a", &[]), at) else { continue };
        let refusals = [
            secrets.get(&permit, &latest, Demand::default()).await.map(drop),
            secrets.refresh(&permit, &latest).await.map(drop),
            secrets.add(&permit, SecretBytes::new(Vec::new()), None).await.map(drop),
            secrets.set_enabled(&permit, &first, false).await.map(drop),
        ];
        let let_through = refusals.map(|refusal| {
            let reason = refusal.unwrap_err().reason();
            // Or it got as far as to look for the store, which there is not.
            assert!(matches!(reason, Reason::Internal | Reason::SecretNotFound), "{reason:?}");
            reason == Reason::SecretNotFound
        });
        let expected = [
            action == Action::GetSecret,
            action == Action::RefreshSecret,
            action == Action::AddSecretVersion,
            matches!(action, Action::EnableSecretVersion | Action::DisableSecretVersion),
        ];
        assert_eq!(let_through, expected, "{action:?}");
        ways += let_through.iter().filter(|through| **through).count();
    }
    assert_eq!(ways, 5);
}

#[test]
fn a_kept_decision_is_of_its_caller_action_labels_and_policies_alone() {
    let directory = tempfile::tempdir().unwrap();
    let text = r#"
        permit (principal, action == Keyferry::Action::"GetSecret", resource)
        when { principal has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == "/a"
               && resource.hasTag("env") && resource.getTag("env") == "dev" };
    "#;
    let gate = gate(directory.path(), text, &hands());
    let allows =
        |who: &Caller, action, resource: &Resource| gate.allows(who, action, resource, at(NOON, [127, 0, 0, 1]));
    let (a, b) = (caller("/a"), caller("/b"));
    let (dev, prod) = (secret("x", &[("env", "dev")]), secret("x", &[("env", "prod")]));
    for _ in 0..2 {
        assert!(allows(&a, Action::GetSecret, &dev));
        assert!(!allows(&b, Action::GetSecret, &dev));
        assert!(!allows(&a, Action::GetSecret, &prod));
        assert!(!allows(&a, Action::ListSecretVersions, &dev));
        // Another certificate with the same name is another caller to the cache.
        assert!(allows(&caller("/a"), Action::GetSecret, &dev));
    }
    std::fs::write(directory.path().join("a.cedar"), "forbid (principal, action, resource);").unwrap();
    assert!(gate.policies().reload());
    assert!(!allows(&a, Action::GetSecret, &dev));
}

#[test]
fn a_policy_over_time_or_peer_is_never_answered_from_the_cache() {
    let directory = tempfile::tempdir().unwrap();
    let text = r#"
        permit (principal, action in Keyferry::Action::"Read", resource)
        when { context.peer.isInRange(ip("10.0.0.0/8")) && context.now < datetime("2030-01-01T00:00:00Z") };
        permit (principal, action == Keyferry::Action::"GetStatus", resource);
    "#;
    let gate = gate(directory.path(), text, &hands());
    let who = caller("/a");
    let allows = |circumstances| gate.allows(&who, Action::GetSecret, &secret("x", &[]), circumstances);
    let in_2031 = NOON + 5 * 365 * 24 * 3600;
    for _ in 0..2 {
        assert!(allows(at(NOON, [10, 0, 0, 1])));
        assert!(!allows(at(NOON, [11, 0, 0, 1])));
        assert!(!allows(at(in_2031, [10, 0, 0, 1])));
    }
    let policies = gate.policies().current();
    assert!(policies.reads_context(Action::GetSecret) && !policies.reads_context(Action::GetStatus));
}

#[test]
fn a_bucket_lets_its_burst_through_then_its_rate_and_says_when() {
    let clock = hands();
    let quota = Quota::new(settings(), Arc::clone(&clock) as _);
    let take = |who: &str| quota.take(&who.into(), QuotaClass::Read, None);
    for _ in 0..3 {
        take("a").unwrap();
    }
    let refused = take("a").unwrap_err();
    assert_eq!(refused.reason(), Reason::QuotaExceeded);
    let crate::error::Detail::Quota { retry_after, .. } = refused.detail() else { panic!("{refused:?}") };
    assert_eq!(*retry_after, Duration::from_millis(100));
    take("b").unwrap();
    quota.take(&"a".into(), QuotaClass::Change, None).unwrap();
    *clock.0.lock().unwrap() += *retry_after;
    take("a").unwrap();
    assert!(take("a").is_err());
}

#[test]
fn a_scraper_is_stopped_at_the_limit_and_keeps_what_it_has() {
    let clock = hands();
    let quota =
        Quota::new(QuotaSettings { read: Bucket { rate: 1000, burst: 1000 }, ..settings() }, Arc::clone(&clock) as _);
    let take = |id: &str| {
        let name = SecretName::parse(&format!("stores/s/secrets/{id}")).unwrap();
        quota.take(&"a".into(), QuotaClass::Read, Some(&name))
    };
    take("one").unwrap();
    take("two").unwrap();
    assert_eq!(take("three").unwrap_err().reason(), Reason::DistinctSecretsExceeded);
    take("one").unwrap();
    *clock.0.lock().unwrap() += Duration::from_secs(101);
    take("three").unwrap();
}

#[test]
fn more_callers_than_are_remembered_take_no_more_memory() {
    let quota = Quota::new(settings(), hands());
    for caller in 0..150_000 {
        let _ = quota.take(&format!("x509/{caller}").into(), QuotaClass::Read, None);
    }
    assert!(quota.callers() <= 65_536, "{}", quota.callers());
}

#[test]
fn the_starter_policies_are_valid() {
    let deploy = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/policy"));
    assert!(!Policies::load(deploy).unwrap().is_empty());
    assert!(!policies(include_str!("../cli/dev.cedar")).unwrap().is_empty());
}
