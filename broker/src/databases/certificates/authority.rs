//! The CA that a database accepts client certificates of. Its certificate and its key are secrets of a store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
    PublicKeyData as _, SerialNumber, SubjectPublicKeyInfo, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::parse_x509_certificate;

use super::ca_key::CaKey;
use crate::clock::{SharedClock, Timestamp};
use crate::databases::kept::{Kept, OwnSecret, Reading, Unread};
use crate::databases::pem;
use crate::databases::users::{Account, fill_random};
use crate::error::{Failure, Reason};
use crate::names::VersionId;
use crate::secrets::Fetched;

/// The database's clock may be behind ours.
const BACKDATED: Duration = Duration::from_secs(30);
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// How long the last good CA signs while the store cannot be asked.
const MAXIMUM_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Clones share the key.
#[derive(Clone, Debug)]
pub struct Authority(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    certificate: OwnSecret,
    key: OwnSecret,
    ca: Kept<Ca>,
}

struct Ca {
    issuer: Issuer<'static, CaKey>,
    /// What leads from a client's certificate to the root, in PEM.
    chain: String,
    begins: Timestamp,
    /// When the first certificate on the way to the root ends.
    ends: Timestamp,
    versions: (Arc<str>, Arc<str>),
}

/// A certificate to be.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) user: &'a str,
    /// Who asked for it, as its subject shows.
    pub(super) caller: &'a str,
    pub(super) key: &'a SubjectPublicKeyInfo,
    pub(super) now: Timestamp,
    pub(super) until: Timestamp,
}

/// A certificate that was made.
#[derive(Debug)]
pub(super) struct Signed {
    /// With what leads to the root, in PEM.
    pub(super) chain: String,
    pub(super) serial: u128,
    /// Never later than its CA.
    pub(super) expires: Timestamp,
}

impl Authority {
    /// Nothing is read until `keep` runs.
    pub fn new(certificate: OwnSecret, key: OwnSecret, clock: SharedClock) -> Self {
        Self(Arc::new(Inner { certificate, key, ca: Kept::new(MAXIMUM_AGE, clock) }))
    }

    /// Follows the secrets for ever; its owner cancels it.
    pub async fn keep(self) {
        loop {
            self.refresh().await;
            self.0.ca.pause(REFRESH_INTERVAL).await;
        }
    }

    pub async fn refresh(&self) {
        let reading = self.0.read().await;
        self.0.ca.settle(reading, &self.0.certificate.name);
    }

    pub(super) async fn check(&self, now: Timestamp) -> Result<(), Failure> {
        let ca = self.0.ca.get().await?;
        self.0.in_force(&ca, now)
    }

    pub(super) async fn sign(&self, wanted: &Wanted<'_>) -> Result<Signed, Failure> {
        let ca = self.0.ca.get().await?;
        self.0.in_force(&ca, wanted.now)?;
        let expires = wanted.until.min(ca.ends).as_secs();
        let begins = wanted.now.as_secs().saturating_sub(BACKDATED.as_secs()).max(ca.begins.as_secs());
        let mut serial = [0; 16];
        fill_random(&mut serial)?;
        // A positive number of a fixed length.
        serial[0] = serial[0] & 0x3f | 0x40;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(wanted.user, wanted.caller);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(begins);
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(expires);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(wanted.key, &ca.issuer).map_err(|error| {
            Failure::new(Reason::Internal, "a certificate could not be signed; report this").caused_by(error)
        })?;
        Ok(Signed {
            chain: certificate.pem() + &ca.chain,
            serial: u128::from_be_bytes(serial),
            expires: Timestamp::from_secs(expires),
        })
    }

    pub fn account(&self) -> Account {
        self.0.ca.account()
    }
}

/// The user is the common name and there is no alternative name: CockroachDB takes every DNS name for a user too, and
/// other software might take a URI for an identity. The organization is what no database goes by (CockroachDB does go by
/// the unit) and what PostgreSQL's log and `pg_stat_ssl` show.
fn subject(user: &str, caller: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, caller);
    name.push(DnType::CommonName, user);
    name
}

