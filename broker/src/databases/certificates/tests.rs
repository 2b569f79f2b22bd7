#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertifiedIssuer, ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
};
use x509_parser::parse_x509_certificate;

use super::client_key::{accept, generate};
use super::*;
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::databases::kept::OwnSecret;
use crate::databases::pem;
use crate::databases::tokens::ClientKey;
use crate::error::Reason;
use crate::names::{SecretName, StoreName};
use crate::providers::local::{LocalKey, LocalStore};
use crate::secrets::{Provider, SecretBytes};
use rcgen::{CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose, PublicKeyData as _, date_time_ymd};
use std::time::Duration;

struct World {
    store: Arc<LocalStore>,
    authority: Authority,
    _directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = LocalKey::generate_file(&directory.path().join("key")).unwrap();
        let name = StoreName::from_id("local").unwrap();
        let store = LocalStore::open(name, &directory.path().join("store"), &key, Arc::new(SystemClock)).unwrap();
        let store = Arc::new(store);
        let own = |id: &str| OwnSecret { store: Arc::clone(&store) as Arc<dyn Provider>, name: secret(id) };
        let authority = Authority::new(own("ca"), own("ca-key"), Arc::new(SystemClock));
        Self { store, authority, _directory: directory }
    }

    async fn put(&self, id: &str, text: impl AsRef<str>) {
        let payload = SecretBytes::new(text.as_ref().as_bytes().to_vec());
        self.store.add(&secret(id), payload, Some(Arc::default())).await.unwrap();
    }

    async fn put_ca(&self, ca: &Ca) {
        self.put("ca", ca.pem()).await;
        self.put("ca-key", ca.key().serialize_pem()).await;
        self.authority.refresh().await;
    }

    async fn sign(&self, until: Timestamp) -> Result<(String, Timestamp), Failure> {
        let (public, _) = generate().unwrap();
        let wanted = Wanted { user: "app", caller: "x509/shop", key: &public, now: now(), until };
        self.authority.sign(&wanted).await.map(|signed| (signed.chain, signed.expires))
    }

    /// What a mint is told.
    async fn fault(&self) -> String {
        self.authority.refresh().await;
        let failure = self.sign(now().plus(MINUTE)).await.unwrap_err();
        assert_eq!(failure.reason(), Reason::ProviderCredential, "{failure}");
        failure.to_string()
    }
}

type Ca = CertifiedIssuer<'static, KeyPair>;

const MINUTE: Duration = Duration::from_secs(60);

fn now() -> Timestamp {
    SystemClock.now()
}

fn secret(id: &str) -> SecretName {
    SecretName::parse(&format!("stores/local/secrets/{id}")).unwrap()
}

fn ca_params(name: &str, begins: Timestamp, ends: Timestamp) -> CertificateParams {
    let at = |time: Timestamp| date_time_ymd(1970, 1, 1) + Duration::from_secs(time.as_secs());
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (at(begins), at(ends));
    params
}

