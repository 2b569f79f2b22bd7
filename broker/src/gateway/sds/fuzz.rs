//! Values that become what Envoys are given: PEM, as whoever may write the secret put it there.

use keyferry_fuzz::Fuzz;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{Kind, Material, Resource};
use crate::clock::Timestamp;
use crate::names::SecretName;
use crate::secrets::SecretBytes;

const WORDS: [&str; 8] = [
    "-----BEGIN CERTIFICATE-----\n",
    "-----END CERTIFICATE-----\n",
    "-----BEGIN PRIVATE KEY-----\n",
    "-----END PRIVATE KEY-----\n",
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
    "-----",
    "AAAA\n",
    "\r\n",
];

#[test]
fn what_is_published_is_whole_and_no_key_stands_among_the_certificates() {
    let secret = SecretName::parse("stores/a/secrets/web").unwrap();
    let resource = |kind| Resource { kind, secret: secret.clone(), key: None };
    let (pair, ca) = (resource(Kind::TlsCertificate), resource(Kind::ValidationContext));
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["web.test".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2090, 1, 1);
    let certificate = params.self_signed(&key).unwrap().pem();
    let key = key.serialize_pem();
    let seeds = [format!("{certificate}{key}"), format!("{key}{certificate}{certificate}")];
    let now = Timestamp::from_secs(1_800_000_000);
    let seeds = seeds.map(String::into_bytes);
    Fuzz::new("sds-material").words(&WORDS).seeds(seeds).inputs(4000).allocating(1 << 17, 256).holds(|input| {
        let value = [SecretBytes::new(input.to_vec())];
        let mut published = false;
        if let Ok(Material::TlsCertificate { chain, key }) = Material::check(&pair, &value, now) {
            assert!(!holds(&chain, b"PRIVATE KEY-----") && certificates(&chain) > 0);
            assert!(PrivateKeyDer::from_pem_slice(key.expose()).is_ok() && !holds(&key, b" CERTIFICATE-----"));
            published = true;
        }
        if let Ok(Material::ValidationContext { ca }) = Material::check(&ca, &value, now) {
            assert!(!holds(&ca, b"PRIVATE KEY-----") && certificates(&ca) > 0);
            published = true;
        }
        published.into()
    });
}

fn holds(text: &SecretBytes, part: &[u8]) -> bool {
    text.expose().windows(part.len()).any(|window| window == part)
}

fn certificates(text: &SecretBytes) -> usize {
    CertificateDer::pem_slice_iter(text.expose()).map(Result::unwrap).count()
}
