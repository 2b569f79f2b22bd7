//! An issuer of tokens whose keys are pinned in a file.

use std::fs;
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyferry_broker::clock::{Clock as _, SystemClock};
use keyferry_broker::digest::Digest;
use serde_json::{Value, json};

pub const URL: &str = "https://issuer.test/";
pub const AUDIENCE: &str = "keyferry-test";

#[derive(Debug)]
pub struct Issuer {
    key: EcdsaKeyPair,
    kid: String,
}

impl Issuer {
    pub fn new(kid: &str) -> Self {
        Self { key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(), kid: kid.to_owned() }
    }

    /// Configuration for a broker whose directory has this issuer's keys in `issuer.jwks.json`.
    pub fn configuration() -> String {
        format!(
            "[issuers.test]\nurl = \"{URL}\"\naudiences = [\"{AUDIENCE}\"]\nkeys = \"issuer.jwks.json\"\n\
             refresh_interval = \"1s\"\n"
        )
    }

    pub fn write_keys(&self, directory: &Path) {
        write_keys(directory, &[self]);
    }

    /// A token with the usual claims for `sub`, and these over them; a claim of `null` is left out.
    pub fn token(&self, sub: &str, claims: &Value) -> String {
        let now = SystemClock.now().as_secs();
        let mut all = json!({ "iss": URL, "aud": AUDIENCE, "sub": sub, "iat": now, "exp": now + 600 });
        for (name, value) in claims.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": self.kid });
        let signed = [header, all].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Bound to the certificate with this DER (RFC 8705).
    pub fn bound_token(&self, sub: &str, certificate: &[u8]) -> String {
        self.token(sub, &Self::binding(certificate))
    }

    /// The claim that binds a token to the certificate with this DER.
    pub fn binding(certificate: &[u8]) -> Value {
        json!({ "cnf": { "x5t#S256": URL_SAFE_NO_PAD.encode(Digest::of(certificate).0) } })
    }

    fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let coordinate = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
            "x": coordinate(1..33), "y": coordinate(33..65),
        })
    }
}

/// Pins these issuers' keys, in place of what was pinned.
pub fn write_keys(directory: &Path, issuers: &[&Issuer]) {
    let keys: Vec<_> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    fs::write(directory.join("issuer.jwks.json"), json!({ "keys": keys }).to_string()).unwrap();
}
