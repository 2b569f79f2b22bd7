//! A key that signs tokens, and what the world is told of it.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Map, Value, json};

use crate::databases::pem;
use crate::error::{Failure, Reason};

/// A parsed key, so that a mint parses nothing.
pub(super) struct SigningKey {
    pair: Pair,
    /// As it stands in every token.
    header: String,
    public: Map<String, Value>,
}

enum Pair {
    Es256(EcdsaKeyPair),
    Rs256(RsaKeyPair),
}

impl SigningKey {
    /// An error ends a sentence that begins with the secret's name.
    pub(super) fn parse(text: &[u8]) -> Result<Self, &'static str> {
        let der = pem::private_key(text)?;
        let der = der.secret_pkcs8_der();
        let (pair, public) = if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
            // An uncompressed point: a mark, then both coordinates.
            let (x, y) = pair.public_key().as_ref().get(1..).unwrap_or_default().split_at_checked(32).ok_or(KINDS)?;
            let public = json!({ "crv": "P-256", "kty": "EC", "x": encode(x), "y": encode(y) });
            (Pair::Es256(pair), public)
        } else if let Ok(pair) = RsaKeyPair::from_pkcs8(der) {
            let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
            (Pair::Rs256(pair), json!({ "e": encode(e), "kty": "RSA", "n": encode(n) }))
        } else {
            return Err(KINDS);
        };
        let Value::Object(mut public) = public else { return Err(KINDS) };
        // RFC 7638 hashes the required members, in the order of their names, as they stand here.
        let id = encode(digest(&SHA256, Value::Object(public.clone()).to_string().as_bytes()));
        let algorithm = match pair {
            Pair::Es256(_) => "ES256",
            Pair::Rs256(_) => "RS256",
        };
        for (name, value) in [("alg", algorithm), ("kid", id.as_str()), ("use", "sig")] {
            public.insert(name.to_owned(), value.into());
        }
        let header = encode(json!({ "alg": algorithm, "kid": id, "typ": "JWT" }).to_string());
        Ok(Self { pair, header, public })
    }

    /// As it stands in a JWKS.
    pub(super) fn public(&self) -> &Map<String, Value> {
        &self.public
    }

    /// The token with these claims.
    pub(super) fn sign(&self, claims: &[u8]) -> Result<String, Failure> {
        let mut token = String::with_capacity(self.header.len() + 2 * claims.len() + 512);
        token.push_str(&self.header);
        token.push('.');
        BASE64URL.encode_string(claims, &mut token);
        let random = SystemRandom::new();
        let failed =
            |error| Failure::new(Reason::Internal, "a token could not be signed; report this").caused_by(error);
        let signature = match &self.pair {
            Pair::Es256(pair) => pair.sign(&random, token.as_bytes()).map_err(failed)?.as_ref().to_vec(),
            Pair::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, token.as_bytes(), &mut signature).map_err(failed)?;
                signature
            }
        };
        token.push('.');
        BASE64URL.encode_string(signature, &mut token);
        Ok(token)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

const KINDS: &str = "holds a key that signs neither ES256 nor RS256; store one of ECDSA P-256, or of RSA with 2048 to \
                     8192 bits: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256";

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64URL.encode(bytes)
}
