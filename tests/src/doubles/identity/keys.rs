//! The RSA keys that an issuer signs with, and the set that it publishes.

use std::sync::Mutex;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// One key at a time, made when it is first needed: rotation withdraws the former.
#[derive(Debug, Default)]
pub(super) struct Keys(Mutex<Option<SigningKey>>);

#[derive(Debug)]
pub(super) struct SigningKey {
    pair: RsaKeyPair,
    id: String,
}

impl Keys {
    pub(super) fn rotate(&self) {
        *self.0.lock().unwrap() = None;
    }

    pub(super) fn sign(&self, claims: &Value) -> String {
        self.0.lock().unwrap().get_or_insert_with(SigningKey::generate).sign(claims)
    }

    pub(super) fn published(&self) -> Value {
        json!({ "keys": [self.0.lock().unwrap().get_or_insert_with(SigningKey::generate).public()] })
    }
}

impl SigningKey {
    pub(super) fn generate() -> Self {
        Self { pair: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(), id: random_hex(20) }
    }

    pub(super) fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": self.id });
        let signed = [&header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn public(&self) -> Value {
        // SEQUENCE { INTEGER modulus, INTEGER exponent }, of known lengths.
        let modulus = URL_SAFE_NO_PAD.encode(&self.pair.public_key().as_ref()[9..265]);
        json!({ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.id, "n": modulus, "e": "AQAB" })
    }

    /// The private key as PKCS#8, in PEM.
    pub(super) fn private_pem(&self) -> String {
        let der: Pkcs8V1Der<'_> = self.pair.as_der().unwrap();
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
    }
}

pub(super) fn random_hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    SystemRandom::new().fill(&mut random).unwrap();
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// In the form of a UUID.
pub(super) fn random_id() -> String {
    let hex = random_hex(16);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
