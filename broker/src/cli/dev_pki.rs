//! The throw-away PKI of `keyferry dev`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

use super::Complaint;
use crate::clock::{Clock as _, SystemClock};

const DAY: u64 = 24 * 60 * 60;
const LIFETIME_DAYS: u64 = 30;

pub(super) const TRUST_DOMAIN: &str = "dev.keyferry.local";

/// A certificate authority whose key is forgotten as soon as it has signed what dev mode needs.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Result<Self, Complaint> {
        let mut params = params("Keyferry dev CA")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), Complaint> {
        write_private(path, &self.0.pem())
    }

    /// For the broker itself, on loopback.
    pub(super) fn issue_server(&self, directory: &Path) -> Result<(), Complaint> {
        let mut params = params("keyferry")?;
        params.subject_alt_names = vec![
            SanType::DnsName("localhost".try_into()?),
            SanType::IpAddress([127, 0, 0, 1].into()),
            SanType::IpAddress(std::net::Ipv6Addr::LOCALHOST.into()),
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params, directory, "server")
    }

    /// For a caller, known by its SPIFFE id.
    pub(super) fn issue_client(&self, directory: &Path, name: &str) -> Result<(), Complaint> {
        let mut params = params(name)?;
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{TRUST_DOMAIN}/{name}").try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, directory, name)
    }

    fn issue(&self, mut params: CertificateParams, directory: &Path, file: &str) -> Result<(), Complaint> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        write_private(&directory.join(file).with_extension("pem"), &certificate.pem())?;
        write_private(&directory.join(file).with_extension("key"), &key.serialize_pem())
    }
}

fn params(common_name: &str) -> Result<CertificateParams, Complaint> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // Backdated for clients whose clock is behind; short, because nothing renews it but another start.
    let today = SystemClock.now().as_secs() / DAY;
    let (year, month, day) = date(today - 1)?;
    params.not_before = date_time_ymd(year, month, day);
    let (year, month, day) = date(today + LIFETIME_DAYS)?;
    params.not_after = date_time_ymd(year, month, day);
    Ok(params)
}

fn date(day: u64) -> Result<(i32, u8, u8), Complaint> {
    let date = jiff::Timestamp::from_second(i64::try_from(day * DAY)?)?.to_zoned(jiff::tz::TimeZone::UTC).date();
    Ok((date.year().into(), date.month().try_into()?, date.day().try_into()?))
}

/// For its owner alone, from the moment it exists.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), Complaint> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
