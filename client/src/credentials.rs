use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::Options;

/// Why certificate, key and CAs do not make a connection.
#[derive(Debug, Error)]
pub enum CredentialsError {
    #[error("cannot read {0}; name a PEM file that this process may read")]
    File(PathBuf, #[source] io::Error),
    #[error("{0} holds nothing usable; it must be PEM, certificates or a key as its place demands")]
    Pem(PathBuf, #[source] pem::Error),
    #[error("{0} holds no certificate; it must be PEM with at least one")]
    NoCertificate(PathBuf),
    #[error("a certificate without its key, or a key without its certificate; give both or neither")]
    HalfIdentity,
    #[error("the system has no CAs; name a file with those of the broker")]
    NoSystemRoots,
    #[error("the certificate, key or CA cannot be used; see that the key belongs to the certificate")]
    Unusable(#[source] rustls::Error),
}

/// The files that TLS is made of.
#[derive(Clone, Debug)]
pub(crate) struct CredentialFiles {
    ca: Option<PathBuf>,
    /// The chain, then the key.
    identity: Option<[PathBuf; 2]>,
}

/// Tells one content of a file from the next, replacement by rename included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl CredentialFiles {
    pub(crate) fn of(options: &Options) -> Result<Self, CredentialsError> {
        let identity = match (options.certificate.clone(), options.key.clone()) {
            (Some(chain), Some(key)) => Some([chain, key]),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(CredentialsError::HalfIdentity),
        };
        Ok(Self { ca: options.ca.clone(), identity })
    }

    /// What changes whenever one of the files does; `None` for what is not there.
    pub(crate) fn stamps(&self) -> Vec<Option<Stamp>> {
        self.ca.iter().chain(self.identity.iter().flatten()).map(|path| Stamp::of(path).ok()).collect()
    }

    pub(crate) fn load(&self) -> Result<Arc<ClientConfig>, CredentialsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(CredentialsError::Unusable)?
            .with_root_certificates(self.roots()?);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some([chain, file]) => {
                let key = PrivateKeyDer::from_pem_slice(&read(file)?);
                let key = key.map_err(|error| CredentialsError::Pem(file.clone(), error))?;
                builder.with_client_auth_cert(certificates(chain)?, key).map_err(CredentialsError::Unusable)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A session that is taken up again would go on with the certificate of its beginning.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, CredentialsError> {
        let Some(path) = &self.ca else { return system_roots() };
        roots_of(certificates(path)?)
    }
}

pub(crate) fn system_roots() -> Result<RootCertStore, CredentialsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(CredentialsError::NoSystemRoots) } else { Ok(roots) }
}

fn roots_of(certificates: Vec<CertificateDer<'static>>) -> Result<RootCertStore, CredentialsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(CredentialsError::Unusable)?;
    }
    Ok(roots)
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let file: Metadata = fs::metadata(path)?;
        Ok(Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    parse(&read(path)?, path)
}

/// Of PEM that came with an answer.
#[cfg(feature = "deadpool-postgres")]
pub(crate) fn roots(pem: &[u8]) -> Result<RootCertStore, CredentialsError> {
    roots_of(parse(pem, Path::new("the answer"))?)
}

fn parse(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| CredentialsError::Pem(path.to_owned(), error))?;
    if certificates.is_empty() { Err(CredentialsError::NoCertificate(path.to_owned())) } else { Ok(certificates) }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, CredentialsError> {
    fs::read(path).map(Zeroizing::new).map_err(|error| CredentialsError::File(path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_certificate_with_its_key_or_neither() {
        let mut options = Options::new("https://localhost:1", "/absent", "/absent", "/absent");
        options.key = None;
        assert!(matches!(CredentialFiles::of(&options), Err(CredentialsError::HalfIdentity)));
        options.certificate = None;
        CredentialFiles::of(&options).unwrap();
    }
}