fn ca_until(ends: Timestamp) -> Ca {
    let params = ca_params("clients", Timestamp::from_secs(0), ends);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn ca() -> Ca {
    ca_until(now().plus(MINUTE * 60))
}

#[tokio::test]
async fn a_certificate_is_its_users_alone_and_says_who_asked() {
    let world = World::new();
    world.put_ca(&ca()).await;
    let (chain, expires) = world.sign(now().plus(MINUTE)).await.unwrap();
    let ders = pem::certificates(chain.as_bytes()).unwrap();
    assert_eq!(ders.len(), 1, "the root is known to who verifies");
    let (_, certificate) = parse_x509_certificate(&ders[0]).unwrap();
    assert_eq!(certificate.subject().to_string(), "O=x509/shop, CN=app");
    assert!(certificate.subject_alternative_name().unwrap().is_none());
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert!(!certificate.is_ca());
    assert_eq!(certificate.raw_serial().len(), 16);
    let (begins, ends) = (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    assert_eq!(u64::try_from(ends).unwrap(), expires.as_secs());
    assert!((89..=90).contains(&(ends - begins)), "a minute, and half a minute back: {}", ends - begins);
    let (again, _) = world.sign(now().plus(MINUTE)).await.unwrap();
    let again = pem::certificates(again.as_bytes()).unwrap();
    assert_ne!(parse_x509_certificate(&again[0]).unwrap().1.raw_serial(), certificate.raw_serial());
}

#[tokio::test]
async fn a_certificate_never_outlives_its_ca_nor_what_issued_that() {
    let world = World::new();
    let root_ends = now().plus(MINUTE * 2);
    let root = ca_until(root_ends);
    let params = ca_params("below", Timestamp::from_secs(0), now().plus(MINUTE * 10));
    let below = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
    world.put("ca", below.pem() + &root.pem()).await;
    world.put("ca-key", below.key().serialize_pem()).await;
    world.authority.refresh().await;
    let (chain, expires) = world.sign(now().plus(MINUTE * 30)).await.unwrap();
    assert_eq!(expires.as_secs(), root_ends.as_secs());
    let ders = pem::certificates(chain.as_bytes()).unwrap();
    assert_eq!(ders[1..], [below.der().clone()], "what leads to the root goes along, the root does not");
}

#[tokio::test]
async fn a_ca_out_of_its_time_says_so() {
    let world = World::new();
    world.put_ca(&ca_until(Timestamp::from_secs(1_000_000_000))).await;
    let fault = world.fault().await;
    assert!(fault.contains("stores/local/secrets/ca holds a CA that ended at 2001-09-09"), "{fault}");
    let params = ca_params("clients", now().plus(MINUTE), now().plus(MINUTE * 2));
    world.put_ca(&CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()).await;
    let fault = world.fault().await;
    assert!(fault.contains("holds a CA that begins only at"), "{fault}");
}

#[tokio::test]
async fn each_thing_wrong_with_the_secrets_has_its_own_words() {
    let world = World::new();
    let absent = world.fault().await;
    assert!(absent.contains("stores/local/secrets/ca, which the broker works with, cannot be read"), "{absent}");
    let (good, other) = (ca(), ca());
    world.put("ca-key", other.key().serialize_pem()).await;
    let leaf = CertificateParams::new([]).unwrap().signed_by(&KeyPair::generate().unwrap(), &good).unwrap();
    let strangers = good.pem() + &ca_other().pem();
    let cases = [
        ("{\"no\": \"pem\"}".to_owned(), "stores/local/secrets/ca is no PEM"),
        (good.key().serialize_pem(), "ca holds no certificate"),
        (leaf.pem(), "ca holds a certificate that may not issue others"),
        (strangers, "ca holds certificates of which one is not issued by the next"),
        (good.pem(), "ca-key holds a key that is not of the CA in stores/local/secrets/ca"),
    ];
    for (text, fault) in cases {
        world.put("ca", text).await;
        let found = world.fault().await;
        assert!(found.contains(fault), "{found}");
    }
    for (text, fault) in [
        (good.pem(), "ca-key holds no private key"),
        (include_str!("../testdata/rsa-1024.key").to_owned(), "ca-key holds a key that no CA should have"),
        ("-----BEGIN RSA PRIVATE KEY-----\nAA==\n-----END RSA PRIVATE KEY-----\n".to_owned(), "openssl pkcs8 -topk8"),
    ] {
        world.put("ca-key", text).await;
        let found = world.fault().await;
        assert!(found.contains(fault), "{found}");
    }
}

fn ca_other() -> Ca {
    let params = ca_params("others", Timestamp::from_secs(0), now().plus(MINUTE));
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test]
async fn the_last_good_ca_signs_until_its_successor_is_whole() {
    let world = World::new();
    let (first, second) = (ca(), ca());
    world.put_ca(&first).await;
    world.put("ca", second.pem()).await;
    world.authority.refresh().await;
    assert!(world.sign(now().plus(MINUTE)).await.is_ok(), "half a change is none");
    assert!(world.authority.account().failure.is_some());
    world.put("ca-key", second.key().serialize_pem()).await;
    world.authority.refresh().await;
    assert!(world.authority.account().failure.is_none());
    let (chain, _) = world.sign(now().plus(MINUTE)).await.unwrap();
    let ders = pem::certificates(chain.as_bytes()).unwrap();
    let (_, issuer) = parse_x509_certificate(second.der()).unwrap();
    parse_x509_certificate(&ders[0]).unwrap().1.verify_signature(Some(issuer.public_key())).unwrap();
}

#[tokio::test]
async fn one_secret_may_hold_both_and_every_usual_key_signs() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &rcgen::PKCS_RSA_SHA256] {
        let world = World::new();
        let key = if algorithm == &rcgen::PKCS_RSA_SHA256 {
            KeyPair::from_pem(include_str!("../testdata/rsa-2048.key")).unwrap()
        } else {
            KeyPair::generate_for(algorithm).unwrap()
        };
        let params = ca_params("clients", Timestamp::from_secs(0), now().plus(MINUTE * 5));
        let ca = CertifiedIssuer::self_signed(params, key).unwrap();
        let both = ca.pem() + &ca.key().serialize_pem();
        world.put("ca", &both).await;
        world.put("ca-key", &both).await;
        world.authority.refresh().await;
        let (chain, _) = world.sign(now().plus(MINUTE)).await.unwrap();
        let ders = pem::certificates(chain.as_bytes()).unwrap();
        let (_, issuer) = parse_x509_certificate(ca.der()).unwrap();
        parse_x509_certificate(&ders[0]).unwrap().1.verify_signature(Some(issuer.public_key())).unwrap();
    }
}

