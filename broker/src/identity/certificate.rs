//! What a client certificate says about its holder. Which of its names makes the identity is decided elsewhere.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use super::spiffe::{SpiffeId, SpiffeIdError};
use crate::clock::Timestamp;
use crate::digest::Digest;

/// A chain element larger than this is hostile or a mistake.
const MAX_DER_BYTES: usize = 64 * 1024;
const MAX_NAMES: usize = 256;
const MAX_NAME_BYTES: usize = 2048;
const MAX_SERIAL_BYTES: usize = 32;
const MAX_SHOWN_CHARS: usize = 512;

/// The facts of one X.509 certificate, read once. Whether it is trusted is the verifier's word, not this type's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    thumbprint: Digest,
    serial: String,
    common_name: Option<String>,
    dns_names: Vec<String>,
    uris: Vec<String>,
    subject: String,
    issuer: String,
    not_before: Timestamp,
    not_after: Timestamp,
    is_ca: bool,
    key_usage: Option<KeyUsage>,
    spiffe: Result<Option<SpiffeId>, SpiffeError>,
}

/// The key usages that bear on identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUsage {
    pub digital_signature: bool,
    pub key_cert_sign: bool,
    pub crl_sign: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("the certificate has {0} bytes; at most {MAX_DER_BYTES} are read")]
    TooLarge(usize),
    #[error("the certificate is not well-formed DER")]
    Malformed,
    #[error("the certificate's {0} extension is malformed or there twice")]
    Extension(&'static str),
    #[error("the certificate has more than {MAX_NAMES} names")]
    TooManyNames,
    #[error("the certificate's {0} is empty, too long or not printable ASCII")]
    Name(&'static str),
    #[error("the certificate has more than one subject common name")]
    CommonNameTwice,
    #[error("the certificate's serial number is empty or longer than {MAX_SERIAL_BYTES} bytes")]
    Serial,
    #[error("the certificate's validity lies outside representable time")]
    Validity,
}

/// Why a certificate that claims a SPIFFE id does not have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    #[error("a certificate with a SPIFFE id must have exactly one URI name, this one has {0}")]
    UriCount(usize),
    #[error("a CA certificate cannot be a workload's SPIFFE identity")]
    IsCa,
    #[error("the key usage of a SPIFFE certificate must allow digitalSignature, and neither keyCertSign nor cRLSign")]
    KeyUsage,
    #[error(transparent)]
    Id(#[from] SpiffeIdError),
}

impl Certificate {
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_DER_BYTES {
            return Err(CertificateError::TooLarge(der.len()));
        }
        let (rest, x509) = parse_x509_certificate(der).map_err(|_| CertificateError::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateError::Malformed);
        }
        let is_ca = is_ca(&x509)?;
        let key_usage = key_usage(&x509)?;
        let (dns_names, uris) = subject_alternative_names(&x509)?;
        Ok(Self {
            thumbprint: Digest::of(der),
            serial: serial(&x509)?,
            common_name: common_name(x509.subject())?,
            spiffe: spiffe_id(&uris, is_ca, key_usage),
            dns_names,
            uris,
            subject: printable(x509.subject()),
            issuer: printable(x509.issuer()),
            not_before: timestamp(x509.validity().not_before)?,
            not_after: timestamp(x509.validity().not_after)?,
            is_ca,
            key_usage,
        })
    }

    /// The SPIFFE id; `None` when the certificate does not claim one. One that is claimed and wrong is an error, so that
    /// it cannot fall through to another kind of name.
    pub fn spiffe_id(&self) -> Result<Option<&SpiffeId>, SpiffeError> {
        match &self.spiffe {
            Ok(id) => Ok(id.as_ref()),
            Err(error) => Err(*error),
        }
    }

    /// SHA-256 over the DER: what RFC 8705 binds a token to, and what the audit record names.
    pub fn thumbprint(&self) -> Digest {
        self.thumbprint
    }

    /// The serial number in lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// DNS names in lower case. Wildcards are left out: they stand for many hosts and so identify none.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    pub fn uris(&self) -> &[String] {
        &self.uris
    }

    /// The whole subject for people; nothing is decided by it.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The issuer's name for people; nothing is decided by it.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    pub fn is_ca(&self) -> bool {
        self.is_ca
    }

    /// `None` when the certificate does not limit its key's use.
    pub fn key_usage(&self) -> Option<KeyUsage> {
        self.key_usage
    }
}

