//! A CA's private key, in the memory of the cryptographic library alone.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256,
};
use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};

use crate::databases::pem;

pub(super) struct CaKey {
    pair: Pair,
    algorithm: &'static SignatureAlgorithm,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl CaKey {
    /// An error ends a sentence that begins with the secret's name.
    pub(super) fn parse(text: &[u8]) -> Result<Self, &'static str> {
        let der = pem::private_key(text)?;
        let der = der.secret_pkcs8_der();
        let (pair, algorithm) = if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der) {
            (Pair::Ecdsa(pair), &rcgen::PKCS_ECDSA_P256_SHA256)
        } else if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, der) {
            (Pair::Ecdsa(pair), &rcgen::PKCS_ECDSA_P384_SHA384)
        } else if let Ok(pair) = Ed25519KeyPair::from_pkcs8(der) {
            (Pair::Ed25519(pair), &rcgen::PKCS_ED25519)
        } else if let Ok(pair) = RsaKeyPair::from_pkcs8(der) {
            (Pair::Rsa(pair), &rcgen::PKCS_RSA_SHA256)
        } else {
            return Err("holds a key that no CA should have; use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to \
                            8192 bits");
        };
        Ok(Self { pair, algorithm })
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        match &self.pair {
            Pair::Ecdsa(pair) => pair.public_key().as_ref(),
            Pair::Ed25519(pair) => pair.public_key().as_ref(),
            Pair::Rsa(pair) => pair.public_key().as_ref(),
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let random = SystemRandom::new();
        let failed = |_| rcgen::Error::RemoteKeyError;
        match &self.pair {
            Pair::Ecdsa(pair) => Ok(pair.sign(&random, message).map_err(failed)?.as_ref().to_vec()),
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
        }
    }
}

impl fmt::Debug for CaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}
