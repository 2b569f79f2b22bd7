//! What a server that is reached by its address needs, and the CA whose client certificates it accepts.

use std::collections::BTreeMap;

use crate::config::kind::{FileUse, Kind, count, file, made_of, text};
use crate::config::section::Section;
use crate::databases::{AuthoritySettings, CertificateSettings, MappedRole, ServerSettings};
use crate::names::SecretName;

pub(super) fn server(s: &mut Section<'_, '_>, port: &'static str) -> ServerSettings {
    ServerSettings {
        host: s.required("host", host(), "Host name or IP address; the server's certificate must carry it."),
        port: s.with_default("port", count(1..=65_535), port, "TCP port."),
        database: s.required("database", identifier(), "The database to connect to."),
        ca: s.required("ca", file(FileUse::Read), "CAs (PEM) that the server's certificate must chain to."),
    }
}

/// Needed by roles whose credential is a certificate.
pub(super) fn certificates(
    s: &mut Section<'_, '_>,
    server: &ServerSettings,
    roles: BTreeMap<String, MappedRole>,
) -> Option<CertificateSettings> {
    let certificate = s.optional(
        "client_ca_certificate",
        &secret(),
        "The secret that holds the certificate of the CA for client certificates (PEM), followed by those that lead to \
         its root where it is not the root itself.",
    );
    let key =
        s.optional("client_ca_key", &secret(), "The secret that holds its private key (PEM); it may be the same.");
    let found = |name: Option<String>| name.and_then(|name| SecretName::parse(&name).ok());
    match (found(certificate), found(key)) {
        (Some(certificate), Some(key)) => (!roles.is_empty()).then(|| CertificateSettings {
            server: server.clone(),
            authority: AuthoritySettings { certificate, key },
            roles,
        }),
        (certificate, key) => {
            let keys = ["client_ca_certificate", "client_ca_key"];
            if (!roles.is_empty() || certificate.is_some() || key.is_some()) && s.are_sound(&keys) {
                let [first, second] = keys;
                let missing = if certificate.is_some() { second } else { first };
                let advice = "is missing; for roles with credential = \"certificate\" name the secrets that hold the \
                              CA's certificate and its key";
                s.refuse_missing(missing, advice);
            }
            None
        }
    }
}

pub(in crate::config) fn secret() -> Kind<String> {
    text("the name of a secret, stores/{store}/secrets/{secret}", "secret name", |name| {
        SecretName::parse(name).map(drop).map_err(|error| error.to_string())
    })
}

/// A name in a database: it is quoted wherever it is used, so only what cannot be quoted is refused.
pub(in crate::config) fn identifier() -> Kind<String> {
    text("a name of 1 to 63 characters", "name", |name| made_of(name, 63, |c| !c.is_control()))
}

pub(super) fn host() -> Kind<String> {
    text("a host name or an IP address", "host", |host| {
        made_of(host, 253, |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':'))
    })
}