fn is_ca(x509: &X509Certificate<'_>) -> Result<bool, CertificateError> {
    let constraints = x509.basic_constraints().map_err(|_| CertificateError::Extension("basicConstraints"))?;
    Ok(constraints.is_some_and(|extension| extension.value.ca))
}

fn key_usage(x509: &X509Certificate<'_>) -> Result<Option<KeyUsage>, CertificateError> {
    let usage = x509.key_usage().map_err(|_| CertificateError::Extension("keyUsage"))?;
    Ok(usage.map(|extension| KeyUsage {
        digital_signature: extension.value.digital_signature(),
        key_cert_sign: extension.value.key_cert_sign(),
        crl_sign: extension.value.crl_sign(),
    }))
}

fn subject_alternative_names(x509: &X509Certificate<'_>) -> Result<(Vec<String>, Vec<String>), CertificateError> {
    let extension = x509.subject_alternative_name().map_err(|_| CertificateError::Extension("subjectAltName"))?;
    let (mut dns_names, mut uris) = (Vec::new(), Vec::new());
    let Some(extension) = extension else {
        return Ok((dns_names, uris));
    };
    if extension.value.general_names.len() > MAX_NAMES {
        return Err(CertificateError::TooManyNames);
    }
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(name) => {
                let name = plain("DNS name", name)?;
                if !name.contains('*') {
                    dns_names.push(name.to_ascii_lowercase());
                }
            }
            GeneralName::URI(uri) => uris.push(plain("URI name", uri)?.to_owned()),
            GeneralName::Invalid(..) => return Err(CertificateError::Name("alternative name")),
            // These kinds never name a caller here.
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RegisteredID(_) => {}
        }
    }
    Ok((dns_names, uris))
}

fn common_name(subject: &X509Name<'_>) -> Result<Option<String>, CertificateError> {
    let mut names = subject.iter_common_name();
    let Some(first) = names.next() else {
        return Ok(None);
    };
    if names.next().is_some() {
        return Err(CertificateError::CommonNameTwice);
    }
    let text = first.as_str().map_err(|_| CertificateError::Name("common name"))?;
    Ok(Some(plain("common name", text)?.to_owned()))
}

/// A NUL or a look-alike character in a name is how one subject passes for another.
fn plain<'a>(what: &'static str, text: &'a str) -> Result<&'a str, CertificateError> {
    let fits = !text.is_empty() && text.len() <= MAX_NAME_BYTES;
    if fits && text.bytes().all(|b| (0x20..0x7f).contains(&b)) { Ok(text) } else { Err(CertificateError::Name(what)) }
}

