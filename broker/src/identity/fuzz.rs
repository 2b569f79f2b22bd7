//! Certificates that somebody changed, and the names in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyferry_fuzz::{Fuzz, Random, Verdict};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SignatureAlgorithm,
};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::{Certificate, CertificateError, SpiffeId};

#[test]
fn no_mutation_of_a_good_certificate_panics_or_verifies() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
        let authority = Authority::new(algorithm);
        let seeds = authority.seeds();
        let trees: Vec<_> = seeds.iter().map(|seed| Element::read_all(seed).unwrap()).collect();
        assert!(trees.iter().map(|tree| written(tree)).eq(seeds.iter().cloned()));
        let mut met = BTreeMap::new();
        let changed = |_: &[u8], random: &mut Random| match random.below(2) {
            0 => bytes_changed(&seeds, random),
            _ => rebuilt(&trees, random),
        };
        Fuzz::new("certificate").seeds(seeds.clone()).mutated_by(&changed).inputs(30_000).holds(|input| {
            *met.entry(parsed(input)).or_insert(0_u64) += 1;
            match authority.verify(input) {
                Ok(()) => assert!(seeds.iter().any(|seed| seed == input), "verified and was never signed"),
                Err(rustls::Error::InvalidCertificate(rustls::CertificateError::BadSignature)) => {
                    *met.entry("signature refused").or_insert(0) += 1;
                }
                Err(_) => {}
            }
            Certificate::parse(input).is_ok().into()
        });
        // Otherwise too little would have come past the first bytes.
        for outcome in ["read", "spiffe", "spiffe refused", "name", "extension", "signature refused"] {
            assert!(met.is_empty() || met.contains_key(outcome), "no mutation came to {outcome:?}: {met:?}");
        }
    }
}

#[test]
fn a_spiffe_id_is_one_text_of_two_parts_and_no_path_leads_elsewhere() {
    let words = ["spiffe://", "SPIFFE:", "prod.example", "/ns/shop", "/..", "/./", "//", ":443", "@", "?", "#", "%2f"];
    Fuzz::new("spiffe-id").words(&words).allocating(4096, 2).holds(|input| {
        let Ok(text) = str::from_utf8(input) else { return Verdict::Refused };
        let Ok(id) = SpiffeId::parse(text) else { return Verdict::Refused };
        assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
        assert!(SpiffeId::is_claimed_by(text) && !id.trust_domain().is_empty());
        assert!(id.path().split('/').skip(1).all(|segment| !matches!(segment, "" | "." | "..")));
        Verdict::Accepted
    });
}

fn parsed(der: &[u8]) -> &'static str {
    match Certificate::parse(der) {
        Ok(certificate) => match certificate.spiffe_id() {
            Ok(None) => "read",
            Ok(Some(id)) => {
                assert!(!certificate.is_ca() && certificate.uris() == [id.to_string()]);
                "spiffe"
            }
            Err(_) => "spiffe refused",
        },
        Err(CertificateError::Malformed) => "malformed",
        Err(CertificateError::Extension(_)) => "extension",
        Err(CertificateError::Name(_) | CertificateError::CommonNameTwice | CertificateError::TooManyNames) => "name",
        Err(CertificateError::TooLarge(_) | CertificateError::Serial | CertificateError::Validity) => "other",
    }
}

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    algorithm: &'static SignatureAlgorithm,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Authority {
    fn new(algorithm: &'static SignatureAlgorithm) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "fuzz CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate_for(algorithm).unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        Self { issuer, algorithm, verifier }
    }

    fn verify(&self, der: &[u8]) -> Result<(), rustls::Error> {
        self.verifier.verify_client_cert(&CertificateDer::from(der), &[], UnixTime::now()).map(drop)
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
        vec![
            self.issue(|params| params.subject_alt_names = vec![uri("spiffe://prod.example/ns/shop/sa/cart")]),
            self.issue(|params| {
                let address = SanType::IpAddress([10, 0, 0, 1].into());
                params.subject_alt_names =
                    vec![dns("cart.example"), dns("*.example"), uri("https://cart.example"), address];
            }),
            self.issue(|params| params.distinguished_name.push(DnType::OrganizationName, "Shop")),
        ]
    }

    fn issue(&self, shape: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "cart");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        shape(&mut params);
        let key = KeyPair::generate_for(self.algorithm).unwrap();
        params.signed_by(&key, &self.issuer).unwrap().der().to_vec()
    }
}

