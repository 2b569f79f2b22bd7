//! The throw-away token issuer of `keyferry dev`: one key, one token.

use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::Complaint;
use super::dev_pki::write_private;
use crate::clock::{Clock as _, SystemClock};

pub(super) const ISSUER: &str = "https://dev.keyferry.local/";
pub(super) const AUDIENCE: &str = "keyferry-dev";
const LIFETIME_SECONDS: u64 = 7 * 24 * 60 * 60;
const KEY_ID: &str = "dev";

/// Writes `issuer.jwks.json` and `token.jwt`. The key is forgotten: a new start makes a new one.
pub(super) fn write(directory: &Path) -> Result<(), Complaint> {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
    let point = key.public_key().as_ref();
    let (x, y) = point.get(1..33).zip(point.get(33..65)).ok_or("the new key has no coordinates")?;
    let [x, y] = [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
    let jwk = json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": KEY_ID, "x": x, "y": y });
    write_private(&directory.join("issuer.jwks.json"), &json!({ "keys": [jwk] }).to_string())?;

    let now = SystemClock.now().as_secs();
    let header = json!({ "alg": "ES256", "typ": "JWT", "kid": KEY_ID });
    let claims = json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "dev-workload", "roles": ["reader"],
        "iat": now, "exp": now + LIFETIME_SECONDS,
    });
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes())?;
    write_private(&directory.join("token.jwt"), &format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
