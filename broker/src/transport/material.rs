//! What TLS serves with, made from one reading of the files after everything in it was checked against the rest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::version::{TLS12, TLS13};

use super::clients::Clients;
use super::files::Files;
use super::settings::{TlsSettings, TlsVersion};
use crate::clock::{SharedClock, Timestamp};
use crate::identity::{Certificate, CertificateError};

/// One generation of certificate, key, client CAs and revocation lists.
#[derive(Debug)]
pub struct Material {
    generation: u64,
    loaded_at: Timestamp,
    certificate: Certificate,
    client_cas: usize,
    crl_updates: Vec<Timestamp>,
    warnings: Vec<String>,
    server: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
    trust_domains: BTreeMap<String, Arc<dyn ClientCertVerifier>>,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read the {what} {}: check that it exists and that the broker's user may read it", path.display())]
    Read { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the {what} {} is larger than {limit} bytes: is it the right file?", path.display())]
    TooLarge { what: &'static str, path: PathBuf, limit: u64 },
    #[error("{} has no PEM block of type {expected}: put the {what} there", path.display())]
    Missing { what: &'static str, path: PathBuf, expected: &'static str },
    #[error("the {what} {} is broken PEM: write the file again, whole", path.display())]
    Pem { what: &'static str, path: PathBuf, source: PemError },
    #[error("the private key {} is broken PEM: write the file again, whole", path.display())]
    KeyPem { path: PathBuf },
    #[error("the private key {} is encrypted: store it decrypted, readable by the broker's user alone", path.display())]
    KeyEncrypted { path: PathBuf },
    #[error("the private key {} cannot be used: give an RSA key of 2048 bits or more, or an ECDSA or Ed25519 key", path.display())]
    Key { path: PathBuf, source: rustls::Error },
    #[error("the private key {} does not belong to the certificate {}: replace both together", key.display(), certificate.display())]
    KeyMismatch { key: PathBuf, certificate: PathBuf },
    #[error("the first certificate in {} cannot be used: it must be the server's own, followed by its issuers", path.display())]
    Certificate { path: PathBuf, source: CertificateError },
    #[error("the certificate in {} expired at {expired}: the one in use, still valid, is kept", path.display())]
    Expired { path: PathBuf, expired: Timestamp },
    #[error("no client CA is configured: name at least one bundle, or turn client certificates off")]
    NoClientCa,
    #[error("certificate {number} in the client CA bundle {} is not a CA certificate: remove it", path.display())]
    NotCa { path: PathBuf, number: usize },
    #[error("{} is not a revocation list with a time of its next update: give an X.509 v2 CRL as PEM or DER", path.display())]
    Crl { path: PathBuf },
    #[error(
        "the client CAs and revocation lists cannot be used together: check the lists' signature algorithm and extensions"
    )]
    Verifier { source: rustls::server::VerifierBuilderError },
    #[error("this build's cryptography does not offer the configured TLS versions")]
    Versions { source: rustls::Error },
}

impl Material {
    pub(super) fn build(
        files: &Files,
        settings: &TlsSettings,
        clock: &SharedClock,
        generation: u64,
    ) -> Result<Self, TlsError> {
        let now = clock.now();
        let mut warnings = Vec::new();
        let crypto = Arc::new(aws_lc_rs::default_provider());
        let (key, certificate) = certified_key(files, settings, &crypto)?;
        if certificate.not_after() <= now {
            let text = format!("the server certificate expired at {}", certificate.not_after());
            warnings.push(text);
        } else if certificate.not_before() > now {
            let from = certificate.not_before();
            warnings.push(format!("the server certificate is not valid before {from}"));
        }
        let clients = Clients::parse(files, settings, now, &mut warnings)?;
        let (client_cas, crl_updates) = (clients.cas(), clients.crl_updates().to_vec());
        let verifier = clients.verifier(settings.client_certificate, &crypto)?;
        let trust_domains = Clients::trust_domains(files, settings, &crypto)?;
        let server = server_config(key, Arc::clone(&verifier), settings, crypto, clock)?;
        Ok(Self {
            generation,
            loaded_at: now,
            certificate,
            client_cas,
            crl_updates,
            warnings,
            server: Arc::new(server),
            verifier,
            trust_domains,
        })
    }

