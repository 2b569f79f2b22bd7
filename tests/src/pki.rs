//! A certificate authority for tests, and what it issues.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    SubjectPublicKeyInfo, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

#[derive(Clone, Debug)]
pub struct Ca(Arc<CertifiedIssuer<'static, KeyPair>>);

/// A certificate with its key, in PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
    pub der: Vec<u8>,
    pub serial: Vec<u8>,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(Arc::new(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// For who signs in its name.
    pub fn key_pem(&self) -> String {
        self.0.key().serialize_pem()
    }

    pub fn server(&self, name: &str) -> Issued {
        self.issue(|params| {
            params.subject_alt_names =
                vec![SanType::DnsName(name.try_into().unwrap()), SanType::IpAddress([127, 0, 0, 1].into())];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })
    }

    /// A client known as `spiffe://test.keyferry/{path}`.
    pub fn client(&self, path: &str) -> Issued {
        self.client_with(&[SanType::URI(format!("spiffe://test.keyferry/{path}").try_into().unwrap())])
    }

    pub fn client_with(&self, names: &[SanType]) -> Issued {
        self.issue(|params| {
            params.subject_alt_names = names.to_vec();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    }

    pub fn issue(&self, shape: impl FnOnce(&mut CertificateParams)) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut serial = [0; 16];
        fill_random(&mut serial);
        // Positive, whatever its first bit would have been.
        serial[0] &= 0x7f;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("leaf");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        shape(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
            serial: serial.to_vec(),
        }
    }

    /// A certificate, in DER, for a public key in PEM of somebody else.
    pub fn sign(&self, public_key: &str, shape: impl FnOnce(&mut CertificateParams)) -> Option<Vec<u8>> {
        let public_key = SubjectPublicKeyInfo::from_pem(public_key).ok()?;
        let mut params = CertificateParams::default();
        shape(&mut params);
        Some(params.signed_by(&public_key, &self.0).ok()?.der().to_vec())
    }

    /// A revocation list that names these certificates.
    pub fn revoking(&self, number: u64, revoked: &[&Issued]) -> String {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|certificate| RevokedCertParams {
                    serial_number: SerialNumber::from_slice(&certificate.serial),
                    revocation_time: date_time_ymd(2024, 1, 1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

impl Issued {
    /// What somebody else issued.
    pub fn from_pem(certificate: &str, key: &str) -> Self {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap().to_vec();
        Self { certificate: certificate.to_owned(), key: key.to_owned(), der, serial: Vec::new() }
    }

    pub fn write(&self, directory: &Path, name: &str) {
        fs::write(directory.join(name).with_extension("pem"), &self.certificate).unwrap();
        fs::write(directory.join(name).with_extension("key"), &self.key).unwrap();
        restrict(&directory.join(name).with_extension("key"));
    }

    /// For a tonic client that trusts `ca`.
    pub fn client_tls(&self, ca: &Ca) -> ClientTlsConfig {
        trusting(ca).identity(Identity::from_pem(&self.certificate, &self.key))
    }
}

pub fn trusting(ca: &Ca) -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca.pem())).domain_name("keyferry.test")
}

pub fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn fill_random(bytes: &mut [u8]) {
    use std::io::Read as _;
    fs::File::open("/dev/urandom").unwrap().read_exact(bytes).unwrap();
}
