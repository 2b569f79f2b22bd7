//! `[issuer]`: the broker as an issuer of tokens that databases accept.

use std::collections::BTreeMap;

use super::kind::{Kind, duration, text};
use super::listen::ListenSettings;
use super::reader::Reader;
use super::url::https_url;
use crate::databases::{CockroachDatabase, DatabaseSettings, SigningSettings};
use crate::names::{DatabaseName, SecretName};

const ABOUT: &str = "The broker as an OpenID Connect issuer, for databases that accept its tokens: roles with \
                     `credential = \"jwt\"` need it. Its discovery document and its keys are on the port `[listen] \
                     web`. Keys are versions of one secret: the newest signs, after it was published for three times \
                     `refresh_interval`; the one before stays published until its last token has ended.";

pub(super) fn read(reader: &mut Reader<'_>, listen: &ListenSettings) -> Option<SigningSettings> {
    reader.section("issuer", ABOUT, |s| {
        let url = s.optional(
            "url",
            &https_url(),
            "The issuer, exactly as databases have it and as they reach it; its documents are under its path.",
        );
        let secret = s.optional(
            "signing_key",
            &secret(),
            "The secret that holds the private key (PKCS #8 PEM, ECDSA P-256 or RSA from 2048 bits on).",
        );
        let refresh_interval = s.with_default(
            "refresh_interval",
            duration("1s", "1h"),
            "1m",
            "How often the secret's versions are looked at: within it a disabled key is out of force.",
        );
        let maximum_key_age = s.with_default(
            "maximum_key_age",
            duration("1m", "168h"),
            "24h",
            "How long the last good keys sign when the store cannot be asked.",
        );
        let missing = match (&url, &secret) {
            (Some(_), None) => Some("signing_key"),
            (None, Some(_)) => Some("url"),
            (None, None) | (Some(_), Some(_)) => None,
        };
        if let Some(missing) = missing.filter(|_| s.are_sound(&["url", "signing_key"])) {
            s.refuse_missing(missing, "is missing; url and signing_key work only together");
        }
        let secret = secret.and_then(|name| SecretName::parse(&name).ok());
        let (url, secret) = url.zip(secret)?;
        if listen.web.is_none() {
            s.refuse("url", "is reached on the web port, which is off; write web under [listen]");
        }
        Some(SigningSettings { url, secret, refresh_interval, maximum_key_age })
    })
}

/// Roles that need the issuer, where there is none.
pub(super) fn check(
    reader: &mut Reader<'_>,
    issuer: Option<&SigningSettings>,
    databases: &BTreeMap<DatabaseName, DatabaseSettings>,
) {
    let signs = |database: &DatabaseSettings| {
        matches!(database, DatabaseSettings::Cockroach(CockroachDatabase { tokens: Some(_), .. }))
    };
    if issuer.is_none() && databases.values().any(signs) {
        let advice = "is missing, and roles with credential = \"jwt\" need it; write url and signing_key";
        reader.missing_entry("issuer", advice);
    }
}

fn secret() -> Kind<String> {
    text("the name of a secret, stores/{store}/secrets/{secret}", "secret name", |name| {
        SecretName::parse(name).map(drop).map_err(|error| error.to_string())
    })
}
