//! The key that an ephemeral certificate is for: the caller's own, or one made here for this certificate alone.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

use crate::databases::tokens::ClientKey;
use crate::error::{Failure, Reason};
use crate::secrets::SecretBytes;

const LEAST_RSA_BITS: usize = 2048;
const MOST_RSA_BITS: usize = 8192;

pub(super) struct Key {
    /// SubjectPublicKeyInfo in PEM.
    pub(super) public: String,
    /// PKCS #8 in PEM; absent where the caller has it.
    pub(super) private: Option<SecretBytes>,
}

impl Key {
    pub(super) async fn of(client: Option<&ClientKey>) -> Result<Self, Failure> {
        match client {
            Some(key) => Ok(Self { public: pem("PUBLIC KEY", &public_key(key)?), private: None }),
            // RSA, as Google's own connectors use; looking for its primes keeps a processor busy for a while.
            None => tokio::task::spawn_blocking(generate).await.ok().flatten().ok_or_else(|| {
                Failure::new(Reason::Internal, "no key could be made; report this, and send public_key_pem meanwhile")
            }),
        }
    }
}

pub(super) fn check(client: Option<&ClientKey>) -> Result<(), Failure> {
    client.map(public_key).transpose().map(drop)
}

/// In DER.
fn public_key(key: &ClientKey) -> Result<Vec<u8>, Failure> {
    let ClientKey::Public(text) = key else {
        let message = "certificates of Cloud SQL carry no name that a request could prove; send public_key_pem";
        return Err(Failure::new(Reason::InvalidPublicKey, message));
    };
    let refuse = |fault: &str| Failure::new(Reason::InvalidPublicKey, format!("public_key_pem {fault}"));
    let unreadable = || refuse("is not one public key in PEM (BEGIN PUBLIC KEY); openssl pkey -pubout writes it so");
    let (rest, pem) = parse_x509_pem(text.trim().as_bytes()).map_err(|_| unreadable())?;
    if pem.label != "PUBLIC KEY" || !rest.is_empty() {
        return Err(unreadable());
    }
    let (rest, key) = SubjectPublicKeyInfo::from_der(&pem.contents).map_err(|_| unreadable())?;
    let Ok(PublicKey::RSA(rsa)) = key.parsed() else {
        return Err(refuse("is not RSA, which Cloud SQL wants; write an RSA key of 2048 bits or more"));
    };
    let sound = rest.is_empty() && (LEAST_RSA_BITS..=MOST_RSA_BITS).contains(&rsa.key_size());
    if !sound {
        return Err(refuse("is a weak or an oversized RSA key; write one of 2048 to 8192 bits"));
    }
    Ok(pem.contents)
}

fn generate() -> Option<Key> {
    let pair = KeyPair::generate(KeySize::Rsa2048).ok()?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
    let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).ok()?;
    let private = Zeroizing::new(pem("PRIVATE KEY", private.as_ref()));
    Some(Key {
        public: pem("PUBLIC KEY", public.as_ref()),
        private: Some(SecretBytes::new(private.as_bytes().to_vec())),
    })
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = Zeroizing::new(STANDARD.encode(der));
    let mut pem = format!("-----BEGIN {label}-----\n");
    // Sized at once, so that no copy of it is left behind in growing.
    pem.reserve_exact(text.len() + text.len() / 64 + 64);
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
