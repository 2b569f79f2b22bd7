//! PEM as people put it into a store, and what is wrong with it in their words.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// Far beyond any key or chain.
const LONGEST: usize = 64 << 10;

/// The one key in a text. An error ends a sentence that begins with the secret's name.
pub(super) fn private_key(text: &[u8]) -> Result<PrivatePkcs8KeyDer<'static>, &'static str> {
    let labels = labels(text)?;
    let keys: Vec<&str> = labels.into_iter().filter(|label| label.ends_with("PRIVATE KEY")).collect();
    match keys.as_slice() {
        ["PRIVATE KEY"] => PrivatePkcs8KeyDer::from_pem_slice(text)
            .map_err(|_| "holds a private key whose PEM is damaged; store it again, with its line breaks"),
        ["ENCRYPTED PRIVATE KEY"] => Err(
            "holds a key under a passphrase, which the broker does not have; store it without: openssl pkcs8 -in KEY",
        ),
        [_] => Err("holds a key that is not in PKCS #8; convert it: openssl pkcs8 -topk8 -nocrypt -in KEY"),
        [] => Err("holds no private key; store one in PEM, from BEGIN PRIVATE KEY to END PRIVATE KEY"),
        _ => Err("holds more than one private key; leave one"),
    }
}

/// All certificates in a text, in its order.
pub(super) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    labels(text)?;
    let found = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if found.is_empty() => Err("holds no certificate; store one in PEM, from BEGIN CERTIFICATE on"),
        Ok(found) => Ok(found),
        Err(_) => Err("holds a certificate whose PEM is damaged; store it again, with its line breaks"),
    }
}

/// A certificate as text.
pub(super) fn certificate(der: &[u8]) -> String {
    String::from_utf8_lossy(&write("CERTIFICATE", der)).into_owned()
}

/// The text is made in one buffer, so that no copy of a key is left behind by growing.
pub(super) fn write(label: &str, der: &[u8]) -> Vec<u8> {
    let body = Zeroizing::new(BASE64.encode(der));
    let mut text = Vec::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    text.extend_from_slice(format!("-----BEGIN {label}-----\n").as_bytes());
    for line in body.as_bytes().chunks(64) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
    text
}

fn labels(text: &[u8]) -> Result<Vec<&str>, &'static str> {
    if text.len() > LONGEST {
        return Err("is far too long for a key or a certificate; store nothing else in it");
    }
    let text = std::str::from_utf8(text).map_err(|_| "is no text; store PEM, not DER")?;
    let labels = text.lines().filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
    let labels: Vec<_> = labels.collect();
    if labels.is_empty() { Err("is no PEM; store the text that begins with -----BEGIN") } else { Ok(labels) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn says_what_a_text_is_that_is_no_key() {
        let block = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        let cases = [
            (String::new(), "is no PEM"),
            ("{\"type\": \"service_account\"}".into(), "is no PEM"),
            ("x".repeat(70_000), "far too long"),
            (block("CERTIFICATE"), "holds no private key"),
            (block("EC PRIVATE KEY"), "openssl pkcs8 -topk8"),
            (block("RSA PRIVATE KEY"), "openssl pkcs8 -topk8"),
            (block("ENCRYPTED PRIVATE KEY"), "under a passphrase"),
            (block("PRIVATE KEY") + &block("PRIVATE KEY"), "more than one"),
            ("-----BEGIN PRIVATE KEY-----\n%%\n-----END PRIVATE KEY-----\n".into(), "damaged"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA".into(), "damaged"),
        ];
        for (text, fault) in cases {
            let found = private_key(text.as_bytes()).unwrap_err();
            assert!(found.contains(fault), "{found}: {fault}");
        }
        assert!(private_key(&[0x30, 0xff]).unwrap_err().contains("not DER"));
        assert!(certificates(block("PRIVATE KEY").as_bytes()).unwrap_err().contains("holds no certificate"));
    }

    #[test]
    fn finds_a_key_beside_its_certificate() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new([]).unwrap().self_signed(&key).unwrap();
        let text = certificate.pem() + &key.serialize_pem();
        assert_eq!(private_key(text.as_bytes()).unwrap().secret_pkcs8_der(), key.serialized_der());
        assert_eq!(certificates(text.as_bytes()).unwrap(), [certificate.der().clone()]);
    }
}
