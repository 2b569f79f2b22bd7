//! Keys that an issuer signs with, and the tokens that it makes.

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Algorithm;

pub(super) struct SigningKey {
    pub(super) jwk: Value,
    id: String,
    pub(super) algorithm: Algorithm,
    secret: Secret,
}

enum Secret {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    pub(super) fn es256(id: &str) -> Self {
        Self::new(id, Algorithm::Es256)
    }

    pub(super) fn new(id: &str, algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Es256 => Self::ec(id, algorithm, "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::Es384 => Self::ec(id, algorithm, "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::Es512 => Self::ec(id, algorithm, "P-521", &ECDSA_P521_SHA512_FIXED_SIGNING),
            Algorithm::EdDsa => Self::ed25519(id),
            Algorithm::Rs256
            | Algorithm::Rs384
            | Algorithm::Rs512
            | Algorithm::Ps256
            | Algorithm::Ps384
            | Algorithm::Ps512 => Self::rsa(id, algorithm),
        }
    }

    fn ec(id: &str, algorithm: Algorithm, curve: &str, kind: &'static EcdsaSigningAlgorithm) -> Self {
        let pair = EcdsaKeyPair::generate(kind).unwrap();
        let (x, y) = {
            let point = &pair.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            (encode(x), encode(y))
        };
        let jwk = json!({ "kty": "EC", "crv": curve, "x": x, "y": y, "kid": id });
        Self { jwk, id: id.to_owned(), algorithm, secret: Secret::Ec(pair) }
    }

    fn ed25519(id: &str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()), "kid": id });
        Self { jwk, id: id.to_owned(), algorithm: Algorithm::EdDsa, secret: Secret::Ed25519(pair) }
    }

    fn rsa(id: &str, algorithm: Algorithm) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        // SEQUENCE { INTEGER modulus, INTEGER exponent }, of known lengths.
        let modulus = encode(&pair.public_key().as_ref()[9..265]);
        let jwk = json!({ "kty": "RSA", "n": modulus, "e": "AQAB", "kid": id });
        Self { jwk, id: id.to_owned(), algorithm, secret: Secret::Rsa(pair) }
    }

    /// The same key, signing with another algorithm of its family.
    pub(super) fn signing_with(self, algorithm: Algorithm) -> Self {
        Self { algorithm, ..self }
    }

    /// The same key, published under another description.
    pub(super) fn published_with(mut self, member: &str, value: Value) -> Self {
        self.jwk[member] = value;
        self
    }

    pub(super) fn header(&self) -> Value {
        json!({ "alg": self.algorithm.name(), "kid": self.id, "typ": "JWT" })
    }

    pub(super) fn sign(&self, payload: &Value) -> String {
        self.sign_text(&self.header().to_string(), &payload.to_string())
    }

    pub(super) fn sign_text(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", encode(header.as_bytes()), encode(payload.as_bytes()));
        let signature = self.signature(signed.as_bytes());
        format!("{signed}.{}", encode(&signature))
    }

    pub(super) fn public_der(&self) -> Vec<u8> {
        match &self.secret {
            Secret::Rsa(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Secret::Ec(pair) => pair.public_key().as_ref().to_vec(),
            Secret::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.secret {
            Secret::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(self.rsa_encoding(), &random, message, &mut signature).unwrap();
                signature
            }
            Secret::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Secret::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    fn rsa_encoding(&self) -> &'static dyn RsaEncoding {
        match self.algorithm {
            Algorithm::Rs256 => &signature::RSA_PKCS1_SHA256,
            Algorithm::Rs384 => &signature::RSA_PKCS1_SHA384,
            Algorithm::Rs512 => &signature::RSA_PKCS1_SHA512,
            Algorithm::Ps256 => &signature::RSA_PSS_SHA256,
            Algorithm::Ps384 => &signature::RSA_PSS_SHA384,
            Algorithm::Ps512 => &signature::RSA_PSS_SHA512,
            Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::EdDsa => unreachable!("not RSA"),
        }
    }
}

pub(super) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
