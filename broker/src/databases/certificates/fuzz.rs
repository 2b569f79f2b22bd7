//! Keys that callers send to have certified, and those that certify.

use keyferry_fuzz::Fuzz;
use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData as _, SanType};

use super::ca_key::CaKey;
use super::client_key::accept;
use crate::databases::tokens::ClientKey;

const WORDS: [&str; 7] = [
    "-----BEGIN PUBLIC KEY-----\n",
    "-----END PUBLIC KEY-----\n",
    "-----BEGIN CERTIFICATE REQUEST-----\n",
    "-----END CERTIFICATE REQUEST-----\n",
    "-----BEGIN PRIVATE KEY-----\n",
    "\r\n",
    "AAAA",
];

#[test]
fn a_key_that_is_accepted_is_the_one_that_was_sent_and_asks_for_nobody_else() {
    let pair = KeyPair::generate().unwrap();
    let request = |shape: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        shape(&mut params);
        params.serialize_request(&pair).unwrap().pem().unwrap()
    };
    let good = [
        request(&|_| {}),
        request(&|params| params.distinguished_name.push(DnType::CommonName, "app")),
        pair.public_key_pem(),
    ];
    let others = [
        request(&|params| params.distinguished_name.push(DnType::CommonName, "root")),
        request(&|params| params.subject_alt_names = vec![SanType::DnsName("app".try_into().unwrap())]),
        include_str!("../testdata/secp256k1.pub").to_owned(),
        include_str!("../testdata/rsa-2048.key").to_owned(),
    ];
    let sound = pair.der_bytes();
    let seeds = good.iter().chain(&others).map(|text| text.clone().into_bytes());
    Fuzz::new("client-keys").words(&WORDS).seeds(seeds).inputs(4000).allocating(1 << 17, 64).holds(|input| {
        let ca = CaKey::parse(input).is_ok();
        let Ok(text) = str::from_utf8(input) else { return ca.into() };
        let asked = accept(&ClientKey::Request(text.into()), "app");
        // Its signature binds a request to the key that is in it: with another key nobody could have made it.
        assert!(asked.as_ref().ok().is_none_or(|key| key.der_bytes() == sound));
        let public = accept(&ClientKey::Public(text.into()), "app");
        (ca || asked.is_ok() || public.is_ok()).into()
    });
}
