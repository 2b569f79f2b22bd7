//! Values made of nothing but chance.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::error::{Failure, Reason};
use crate::secrets::SecretBytes;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    Text {
        length: usize,
        alphabet: Alphabet,
    },
    /// So many random bytes, in hexadecimal.
    Hex(usize),
    /// So many random bytes, in base64 with padding.
    Base64(usize),
    /// Of version 4.
    Uuid,
    /// PKCS #8, and the public key after it, in PEM.
    KeyPair(KeyKind),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    P256,
    Ed25519,
    Rsa3072,
}

/// Characters that a text is made of, each as likely as the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alphabet(Vec<u8>);

/// A digest of a value goes on record, by which the value is found after a crash; nobody guesses what has so many bits.
const LEAST_BITS: u32 = 112;

impl Form {
    /// Of `None`, nobody need be afraid that it is guessed.
    pub fn weakness(&self) -> Option<String> {
        let bits = match self {
            // Of a half bit nobody is told.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
            Self::Text { length, alphabet } => {
                let length = u32::try_from(*length).unwrap_or(u32::MAX);
                (f64::from(length) * f64::from(u8::try_from(alphabet.0.len()).unwrap_or(u8::MAX)).log2()) as u32
            }
            Self::Hex(bytes) | Self::Base64(bytes) => u32::try_from(bytes * 8).unwrap_or(u32::MAX),
            Self::Uuid | Self::KeyPair(_) => LEAST_BITS,
        };
        (bits < LEAST_BITS)
            .then(|| format!("makes values of {bits} bits, which can be guessed; {LEAST_BITS} are needed"))
    }

    /// Takes a while where it makes keys.
    pub fn generate(&self) -> Result<SecretBytes, Failure> {
        let value = match self {
            Self::Text { length, alphabet } => alphabet.pick(*length),
            Self::Hex(bytes) => random(*bytes).map(|bytes| hex(&bytes)),
            Self::Base64(bytes) => random(*bytes).map(|bytes| STANDARD.encode(bytes).into_bytes()),
            Self::Uuid => uuid(),
            Self::KeyPair(kind) => kind.generate(),
        };
        value.map(SecretBytes::new).map_err(|error| {
            Failure::new(Reason::Internal, "the system has no random numbers; report this").caused_by(error)
        })
    }
}

impl Alphabet {
    /// The error ends the sentence `"text" …`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(found) = text.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(format!("has {found:?} in it; letters, digits and signs of ASCII are taken"));
        }
        let mut characters = text.as_bytes().to_vec();
        characters.sort_unstable();
        characters.dedup();
        if characters.len() != text.len() {
            return Err("has a character twice".to_owned());
        }
        if characters.len() < 2 {
            return Err("leaves no choice".to_owned());
        }
        Ok(Self(characters))
    }

    fn pick(&self, length: usize) -> Result<Vec<u8>, Unspecified> {
        // What does not divide evenly is drawn again, or the first characters would come more often.
        let fair = 256 - 256 % self.0.len();
        let mut text = Vec::with_capacity(length);
        while text.len() < length {
            let drawn = random(length - text.len())?;
            let fair = drawn.iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < fair);
            text.extend(fair.filter_map(|byte| self.0.get(byte % self.0.len())));
        }
        Ok(text)
    }
}

impl KeyKind {
    fn generate(self) -> Result<Vec<u8>, Unspecified> {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        match self {
            Self::P256 => {
                let private = EcdsaKeyPair::generate_pkcs8(algorithm, &random)?;
                let pair = EcdsaKeyPair::from_pkcs8(algorithm, private.as_ref()).map_err(|_| Unspecified)?;
                Ok(pem(private.as_ref(), pair.public_key().as_der()?.as_ref()))
            }
            Self::Ed25519 => {
                let private = Ed25519KeyPair::generate_pkcs8v1(&random)?;
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(private.as_ref()).map_err(|_| Unspecified)?;
                Ok(pem(private.as_ref(), pair.public_key().as_der()?.as_ref()))
            }
            Self::Rsa3072 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa3072)?;
                Ok(pem(pair.as_der()?.as_ref(), pair.public_key().as_der()?.as_ref()))
            }
        }
    }
}

