//! `[identity]`: what a client certificate says about its bearer.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::kind::{FileUse, file, made_of, one_of};
use super::reader::Reader;
use crate::identity::CertificateName;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentitySettings {
    pub certificate_names: Vec<CertificateName>,
    pub trust_domains: BTreeMap<String, PathBuf>,
}

pub(super) fn read(reader: &mut Reader<'_>) -> IdentitySettings {
    let names = one_of([
        ("spiffe", CertificateName::Spiffe),
        ("dns", CertificateName::Dns),
        ("common_name", CertificateName::CommonName),
    ]);
    reader.section("identity", "What a client certificate says about its bearer.", |s| IdentitySettings {
        certificate_names: s.list(
            "certificate_names",
            &names,
            &["spiffe", "dns"],
            "Which names of a certificate make an identity; the first that it has.",
        ),
        trust_domains: s.map(
            "trust_domains",
            check_trust_domain,
            &file(FileUse::Read),
            "SPIFFE trust domain → bundle (PEM) of the CAs that speak for it. \
             The id of a domain that is not listed is refused.",
        ),
    })
}

fn check_trust_domain(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    made_of(name, 255, fits).map_err(|fault| {
        format!("{fault}; a trust domain is made of lower-case letters, digits, dots, hyphens and underscores")
    })
}
