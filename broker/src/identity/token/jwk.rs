//! One public key of an issuer, ready to verify with each algorithm that is allowed and fits it.

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::algorithm::Algorithm;
use super::json::{Json, Object};
use super::roca;
use crate::digest::Digest;

#[derive(Debug)]
pub(super) struct Key {
    id: Option<Box<str>>,
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
    fingerprint: Digest,
}

/// Why a published key is left aside. The others of its set remain usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("not an object of strings as RFC 7517 has it")]
    Shape,
    #[error("a key type or curve that no allowed algorithm uses")]
    Kind,
    #[error("published for another use than signatures")]
    Use,
    #[error("published for an algorithm that is unknown, not allowed or does not fit it")]
    Algorithm,
    #[error("published together with its private part, so anybody may sign with it")]
    Private,
    #[error("RSA of fewer than 2048 or more than 8192 bits")]
    RsaSize,
    #[error("an RSA exponent that is even, one, or longer than 32 bits")]
    RsaExponent,
    #[error("RSA from a generator whose keys can be factored (CVE-2017-15361)")]
    Factorable,
    #[error("not a point of its curve, or coordinates of the wrong length")]
    Point,
}

impl Key {
    pub(super) fn parse(jwk: &Object, allowed: &[Algorithm]) -> Result<Self, Unusable> {
        if ["d", "p", "q", "k", "oth"].iter().any(|member| jwk.contains_key(*member)) {
            return Err(if text(jwk, "kty")? == Some("oct") { Unusable::Kind } else { Unusable::Private });
        }
        for_signatures(jwk)?;
        let material = Material::parse(jwk)?;
        let fitting = material.algorithms();
        let mut algorithms: Vec<_> = allowed.iter().copied().filter(|one| fitting.contains(one)).collect();
        if algorithms.is_empty() {
            return Err(Unusable::Kind);
        }
        if let Some(name) = text(jwk, "alg")? {
            let own = name.parse().map_err(|_| Unusable::Algorithm)?;
            algorithms.retain(|algorithm| *algorithm == own);
        }
        let verifiers: Vec<_> = algorithms
            .into_iter()
            .map(|algorithm| Ok((algorithm, material.verifier(algorithm)?)))
            .collect::<Result<_, Unusable>>()?;
        if verifiers.is_empty() {
            return Err(Unusable::Algorithm);
        }
        let id = text(jwk, "kid")?.map(Box::from);
        Ok(Self { fingerprint: fingerprint(id.as_deref(), &verifiers), id, verifiers })
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Changes with the key's name, its material, and what it may be used for.
    pub(super) fn fingerprint(&self) -> Digest {
        self.fingerprint
    }

    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        self.verifier(algorithm).is_some()
    }

    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.verifier(algorithm).is_some_and(|key| key.verify_sig(message, signature).is_ok())
    }

    fn verifier(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        self.verifiers.iter().find(|(one, _)| *one == algorithm).map(|(_, key)| key)
    }
}

enum Material {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    Ec { curve: Curve, point: Vec<u8> },
    Ed25519(Vec<u8>),
}

#[derive(Clone, Copy)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Material {
    fn parse(jwk: &Object) -> Result<Self, Unusable> {
        match (text(jwk, "kty")?, text(jwk, "crv")?) {
            (Some("RSA"), _) => Self::rsa(&bytes(jwk, "n")?, &bytes(jwk, "e")?),
            (Some("EC"), Some("P-256")) => Self::ec(Curve::P256, 32, jwk),
            (Some("EC"), Some("P-384")) => Self::ec(Curve::P384, 48, jwk),
            (Some("EC"), Some("P-521")) => Self::ec(Curve::P521, 66, jwk),
            (Some("OKP"), Some("Ed25519")) => Ok(Self::Ed25519(sized(bytes(jwk, "x")?, 32)?)),
            (Some(_), _) => Err(Unusable::Kind),
            (None, _) => Err(Unusable::Shape),
        }
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, Unusable> {
        // Some issuers pad the modulus to a byte boundary with a leading zero.
        let modulus = without_leading_zeros(modulus);
        let exponent = without_leading_zeros(exponent);
        let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        if !(2048..=8192).contains(&bits) {
            return Err(Unusable::RsaSize);
        }
        if exponent.len() > 4 || exponent == [1] || exponent.last().is_none_or(|byte| byte % 2 == 0) {
            return Err(Unusable::RsaExponent);
        }
        if roca::is_factorable(modulus) {
            return Err(Unusable::Factorable);
        }
        Ok(Self::Rsa { modulus: modulus.to_vec(), exponent: exponent.to_vec() })
    }

    fn ec(curve: Curve, coordinate: usize, jwk: &Object) -> Result<Self, Unusable> {
        const UNCOMPRESSED: u8 = 4;
        let mut point = vec![UNCOMPRESSED];
        point.extend(sized(bytes(jwk, "x")?, coordinate)?);
        point.extend(sized(bytes(jwk, "y")?, coordinate)?);
        Ok(Self::Ec { curve, point })
    }

    fn algorithms(&self) -> &'static [Algorithm] {
        use Algorithm::{EdDsa, Es256, Es384, Es512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        match self {
            Self::Rsa { .. } => &[Rs256, Rs384, Rs512, Ps256, Ps384, Ps512],
            Self::Ec { curve: Curve::P256, .. } => &[Es256],
            Self::Ec { curve: Curve::P384, .. } => &[Es384],
            Self::Ec { curve: Curve::P521, .. } => &[Es512],
            Self::Ed25519(_) => &[EdDsa],
        }
    }

    fn verifier(&self, algorithm: Algorithm) -> Result<ParsedPublicKey, Unusable> {
        match self {
            Self::Rsa { modulus, exponent } => {
                let parameters = rsa_parameters(algorithm).ok_or(Unusable::Algorithm)?;
                PublicKeyComponents { n: modulus, e: exponent }
                    .to_parsed_public_key(parameters)
                    .map_err(|_| Unusable::RsaSize)
            }
            Self::Ec { curve, point } => ParsedPublicKey::new(curve.verification(), point).map_err(|_| Unusable::Point),
            Self::Ed25519(key) => ParsedPublicKey::new(&signature::ED25519, key).map_err(|_| Unusable::Point),
        }
    }
}

