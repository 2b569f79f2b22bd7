//! The files behind TLS, read together so that they are judged together.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use zeroize::Zeroizing;

use super::material::TlsError;
use super::settings::{ClientCertificate, TlsSettings};

const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;

/// One reading of all files.
pub(super) struct Files {
    pub(super) certificate: Vec<u8>,
    pub(super) key: Zeroizing<Vec<u8>>,
    pub(super) client_ca: Vec<Vec<u8>>,
    pub(super) client_crls: Vec<Vec<u8>>,
    /// In the order of their names.
    pub(super) trust_domains: Vec<Vec<u8>>,
}

/// What a reading found, good or bad, in a form that compares: equal fingerprints mean that nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

impl Files {
    pub(super) fn read(settings: &TlsSettings) -> Result<Self, TlsError> {
        let asks = settings.client_certificate != ClientCertificate::NotAsked;
        let client_ca: &[_] = if asks { &settings.client_ca } else { &[] };
        let client_crls: &[_] = if asks { &settings.client_crls } else { &[] };
        let mut key = Zeroizing::new(Vec::new());
        read_into("private key", &settings.key, &mut key)?;
        Ok(Self {
            certificate: read("certificate", &settings.certificate)?,
            key,
            client_ca: client_ca.iter().map(|path| read("client CA", path)).collect::<Result<_, _>>()?,
            client_crls: client_crls
                .iter()
                .map(|path| read("client revocation list", path))
                .collect::<Result<_, _>>()?,
            trust_domains: settings
                .trust_domains
                .values()
                .filter(|_| asks)
                .map(|path| read("trust domain's CA bundle", path))
                .collect::<Result<_, _>>()?,
        })
    }

    fn all(&self) -> impl Iterator<Item = &[u8]> {
        [self.certificate.as_slice(), self.key.as_slice()]
            .into_iter()
            .chain(self.client_ca.iter().map(Vec::as_slice))
            .chain(self.client_crls.iter().map(Vec::as_slice))
            .chain(self.trust_domains.iter().map(Vec::as_slice))
    }
}

impl Fingerprint {
    pub(super) fn of(reading: &Result<Files, TlsError>) -> Self {
        let mut context = Context::new(&SHA256);
        match reading {
            Ok(files) => {
                context.update(b"files");
                for file in files.all() {
                    // Lengths keep bytes that moved from one file to the next from looking like no change.
                    context.update(&file.len().to_be_bytes());
                    context.update(file);
                }
            }
            Err(error) => {
                context.update(b"error");
                context.update(error.full_text().as_bytes());
            }
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        Self(bytes)
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    read_into(what, path, &mut bytes)?;
    Ok(bytes)
}

fn read_into(what: &'static str, path: &Path, bytes: &mut Vec<u8>) -> Result<(), TlsError> {
    let failed = |source: io::Error| TlsError::Read { what, path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    // Room up front: a buffer that grows leaves copies of the key behind.
    bytes.reserve_exact(usize::try_from(size.min(MAX_FILE_BYTES)).unwrap_or(0) + 1);
    file.take(MAX_FILE_BYTES + 1).read_to_end(bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(TlsError::TooLarge { what, path: path.to_owned(), limit: MAX_FILE_BYTES });
    }
    Ok(())
}
