#![allow(clippy::unwrap_used)]

use super::key::SigningKey;
use super::*;

#[test]
fn the_id_of_a_key_is_its_thumbprint() {
    let key = rcgen::KeyPair::generate().unwrap();
    let parsed = SigningKey::parse(key.serialize_pem().as_bytes()).unwrap();
    let member = |name: &str| parsed.public()[name].as_str().unwrap().to_owned();
    let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, member("x"), member("y"));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, canonical.as_bytes());
    assert_eq!(member("kid"), BASE64URL.encode(digest));
    assert_eq!((member("use"), member("alg")), ("sig".to_owned(), "ES256".to_owned()));
}

#[test]
fn refuses_a_key_that_cannot_sign_what_databases_take() {
    let pem = |algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem();
    let weak = include_str!("../testdata/rsa-1024.key").to_owned();
    for text in [pem(&rcgen::PKCS_ED25519), pem(&rcgen::PKCS_ECDSA_P384_SHA384), weak] {
        let fault = SigningKey::parse(text.as_bytes()).unwrap_err();
        assert!(fault.starts_with("holds a key that signs neither ES256 nor RS256"), "{fault}");
    }
    let rsa = SigningKey::parse(include_bytes!("../testdata/rsa-2048.key")).unwrap();
    assert_eq!(rsa.public()["alg"], "RS256");
}
