//! `[tls]`

use super::kind::{FileUse, duration, file, made_of, one_of};
use super::reader::Reader;
use crate::transport::{ClientCertificate, TlsSettings, TlsVersion};

const ABOUT: &str = "The broker's certificate and whose client certificates it accepts. \
                     The files are read again, together, when one of them changes.";

pub(super) fn read(reader: &mut Reader<'_>) -> TlsSettings {
    let client_certificate = [("required", ClientCertificate::Required), ("optional", ClientCertificate::Optional)];
    let versions = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    let readable = || file(FileUse::Read);
    reader.section("tls", ABOUT, |s| {
        let tls = TlsSettings {
            certificate: s.required_beside("certificate", "key", readable(),
                "The broker's certificate and its chain (PEM)."),
            key: s.required_beside("key", "certificate", file(FileUse::ReadPrivately),
                "The certificate's private key (PEM); nobody but the broker may read it."),
            client_ca: s.list_or_empty("client_ca", &readable(),
                "Bundles (PEM) of the CAs whose client certificates are accepted. \
                 Required, unless client certificates are optional."),
            client_crls: s.list_or_empty("client_crls", &readable(),
                "Revocation lists (PEM or DER). With at least one, a certificate whose CA has no current list is refused."),
            trust_domains: s.map("trust_domains", check_trust_domain, &readable(),
                "SPIFFE trust domain → bundle (PEM) of the CAs that speak for it, among those of `client_ca`. \
                 An id of a domain that is not listed, or whose certificate another CA issued, is refused."),
            client_certificate: s.with_default("client_certificate", one_of(client_certificate), "required",
                "Whether a caller must present a certificate."),
            minimum_version: s.with_default("minimum_version", one_of(versions), "1.3",
                "The oldest TLS version that is spoken."),
            reload_interval: s.with_default("reload_interval", duration("1s", "1h"), "10s",
                "How often the files are looked at for a change."),
        };
        let needs_ca = tls.client_certificate == ClientCertificate::Required;
        if needs_ca && tls.client_ca.is_empty() && s.are_sound(&["client_ca", "client_certificate"]) {
            s.refuse_missing("client_ca", "has no CA, so no caller could present a certificate; \
                                           write a list of paths, or client_certificate = \"optional\"");
        }
        tls
    })
}

fn check_trust_domain(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    made_of(name, 255, fits).map_err(|fault| {
        format!("{fault}; a trust domain is made of lower-case letters, digits, dots, hyphens and underscores")
    })
}