impl Curve {
    fn verification(self) -> &'static EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::P384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::P521 => &signature::ECDSA_P521_SHA512_FIXED,
        }
    }
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::EdDsa => None,
    }
}

fn for_signatures(jwk: &Object) -> Result<(), Unusable> {
    if text(jwk, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err(Unusable::Use);
    }
    match jwk.get("key_ops") {
        None => Ok(()),
        Some(Json::Array(operations)) if operations.iter().any(|one| one.as_str() == Some("verify")) => Ok(()),
        Some(Json::Array(_)) => Err(Unusable::Use),
        Some(_) => Err(Unusable::Shape),
    }
}

fn fingerprint(id: Option<&str>, verifiers: &[(Algorithm, ParsedPublicKey)]) -> Digest {
    let names = verifiers.iter().map(|(algorithm, _)| algorithm.name()).collect::<Vec<_>>().join(",");
    let material = verifiers.first().map_or(&[][..], |(_, key)| key.as_ref());
    // No algorithm's name has a zero byte, and only the last part, whose length is then known, may have any.
    let id = Digest::of(id.map_or_else(String::new, |id| format!("={id}")).as_bytes());
    Digest::of_parts(&[&id.0, names.as_bytes(), &[0], material])
}

fn text<'a>(jwk: &'a Object, member: &str) -> Result<Option<&'a str>, Unusable> {
    jwk.get(member).map(|value| value.as_str().ok_or(Unusable::Shape)).transpose()
}

fn bytes(jwk: &Object, member: &str) -> Result<Vec<u8>, Unusable> {
    let encoded = text(jwk, member)?.ok_or(Unusable::Shape)?;
    URL_SAFE_NO_PAD.decode(encoded).map_err(|_| Unusable::Shape)
}

fn sized(bytes: Vec<u8>, length: usize) -> Result<Vec<u8>, Unusable> {
    if bytes.len() == length { Ok(bytes) } else { Err(Unusable::Point) }
}

fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

#[cfg(test)]
mod tests {
    use super::super::json::read_object;
    use super::*;

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Key, Unusable> {
        let (n, e) = (URL_SAFE_NO_PAD.encode(modulus), URL_SAFE_NO_PAD.encode(exponent));
        let jwk = format!(r#"{{"kty":"RSA","n":"{n}","e":"{e}"}}"#);
        Key::parse(&read_object(jwk.as_bytes()).unwrap(), &[Algorithm::Rs256])
    }

    #[test]
    fn bounds_the_size_of_rsa_keys() {
        for (bytes, good) in [(128, false), (255, false), (256, true), (1024, true), (1025, false)] {
            assert_eq!(rsa(&vec![0xff; bytes], &[1, 0, 1]).is_ok(), good, "{bytes}");
        }
        let mut short = vec![0xff; 256];
        short[0] = 0x7f;
        assert_eq!(rsa(&short, &[1, 0, 1]).err(), Some(Unusable::RsaSize));
        let mut padded = vec![0xff; 257];
        padded[0] = 0;
        assert!(rsa(&padded, &[1, 0, 1]).is_ok());
        assert_eq!(rsa(&[], &[1, 0, 1]).err(), Some(Unusable::RsaSize));
    }

    #[test]
    fn refuses_exponents_that_sign_nothing() {
        for exponent in [&[][..], &[0], &[1], &[2], &[1, 0, 0], &[1, 0, 0, 0, 1]] {
            assert_eq!(rsa(&[0xff; 256], exponent).err(), Some(Unusable::RsaExponent), "{exponent:?}");
        }
    }

    #[test]
    fn a_fingerprint_tells_name_material_and_use() {
        let all = Algorithm::ALL;
        let of = |jwk: &str, allowed: &[Algorithm]| {
            Key::parse(&read_object(jwk.as_bytes()).unwrap(), allowed).unwrap().fingerprint()
        };
        let n = URL_SAFE_NO_PAD.encode([0xff; 256]);
        let key = |rest: &str| format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB"{rest}}}"#);
        let prints = [
            of(&key(""), &all),
            of(&key(r#","kid":"""#), &all),
            of(&key(r#","kid":"a""#), &all),
            of(&key(r#","kid":"a","alg":"RS256""#), &all),
            of(&key(r#","kid":"a","alg":"PS256""#), &all),
        ];
        for (index, print) in prints.iter().enumerate() {
            assert!(!prints[..index].contains(print), "{index}");
        }
    }
}