fn request(key: &KeyPair, shape: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "app");
    shape(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

#[test]
fn takes_the_callers_own_key_of_every_usual_kind() {
    let rsa = KeyPair::from_pem(include_str!("../testdata/rsa-2048.key")).unwrap();
    let made = [&rcgen::PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519]
        .map(|algorithm| KeyPair::generate_for(algorithm).unwrap());
    for key in made.iter().chain([&rsa]) {
        assert!(accept(&ClientKey::Public(key.public_key_pem()), "app").is_ok());
        assert!(accept(&ClientKey::Request(request(key, |_| {})), "app").is_ok());
        let nameless = request(key, |params| params.distinguished_name = DistinguishedName::new());
        assert!(accept(&ClientKey::Request(nameless), "app").is_ok());
    }
}

#[test]
fn refuses_a_key_that_is_none_or_weak() {
    let good = KeyPair::generate().unwrap();
    let mut off_curve = good.subject_public_key_info();
    let last = off_curve.len() - 1;
    off_curve[last] ^= 1;
    let off_curve = String::from_utf8(pem::write("PUBLIC KEY", &off_curve)).unwrap();
    let cut = String::from_utf8(pem::write("PUBLIC KEY", &good.subject_public_key_info()[..40])).unwrap();
    let mut long = good.subject_public_key_info();
    long.push(0);
    let long = String::from_utf8(pem::write("PUBLIC KEY", &long)).unwrap();
    let cases = [
        (String::new(), "is no PEM"),
        ("x".repeat(9000), "longer than 8 KiB"),
        (good.public_key_pem() + &" ".repeat(8192), "longer than 8 KiB"),
        (good.public_key_pem().repeat(2), "more than one thing"),
        (good.serialize_pem(), "holds a private key"),
        (request(&good, |_| {}), "is no public key"),
        (cut, "is no public key"),
        (long, "is no public key"),
        (off_curve, "no point of its curve"),
        (include_str!("../testdata/rsa-1024.pub").to_owned(), "too weak"),
        (include_str!("../testdata/secp256k1.pub").to_owned(), "of a kind that is not accepted"),
    ];
    for (text, fault) in cases {
        let failure = accept(&ClientKey::Public(text), "app").unwrap_err();
        assert_eq!(failure.reason(), Reason::InvalidPublicKey);
        assert!(failure.message().starts_with("public_key_pem: ") && failure.message().contains(fault), "{failure}");
    }
}

#[test]
fn refuses_a_request_for_more_than_the_role_grants() {
    let key = KeyPair::generate().unwrap();
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let forged = {
        // Somebody else's key in a request that its owner signed.
        let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let honest = rustls::pki_types::pem::PemObject::from_pem_slice(request(&one, |_| {}).as_bytes());
        let honest: rustls::pki_types::CertificateSigningRequestDer<'_> = honest.unwrap();
        let (from, to) = (one.public_key_raw(), other.public_key_raw());
        let at = honest.windows(from.len()).position(|window| window == from).unwrap();
        let mut bytes = honest.to_vec();
        bytes[at..at + to.len()].copy_from_slice(to);
        String::from_utf8(pem::write("CERTIFICATE REQUEST", &bytes)).unwrap()
    };
    let cases = [
        (request(&key, |params| params.distinguished_name.push(DnType::CommonName, "root")), "another subject"),
        (request(&key, |params| params.distinguished_name.push(DnType::OrganizationName, "x509/x")), "another subject"),
        (request(&key, |params| params.subject_alt_names = vec![dns("root")]), "alternative names"),
        (request(&key, |params| params.subject_alt_names = vec![dns("app")]), "alternative names"),
        (request(&key, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "asks to be a CA"),
        (request(&key, |params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]), "key usage of CAs"),
        (
            request(&key, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            "other than clientAuth",
        ),
        (forged, "not signed by its own key"),
        (include_str!("../testdata/rsa-1024.csr").to_owned(), "too weak"),
        (include_str!("../testdata/sha1.csr").to_owned(), "signed with SHA-1"),
        (key.public_key_pem(), "is no certificate request"),
    ];
    for (text, fault) in cases {
        let failure = accept(&ClientKey::Request(text), "app").unwrap_err();
        assert_eq!(failure.reason(), Reason::InvalidPublicKey);
        assert!(failure.message().starts_with("csr_pem: ") && failure.message().contains(fault), "{failure}");
    }
}