fn serial(x509: &X509Certificate<'_>) -> Result<String, CertificateError> {
    let bytes = x509.raw_serial();
    if bytes.is_empty() || bytes.len() > MAX_SERIAL_BYTES {
        return Err(CertificateError::Serial);
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn printable(name: &X509Name<'_>) -> String {
    let text = name.to_string();
    text.chars().flat_map(char::escape_debug).take(MAX_SHOWN_CHARS).collect()
}

fn timestamp(time: ASN1Time) -> Result<Timestamp, CertificateError> {
    u64::try_from(time.timestamp()).map(Timestamp::from_secs).map_err(|_| CertificateError::Validity)
}

fn spiffe_id(uris: &[String], is_ca: bool, key_usage: Option<KeyUsage>) -> Result<Option<SpiffeId>, SpiffeError> {
    let Some(claimed) = uris.iter().find(|uri| SpiffeId::is_claimed_by(uri)) else {
        return Ok(None);
    };
    if uris.len() != 1 {
        return Err(SpiffeError::UriCount(uris.len()));
    }
    if is_ca {
        return Err(SpiffeError::IsCa);
    }
    if key_usage.is_some_and(|u| !u.digital_signature || u.key_cert_sign || u.crl_sign) {
        return Err(SpiffeError::KeyUsage);
    }
    Ok(Some(SpiffeId::parse(claimed)?))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber};

    use super::*;

    fn der(shape: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        shape(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn spiffe(shape: impl FnOnce(&mut CertificateParams)) -> Result<Option<SpiffeId>, SpiffeError> {
        let certificate = Certificate::parse(&der(|params| {
            params.subject_alt_names = vec![uri("spiffe://prod.example/cart")];
            shape(params);
        }));
        certificate.unwrap().spiffe_id().map(Option::<&SpiffeId>::cloned)
    }

    #[test]
    fn reads_every_fact_of_a_certificate() {
        let der = der(|params| {
            params.distinguished_name.push(DnType::CommonName, "cart");
            params.serial_number = Some(SerialNumber::from(vec![0x0a, 0xbc]));
            params.not_before = rcgen::date_time_ymd(2026, 1, 1);
            params.not_after = rcgen::date_time_ymd(2027, 1, 1);
            params.subject_alt_names = vec![
                SanType::DnsName("Cart.Example".try_into().unwrap()),
                SanType::DnsName("*.example".try_into().unwrap()),
                uri("https://cart.example/id"),
            ];
        });
        let certificate = Certificate::parse(&der).unwrap();
        assert_eq!(certificate.common_name(), Some("cart"));
        assert_eq!(certificate.serial(), "0abc");
        assert_eq!(certificate.dns_names(), ["cart.example"]);
        assert_eq!(certificate.uris(), ["https://cart.example/id"]);
        assert_eq!(certificate.spiffe_id(), Ok(None));
        assert_eq!(certificate.issuer(), "CN=cart");
        assert_eq!(certificate.not_before(), Timestamp::from_secs(1_767_225_600));
        assert_eq!(certificate.not_after(), Timestamp::from_secs(1_798_761_600));
        assert!(!certificate.is_ca());
        assert_eq!(certificate.thumbprint(), Digest::of(&der));
        assert_eq!(certificate.thumbprint().to_string().len(), 64);
    }

    #[test]
    fn grants_a_spiffe_id_only_to_a_leaf_with_exactly_one_uri() {
        let id = SpiffeId::parse("spiffe://prod.example/cart").unwrap();
        assert_eq!(spiffe(|_| {}), Ok(Some(id.clone())));
        assert_eq!(spiffe(|p| p.key_usages.clear()), Ok(Some(id)));
        assert_eq!(
            spiffe(|p| p.subject_alt_names.push(uri("spiffe://prod.example/other"))),
            Err(SpiffeError::UriCount(2))
        );
        assert_eq!(
            spiffe(|p| p.subject_alt_names.insert(0, uri("https://cart.example"))),
            Err(SpiffeError::UriCount(2))
        );
        assert_eq!(spiffe(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), Err(SpiffeError::IsCa));
        assert_eq!(spiffe(|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]), Err(SpiffeError::KeyUsage));
        assert_eq!(spiffe(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)), Err(SpiffeError::KeyUsage));
        assert_eq!(
            spiffe(|p| p.subject_alt_names = vec![uri("SPIFFE://prod.example/cart")]),
            Err(SpiffeError::Id(SpiffeIdError::Scheme))
        );
        assert_eq!(
            spiffe(|p| p.subject_alt_names = vec![uri("spiffe://prod.example/")]),
            Err(SpiffeError::Id(SpiffeIdError::NoPath))
        );
    }

    #[test]
    fn refuses_names_that_could_pass_for_others() {
        for name in ["cart\0.evil", "c\u{e4}rt", "cart\n", ""] {
            let der = der(|p| p.distinguished_name.push(DnType::CommonName, name));
            let parsed = Certificate::parse(&der);
            assert_eq!(parsed, Err(CertificateError::Name("common name")), "{name:?}");
        }
        let der = der(|p| p.subject_alt_names = vec![uri("spiffe://a/b\0")]);
        assert_eq!(Certificate::parse(&der), Err(CertificateError::Name("URI name")));
    }

    #[test]
    fn bounds_what_it_reads() {
        let many = der(|p| {
            p.subject_alt_names = (0..257).map(|n| uri(&format!("https://h/{n}"))).collect();
        });
        assert_eq!(Certificate::parse(&many), Err(CertificateError::TooManyNames));
        let huge = vec![0x30; MAX_DER_BYTES + 1];
        assert_eq!(Certificate::parse(&huge), Err(CertificateError::TooLarge(huge.len())));
    }

    #[test]
    fn refuses_bytes_after_the_certificate() {
        let mut der = der(|_| {});
        der.push(0);
        assert_eq!(Certificate::parse(&der), Err(CertificateError::Malformed));
    }

    #[test]
    fn survives_every_single_byte_change_and_every_cut() {
        let der = der(|params| {
            params.distinguished_name.push(DnType::CommonName, "cart");
            params.subject_alt_names = vec![uri("spiffe://prod.example/cart")];
        });
        for at in 0..der.len() {
            assert!(Certificate::parse(&der[..at]).is_err(), "cut at {at}");
            for value in [0, 0x7f, 0x80, 0xff, der[at] ^ 1] {
                let mut changed = der.clone();
                changed[at] = value;
                let _ = Certificate::parse(&changed);
            }
        }
    }
}