fn random(length: usize) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
    let mut bytes = Zeroizing::new(vec![0; length]);
    rand::fill(&mut bytes)?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn uuid() -> Result<Vec<u8>, Unspecified> {
    let mut bytes = random(16)?;
    // Version and variant.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = hex(&bytes);
    for dash in [8, 13, 18, 23] {
        text.insert(dash, b'-');
    }
    Ok(text)
}

/// In a buffer that never grows: what it grew out of would stay in memory.
fn pem(private: &[u8], public: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity((private.len() + public.len()) * 3 / 2 + 256);
    for (label, der) in [("PRIVATE KEY", private), ("PUBLIC KEY", public)] {
        text.extend_from_slice(format!("-----BEGIN {label}-----\n").as_bytes());
        let body = Zeroizing::new(STANDARD.encode(der));
        for line in body.as_bytes().chunks(64) {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        text.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn made(form: &Form) -> String {
        String::from_utf8(form.generate().unwrap().expose().to_vec()).unwrap()
    }

    #[test]
    fn a_text_has_its_length_and_every_character_as_often_as_any() {
        // 256 is no multiple of 48.
        let letters: String = ('0'..='9').chain('a'..='z').chain('A'..='L').collect();
        let form = Form::Text { length: 48_000, alphabet: Alphabet::parse(&letters).unwrap() };
        let text = made(&form);
        assert_eq!(text.len(), 48_000);
        let mut counts = HashMap::new();
        text.chars().for_each(|c| *counts.entry(c).or_insert(0_u32) += 1);
        assert_eq!(counts.len(), letters.len());
        // A thousand each; eight deviations are 250.
        assert!(counts.values().all(|count| (750..1250).contains(count)), "{counts:?}");
    }

    #[test]
    fn every_form_is_what_it_says_and_never_twice_the_same() {
        let alphabet = Alphabet::parse("abcdefgh").unwrap();
        for form in [Form::Text { length: 40, alphabet }, Form::Hex(16), Form::Base64(32), Form::Uuid] {
            let value = made(&form);
            assert_ne!(value, made(&form));
            assert_eq!(form.weakness(), None);
            let fits = match form {
                Form::Text { .. } => value.len() == 40 && value.chars().all(|c| ('a'..='h').contains(&c)),
                Form::Hex(_) => value.len() == 32 && value.chars().all(|c| c.is_ascii_hexdigit()),
                Form::Base64(_) => STANDARD.decode(&value).unwrap().len() == 32,
                Form::Uuid | Form::KeyPair(_) => {
                    let parts: Vec<usize> = value.split('-').map(str::len).collect();
                    parts == [8, 4, 4, 4, 12] && value.as_bytes()[14] == b'4' && b"89ab".contains(&value.as_bytes()[19])
                }
            };
            assert!(fits, "{value}");
        }
    }

    #[test]
    fn a_key_pair_is_one_that_others_can_read() {
        for kind in [KeyKind::P256, KeyKind::Ed25519, KeyKind::Rsa3072] {
            let value = made(&Form::KeyPair(kind));
            let (private, public) = value.split_at(value.find("-----BEGIN PUBLIC").unwrap());
            let pair = rcgen::KeyPair::from_pem(private).unwrap();
            assert_eq!(pair.public_key_pem().replace('\r', ""), public);
        }
    }

    #[test]
    fn what_can_be_guessed_is_weak() {
        let digits = Alphabet::parse("0123456789").unwrap();
        assert!(Form::Text { length: 33, alphabet: digits.clone() }.weakness().is_some());
        assert!(Form::Text { length: 34, alphabet: digits }.weakness().is_none());
        assert!(Form::Hex(13).weakness().is_some() && Form::Hex(14).weakness().is_none());
    }

    #[test]
    fn what_is_no_alphabet_is_refused() {
        for wrong in ["", "a", "aa", "a b", "aä", "a\n"] {
            assert!(Alphabet::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