fn bytes_changed(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut der = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(3) {
        let at = random.below(der.len());
        match random.below(8) {
            0 => der.truncate(at + 1),
            1 => drop(der.remove(at)),
            2 => der.insert(at, random.byte()),
            3 => {
                let other = &seeds[random.below(seeds.len())];
                der.truncate(at);
                der.extend_from_slice(&other[random.below(other.len())..]);
            }
            4 => der[at] = random.byte(),
            _ => der[at] ^= 1 << random.below(8),
        }
        if der.is_empty() {
            der.push(random.byte());
        }
    }
    der
}

/// Well-formed DER that says something else, so that what lies behind the lengths is met too.
fn rebuilt(trees: &[Vec<Element>], random: &mut Random) -> Vec<u8> {
    let mut tree = trees[random.below(trees.len())].clone();
    for _ in 0..=random.below(2) {
        let donors = &trees[random.below(trees.len())];
        change(&mut tree, donors, random);
    }
    written(&tree)
}

/// Walks down to some list of elements and changes it there.
fn change(list: &mut Vec<Element>, donors: &[Element], random: &mut Random) {
    let at = random.below(list.len());
    let Some(element) = list.get_mut(at) else { return };
    let donor = &donors[random.below(donors.len())];
    if let Content::List(inner) = &mut element.content
        && random.below(8) != 0
    {
        match &donor.content {
            Content::List(donors) if !donors.is_empty() => change(inner, donors, random),
            Content::List(_) | Content::Bytes(_) => change(inner, std::slice::from_ref(donor), random),
        }
        return;
    }
    match random.below(6) {
        0 => drop(list.remove(at)),
        1 => {
            let again = element.clone();
            list.insert(at, again);
        }
        2 => *element = donor.clone(),
        3 => element.tag = random.byte(),
        _ => match &mut element.content {
            Content::Bytes(bytes) => replace(bytes, random),
            Content::List(inner) => inner.reverse(),
        },
    }
}

fn replace(bytes: &mut Vec<u8>, random: &mut Random) {
    const FRAGMENTS: [&[u8]; 9] = [
        b"",
        b"\0",
        b"spiffe://prod.example/",
        b"spiffe://prod.example/a/../b",
        b"cart\0.example",
        b"\xff\xff\xff\xff",
        b"99991231235959Z",
        b"19500101000000Z",
        &[0x80; 70],
    ];
    let at = random.below(bytes.len());
    match random.below(4) {
        0 => *bytes = FRAGMENTS[random.below(FRAGMENTS.len())].to_vec(),
        1 => bytes.truncate(at),
        _ => match bytes.get_mut(at) {
            Some(byte) => *byte ^= 1 << random.below(8),
            None => bytes.push(random.byte()),
        },
    }
}

/// One element of DER, with what lies within it.
#[derive(Clone)]
struct Element {
    tag: u8,
    content: Content,
}

#[derive(Clone)]
enum Content {
    Bytes(Vec<u8>),
    List(Vec<Element>),
}

impl Element {
    /// `None` where it is not DER from end to end.
    fn read_all(mut der: &[u8]) -> Option<Vec<Self>> {
        let mut list = Vec::new();
        while let Some((&tag, rest)) = der.split_first() {
            let (&first, rest) = rest.split_first()?;
            let more = usize::from(first.saturating_sub(0x80));
            let (length, rest) = rest.split_at_checked(more)?;
            let length =
                length.iter().try_fold(0_usize, |sum, byte| sum.checked_mul(256)?.checked_add(usize::from(*byte)))?;
            let (content, rest) = rest.split_at_checked(if more == 0 { usize::from(first) } else { length })?;
            // An octet string of an extension holds DER as well.
            let inner = (tag & 0x20 != 0 || tag == 0x04).then(|| Self::read_all(content)).flatten();
            let content = inner.map_or_else(|| Content::Bytes(content.to_vec()), Content::List);
            list.push(Self { tag, content });
            der = rest;
        }
        Some(list)
    }

    fn write(&self, der: &mut Vec<u8>) {
        let mut content = match &self.content {
            Content::Bytes(bytes) => bytes.clone(),
            Content::List(list) => written(list),
        };
        der.push(self.tag);
        match u8::try_from(content.len()) {
            Ok(short @ ..0x80) => der.push(short),
            Ok(length) => der.extend([0x81, length]),
            Err(_) => {
                der.push(0x82);
                der.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
            }
        }
        der.append(&mut content);
    }
}

fn written(list: &[Element]) -> Vec<u8> {
    let mut der = Vec::new();
    list.iter().for_each(|element| element.write(&mut der));
    der
}
