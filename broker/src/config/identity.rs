//! `[identity]`: what a client certificate says about its bearer.

use super::kind::one_of;
use super::reader::Reader;
use crate::identity::CertificateName;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentitySettings {
    pub certificate_names: Vec<CertificateName>,
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
    })
}
