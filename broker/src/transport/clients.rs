//! Which client certificates are trusted: the CAs that vouch for them and the lists that revoke them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::{parse_x509_certificate, parse_x509_crl};

use super::files::Files;
use super::material::{TlsError, certificates};
use super::settings::{ClientCertificate, TlsSettings};
use crate::clock::Timestamp;

/// What client certificates are judged by.
pub(super) struct Clients {
    roots: RootCertStore,
    crls: Vec<CertificateRevocationListDer<'static>>,
    crl_updates: Vec<Timestamp>,
}

impl Clients {
    pub(super) fn parse(
        files: &Files,
        settings: &TlsSettings,
        now: Timestamp,
        warnings: &mut Vec<String>,
    ) -> Result<Self, TlsError> {
        let mut clients = Self { roots: RootCertStore::empty(), crls: Vec::new(), crl_updates: Vec::new() };
        for (path, pem) in settings.client_ca.iter().zip(&files.client_ca) {
            for (at, der) in certificates("client CA bundle", path, pem)?.into_iter().enumerate() {
                clients.trust(der, path, at + 1, now, warnings)?;
            }
        }
        for (path, bytes) in settings.client_crls.iter().zip(&files.client_crls) {
            for der in revocation_lists(path, bytes)? {
                clients.revoke_by(der, path, now, warnings)?;
            }
        }
        Ok(clients)
    }

    /// One verifier per SPIFFE trust domain: a CA speaks for the domains that the operator gave it and no others.
    /// Revocation is not asked again, because every chain goes through the common verifier first.
    pub(super) fn trust_domains(
        files: &Files,
        settings: &TlsSettings,
        crypto: &Arc<CryptoProvider>,
    ) -> Result<BTreeMap<String, Arc<dyn ClientCertVerifier>>, TlsError> {
        let mut domains: BTreeMap<String, Arc<dyn ClientCertVerifier>> = BTreeMap::new();
        for ((domain, path), pem) in settings.trust_domains.iter().zip(&files.trust_domains) {
            let mut roots = RootCertStore::empty();
            for (at, der) in certificates("trust domain's CA bundle", path, pem)?.into_iter().enumerate() {
                roots.add(der).map_err(|_| TlsError::NotCa { path: path.clone(), number: at + 1 })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(crypto))
                .build()
                .map_err(|source| TlsError::Verifier { source })?;
            domains.insert(domain.clone(), verifier);
        }
        Ok(domains)
    }

    pub(super) fn cas(&self) -> usize {
        self.roots.len()
    }

    pub(super) fn crl_updates(&self) -> &[Timestamp] {
        &self.crl_updates
    }

    fn trust(
        &mut self,
        der: CertificateDer<'static>,
        path: &Path,
        number: usize,
        now: Timestamp,
        warnings: &mut Vec<String>,
    ) -> Result<(), TlsError> {
        let refused = || TlsError::NotCa { path: path.to_owned(), number };
        let (_, ca) = parse_x509_certificate(&der).map_err(|_| refused())?;
        // A leaf as an anchor would vouch for itself, and for whatever it signs.
        if !ca.is_ca() {
            return Err(refused());
        }
        let not_after = seconds(ca.validity().not_after.timestamp());
        if not_after <= now {
            let path = path.display();
            warnings.push(format!("client CA {number} in {path} expired at {not_after}"));
        }
        self.roots.add(der).map_err(|_| refused())
    }

    fn revoke_by(
        &mut self,
        der: CertificateRevocationListDer<'static>,
        path: &Path,
        now: Timestamp,
        warnings: &mut Vec<String>,
    ) -> Result<(), TlsError> {
        let refused = || TlsError::Crl { path: path.to_owned() };
        let (_, list) = parse_x509_crl(&der).map_err(|_| refused())?;
        let update = seconds(list.next_update().ok_or_else(refused)?.timestamp());
        if update <= now {
            warnings.push(format!(
                "the revocation list {} ran out at {update}: its CA's certificates are refused",
                path.display()
            ));
        }
        self.crl_updates.push(update);
        self.crls.push(der);
        Ok(())
    }

    pub(super) fn verifier(
        self,
        mode: ClientCertificate,
        crypto: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        if mode == ClientCertificate::NotAsked {
            return Ok(WebPkiClientVerifier::no_client_auth());
        }
        if self.roots.is_empty() {
            return Err(TlsError::NoClientCa);
        }
        // With lists present the builder's defaults deny what they do not cover, along the whole chain.
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots), Arc::clone(crypto))
            .with_crls(self.crls)
            .enforce_revocation_expiration();
        if mode == ClientCertificate::Optional {
            builder = builder.allow_unauthenticated();
        }
        builder.build().map_err(|source| TlsError::Verifier { source })
    }
}

/// A file that holds no list is an error: it would silently mean that nothing is revoked.
fn revocation_lists(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let what = "client revocation list";
    if bytes.first() == Some(&0x30) {
        return Ok(vec![CertificateRevocationListDer::from(bytes.to_vec())]);
    }
    let found: Vec<_> = CertificateRevocationListDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { what, path: path.to_owned(), source })?;
    if found.is_empty() {
        return Err(TlsError::Missing { what, path: path.to_owned(), expected: "X509 CRL" });
    }
    Ok(found)
}

fn seconds(timestamp: i64) -> Timestamp {
    Timestamp::from_secs(u64::try_from(timestamp).unwrap_or(0))
}