    /// Counts up from 1 with every change that was put to use.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn loaded_at(&self) -> Timestamp {
        self.loaded_at
    }

    /// The server's own certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    pub fn client_cas(&self) -> usize {
        self.client_cas
    }

    /// When each revocation list is due to be replaced.
    pub fn crl_updates(&self) -> &[Timestamp] {
        &self.crl_updates
    }

    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// Judges a client's chain, its own certificate first, as of `now`.
    pub(super) fn verify(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<(), rustls::Error> {
        let (leaf, issuers) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        self.verifier.verify_client_cert(leaf, issuers, unix_time(now)).map(drop)
    }

    /// Whether a CA of this SPIFFE trust domain vouches for the chain; `None` for a domain that is not configured.
    pub(super) fn speaks_for(&self, domain: &str, chain: &[CertificateDer<'_>], now: Timestamp) -> Option<bool> {
        let verifier = self.trust_domains.get(domain)?;
        let (leaf, issuers) = chain.split_first()?;
        Some(verifier.verify_client_cert(leaf, issuers, unix_time(now)).is_ok())
    }
}

impl TlsError {
    /// The error with its causes, for one log field.
    pub fn full_text(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }
}

fn certified_key(
    files: &Files,
    settings: &TlsSettings,
    crypto: &CryptoProvider,
) -> Result<(CertifiedKey, Certificate), TlsError> {
    let path = || settings.certificate.clone();
    let chain = certificates("server certificate", &settings.certificate, &files.certificate)?;
    let leaf = chain.first().ok_or_else(|| TlsError::Missing {
        what: "server certificate",
        path: path(),
        expected: "CERTIFICATE",
    })?;
    let certificate = Certificate::parse(leaf).map_err(|source| TlsError::Certificate { path: path(), source })?;
    let key = private_key(&settings.key, &files.key)?;
    let key = crypto
        .key_provider
        .load_private_key(key)
        .map_err(|source| TlsError::Key { path: settings.key.clone(), source })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok((certified, certificate)),
        // Every key of this provider can be compared, so what cannot be is not trusted to match.
        Err(_) => Err(TlsError::KeyMismatch { key: settings.key.clone(), certificate: path() }),
    }
}

pub(super) fn certificates(
    what: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { what, path: path.to_owned(), source })?;
    if found.is_empty() {
        return Err(TlsError::Missing { what, path: path.to_owned(), expected: "CERTIFICATE" });
    }
    Ok(found)
}

/// The parser's own errors quote the file, so for a key they are dropped.
fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    const ENCRYPTED: &[u8] = b"ENCRYPTED";
    let path = || path.to_owned();
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => Ok(key),
        Err(_) if pem.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED) => {
            Err(TlsError::KeyEncrypted { path: path() })
        }
        Err(PemError::NoItemsFound) => {
            Err(TlsError::Missing { what: "server's private key", path: path(), expected: "PRIVATE KEY" })
        }
        Err(_) => Err(TlsError::KeyPem { path: path() }),
    }
}

fn server_config(
    key: CertifiedKey,
    verifier: Arc<dyn ClientCertVerifier>,
    settings: &TlsSettings,
    crypto: Arc<CryptoProvider>,
    clock: &SharedClock,
) -> Result<ServerConfig, TlsError> {
    let versions: &[_] = match settings.minimum_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let mut config = ServerConfig::builder_with_details(crypto, Arc::new(BrokerTime(Arc::clone(clock))))
        .with_protocol_versions(versions)
        .map_err(|source| TlsError::Versions { source })?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    // A resumed session would skip the client's certificate and outlive a change of trust.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Certificates are judged by the broker's clock, like everything else.
#[derive(Debug)]
struct BrokerTime(SharedClock);

impl TimeProvider for BrokerTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.now()))
    }
}

fn unix_time(now: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()))
}