impl Inner {
    async fn read(&self) -> Reading<Ca> {
        match self.read_ca().await {
            Ok(value) => Reading { value, failure: None, confirmed: true, withdrawn: false },
            Err(Unread { failure, withdrawn }) => {
                Reading { value: None, failure: Some(failure), confirmed: false, withdrawn }
            }
        }
    }

    /// `None`: it is still the one that is held.
    async fn read_ca(&self) -> Result<Option<Ca>, Unread> {
        let certificate = self.certificate.fetch(&VersionId::Latest).await?;
        let key = self.key.fetch(&VersionId::Latest).await?;
        let versions = (Arc::clone(&certificate.version.id), Arc::clone(&key.version.id));
        if self.ca.last().is_some_and(|held| held.versions == versions) {
            return Ok(None);
        }
        Ok(Some(self.parse(&certificate, &key, versions)?))
    }

    fn parse(&self, certificate: &Fetched, key: &Fetched, versions: (Arc<str>, Arc<str>)) -> Result<Ca, Failure> {
        let of_certificate = |fault: &str| self.certificate.unusable(fault);
        let of_key = |fault: &str| self.key.unusable(fault);
        let ders = pem::certificates(certificate.payload.expose()).map_err(of_certificate)?;
        let way = parse_way(&ders).map_err(of_certificate)?;
        let first = way.first().ok_or_else(|| of_certificate(UNREADABLE))?;
        let key = CaKey::parse(key.payload.expose()).map_err(of_key)?;
        if first.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            let name = &self.certificate.name;
            return Err(of_key(&format!(
                "holds a key that is not of the CA in {name}; store those that belong together"
            )));
        }
        let seconds = |at: i64| Timestamp::from_secs(u64::try_from(at).unwrap_or(0));
        let begins = way.iter().map(|one| seconds(one.validity().not_before.timestamp())).max();
        let ends = way.iter().map(|one| seconds(one.validity().not_after.timestamp())).min();
        // The root is known to whoever verifies.
        let below_root = way.iter().filter(|one| one.subject().as_raw() != one.issuer().as_raw());
        let chain = below_root.map(|one| pem::certificate(one.as_raw())).collect();
        let (begins, ends) = (begins.unwrap_or(Timestamp::from_secs(0)), ends.unwrap_or(Timestamp::from_secs(0)));
        let der = CertificateDer::from(first.as_raw());
        let issuer =
            Issuer::from_ca_cert_der(&der, key).map_err(|error| of_certificate(UNREADABLE).caused_by(error))?;
        Ok(Ca { issuer, chain, begins, ends, versions })
    }

    fn in_force(&self, ca: &Ca, now: Timestamp) -> Result<(), Failure> {
        let state = if ca.ends <= now.plus(Duration::from_secs(1)) {
            format!("holds a CA that ended at {}; store its successor, and its key beside it", ca.ends)
        } else if now < ca.begins {
            format!("holds a CA that begins only at {}; check the clocks, or wait", ca.begins)
        } else {
            return Ok(());
        };
        Err(self.certificate.unusable(&state))
    }
}

/// CAs, each issued by the next. An error ends a sentence that begins with the secret's name.
fn parse_way<'a>(ders: &'a [CertificateDer<'_>]) -> Result<Vec<X509Certificate<'a>>, &'static str> {
    let mut way: Vec<X509Certificate<'a>> = Vec::with_capacity(ders.len());
    for der in ders {
        let (_, next) = parse_x509_certificate(der).map_err(|_| UNREADABLE)?;
        let signs = next.key_usage().map_err(|_| UNREADABLE)?.is_none_or(|usage| usage.value.key_cert_sign());
        if !next.is_ca() || !signs {
            return Err("holds a certificate that may not issue others; store that of a CA, not of a server or client");
        }
        if way.last().is_some_and(|below| below.issuer().as_raw() != next.subject().as_raw()) {
            return Err(
                "holds certificates of which one is not issued by the next; store the CA's first, then that of \
                        each one's issuer",
            );
        }
        way.push(next);
    }
    Ok(way)
}

const UNREADABLE: &str = "holds a certificate that cannot be read; store the CA's own, in PEM";

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("ends", &self.ends).field("versions", &self.versions).finish_non_exhaustive()
    }
}
