//! The key that a certificate is for: the caller's own, or one that is made for it.

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1, ED25519, EcdsaKeyPair,
    KeyPair as _, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use rcgen::SubjectPublicKeyInfo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateSigningRequestDer, SubjectPublicKeyInfoDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_PKCS1_SHA1WITHRSA,
    OID_SHA1_WITH_RSA, OID_SIG_ED25519, OID_X509_COMMON_NAME,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo as Parsed, X509Name};

use crate::databases::pem;
use crate::databases::tokens::ClientKey;
use crate::error::{Failure, Reason};
use crate::secrets::SecretBytes;

const LONGEST: usize = 8 << 10;

/// What is wrong with what the caller sent; ends a sentence that begins with the field's name.
type Fault = &'static str;

/// The caller's key, fit to be certified for this user and nobody else.
pub(super) fn accept(key: &ClientKey, user: &str) -> Result<SubjectPublicKeyInfo, Failure> {
    let (field, outcome) = match key {
        ClientKey::Public(text) => ("public_key_pem", public_key(text)),
        ClientKey::Request(text) => ("csr_pem", request(text, user)),
    };
    outcome.map_err(|fault| Failure::bad_field(Reason::InvalidPublicKey, field, fault))
}

/// A new key: what is certified, and what its owner gets in PKCS #8 PEM.
pub(super) fn generate() -> Result<(SubjectPublicKeyInfo, SecretBytes), Failure> {
    let failed = || Failure::new(Reason::Internal, "a key could not be made; report this");
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|error| failed().caused_by(error))?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|error| failed().caused_by(error))?;
    let public = SubjectPublicKeyInfo::from_der(public.as_ref()).map_err(|error| failed().caused_by(error))?;
    let private = pair.to_pkcs8v1().map_err(|error| failed().caused_by(error))?;
    Ok((public, SecretBytes::new(pem::write("PRIVATE KEY", private.as_ref()))))
}

fn public_key(text: &str) -> Result<SubjectPublicKeyInfo, Fault> {
    one_block(text)?;
    let unreadable = "is no public key; send SubjectPublicKeyInfo in PEM, from BEGIN PUBLIC KEY to END PUBLIC KEY";
    let der = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).map_err(|_| unreadable)?;
    let (rest, parsed) = Parsed::from_der(&der).map_err(|_| unreadable)?;
    if !rest.is_empty() {
        return Err(unreadable);
    }
    strong(&parsed)
}

fn request(text: &str, user: &str) -> Result<SubjectPublicKeyInfo, Fault> {
    one_block(text)?;
    let unreadable = "is no certificate request; send PKCS #10 in PEM, from BEGIN CERTIFICATE REQUEST on";
    let der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).map_err(|_| unreadable)?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| unreadable)?;
    if !rest.is_empty() {
        return Err(unreadable);
    }
    let info = &request.certification_request_info;
    let key = strong(&info.subject_pki)?;
    if [OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA].contains(&request.signature_algorithm.algorithm) {
        return Err("is signed with SHA-1; sign it with SHA-256");
    }
    request.verify_signature().map_err(|_| "is not signed by its own key; make it anew with the private key")?;
    check_names(&info.subject, user)?;
    for extension in request.requested_extensions().into_iter().flatten() {
        check_extension(extension)?;
    }
    Ok(key)
}

fn one_block(text: &str) -> Result<(), Fault> {
    if text.len() > LONGEST {
        return Err("is longer than 8 KiB; send one key or one request and nothing else");
    }
    if text.contains("PRIVATE KEY") {
        return Err("holds a private key, which is to stay with its owner; replace that key, and send the public one");
    }
    match text.matches("-----BEGIN ").count() {
        1 => Ok(()),
        0 => Err("is no PEM; send the text that begins with -----BEGIN"),
        _ => Err("holds more than one thing; send one key or one request"),
    }
}

/// The key, where nobody but its owner can be expected to sign with it.
fn strong(key: &Parsed<'_>) -> Result<SubjectPublicKeyInfo, Fault> {
    let kinds = "is of a kind that is not accepted; use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits";
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let algorithm = &key.algorithm.algorithm;
    let verification: &'static dyn VerificationAlgorithm = if *algorithm == OID_PKCS1_RSAENCRYPTION {
        &RSA_PKCS1_2048_8192_SHA256
    } else if *algorithm == OID_SIG_ED25519 {
        &ED25519
    } else if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256) {
        &ECDSA_P256_SHA256_ASN1
    } else if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_NIST_EC_P384) {
        &ECDSA_P384_SHA384_ASN1
    } else {
        return Err(kinds);
    };
    // The library checks an RSA key's length only when it verifies.
    if let Ok(PublicKey::RSA(rsa)) = key.parsed()
        && !(2048..=8192).contains(&rsa.key_size())
    {
        return Err("holds an RSA key that is too weak or far too long; use one of 2048 to 8192 bits, or P-256");
    }
    ParsedPublicKey::new(verification, key.subject_public_key.data.as_ref())
        .map_err(|_| "holds a key that is none, such as no point of its curve; make another")?;
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| kinds)
}

/// What a request asks for may be less than what the role grants, never more.
fn check_names(subject: &X509Name<'_>, user: &str) -> Result<(), Fault> {
    let mut names = subject.iter_attributes();
    match (names.next(), names.next()) {
        (None, _) => Ok(()),
        (Some(name), None) if *name.attr_type() == OID_X509_COMMON_NAME && name.as_str() == Ok(user) => Ok(()),
        _ => Err(
            "asks for another subject than the role's user; leave it empty, or make it the user's common name alone",
        ),
    }
}

fn check_extension(extension: &ParsedExtension<'_>) -> Result<(), Fault> {
    #[allow(clippy::wildcard_enum_match_arm, reason = "whatever is not known to be harmless is refused")]
    match extension {
        ParsedExtension::SubjectAlternativeName(_) => Err("asks for alternative names, which the database would take \
                                                           for users; leave them out"),
        ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
            Err("asks to be a CA; leave basicConstraints out")
        }
        ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
            Err("asks for a key usage of CAs; leave keyUsage out")
        }
        ParsedExtension::ExtendedKeyUsage(usage)
            if usage.any
                || usage.server_auth
                || usage.code_signing
                || usage.email_protection
                || usage.time_stamping
                || usage.ocsp_signing
                || !usage.other.is_empty() =>
        {
            Err("asks for a usage other than clientAuth; leave extendedKeyUsage out")
        }
        ParsedExtension::BasicConstraints(_)
        | ParsedExtension::KeyUsage(_)
        | ParsedExtension::ExtendedKeyUsage(_)
        | ParsedExtension::SubjectKeyIdentifier(_) => Ok(()),
        _ => Err("asks for an extension that is not granted; leave all of them out"),
    }
}
