//! What databases and people's secrets hold.

use keyferry_fuzz::{Fuzz, Verdict};

use super::pem;
use super::users::{Tag, UserName};

#[test]
fn a_comment_in_a_database_is_a_tag_or_somebody_elses() {
    let words = ["keyferry ", "d1 ", "0a ", "reader ", "x509/cart", "  ", "kf_"];
    Fuzz::new("database-tags").words(&words).allocating(4096, 8).holds(|input| {
        let Ok(text) = str::from_utf8(input) else { return Verdict::Refused };
        let tag = Tag::parse(text);
        assert!(tag.as_ref().is_none_or(|tag| tag.to_string() == text));
        // It is spliced into statements.
        let user = UserName::parse(text);
        assert!(user.as_ref().is_none_or(|user| !user.as_str().contains(['"', '\'', '\\', '\0', ' '])));
        (tag.is_some() || user.is_some()).into()
    });
}

#[test]
fn pem_holds_what_it_says_and_is_written_as_it_is_read() {
    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&pair).unwrap();
    let key = pair.serialize_pem();
    let rsa = include_str!("testdata/rsa-2048.key").to_owned();
    let seeds = [certificate.pem() + &key, key, rsa].map(String::into_bytes);
    let words =
        ["-----BEGIN PRIVATE KEY-----\n", "-----END PRIVATE KEY-----\n", "-----BEGIN CERTIFICATE-----\n", "AAAA\n"];
    Fuzz::new("pem").seeds(seeds).words(&words).inputs(5000).allocating(1 << 16, 64).holds(|input| {
        let key = pem::private_key(input);
        if let Ok(key) = &key {
            let written = pem::write("PRIVATE KEY", key.secret_pkcs8_der());
            assert_eq!(pem::private_key(&written).unwrap().secret_pkcs8_der(), key.secret_pkcs8_der());
        }
        let certificates = pem::certificates(input);
        for der in certificates.iter().flatten() {
            assert_eq!(pem::certificates(pem::certificate(der).as_bytes()).unwrap(), std::slice::from_ref(der));
        }
        (key.is_ok() || certificates.is_ok()).into()
    });
}
