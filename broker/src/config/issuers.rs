//! `[issuers.NAME]`: whose tokens are accepted.

use std::collections::BTreeMap;

use super::kind::{FileUse, Kind, duration, file, made_of, one_of, text};
use super::reader::Reader;
use super::section::Section;
use super::url::https_url;
use crate::identity::token::{Algorithm, IssuerSettings, KeySource};

const ABOUT: &str = "An OpenID Connect issuer whose tokens are accepted; NAME stands in its callers' ids.";

pub(super) fn read(reader: &mut Reader<'_>) -> BTreeMap<String, IssuerSettings> {
    let mut urls = Vec::new();
    let mut issuers = reader.named("issuers", ABOUT, issuer_name, |s| {
        let issuer = read_one(s);
        if !issuer.url.is_empty() && urls.contains(&issuer.url) {
            s.refuse("url", "is another issuer's too, and a token names only its url; merge the two");
        }
        urls.push(issuer.url.clone());
        issuer
    });
    for (name, issuer) in &mut issuers {
        issuer.name.clone_from(name);
    }
    issuers
}

fn read_one(s: &mut Section<'_, '_>) -> IssuerSettings {
    let algorithms = one_of(Algorithm::ALL.map(|algorithm| (algorithm.name(), algorithm)));
    let issuer = IssuerSettings {
        name: String::new(),
        url: s.required("url", https_url(), "The issuer, exactly as its tokens name it in `iss`."),
        audiences: s.list("audiences", &audience(), &[], "A token must name one of these in `aud`, exactly."),
        algorithms: s.list(
            "algorithms",
            &algorithms,
            &["RS256", "ES256", "PS256", "EdDSA"],
            "Signatures that are accepted.",
        ),
        keys: keys(s),
        leeway: s.with_default("leeway", duration("0s", "60s"), "30s", "By how much the issuer's clock may differ."),
        maximum_lifetime: s.with_default(
            "maximum_lifetime",
            duration("1m", "168h"),
            "24h",
            "A token that lives longer is refused.",
        ),
        id_claim: s.with_default("id_claim", claim(), "sub", "The claim that tells callers apart."),
        refresh_interval: s.with_default(
            "refresh_interval",
            duration("1s", "24h"),
            "20s",
            "How often the keys are fetched: within it and ten seconds a withdrawn key is out of force.",
        ),
        maximum_key_age: s.with_default(
            "maximum_key_age",
            duration("1m", "168h"),
            "24h",
            "How long the last good keys serve when fetching fails.",
        ),
    };
    if issuer.refresh_interval > issuer.maximum_key_age && s.are_sound(&["refresh_interval", "maximum_key_age"]) {
        s.refuse("refresh_interval", "is longer than maximum_key_age; shorten it, or raise the age");
    }
    issuer
}

pub(super) fn keys(s: &mut Section<'_, '_>) -> KeySource {
    let pinned = s.optional(
        "keys",
        &file(FileUse::Read),
        "The issuer's keys (JWKS), pinned. Without it they come from the issuer's discovery document.",
    );
    let ca = s.optional("ca", &file(FileUse::Read), "CAs (PEM) of the issuer's HTTPS, instead of the system's.");
    if pinned.is_some() && ca.is_some() {
        s.refuse("ca", "is for fetching keys, but keys pins them; remove one of the two");
    }
    pinned.map_or(KeySource::Discovery { ca }, KeySource::Pinned)
}

fn issuer_name(name: &str) -> Result<String, String> {
    made_of(name, 63, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')?;
    if name.starts_with(|c: char| c.is_ascii_lowercase()) {
        Ok(name.to_owned())
    } else {
        Err("does not begin with a lower-case letter".to_owned())
    }
}

fn audience() -> Kind<String> {
    text("a text of 1 to 512 visible characters", "text", |text| made_of(text, 512, |c| c.is_ascii_graphic()))
}

fn claim() -> Kind<String> {
    text("the name of a claim", "text", |text| made_of(text, 128, |c| c.is_ascii_graphic()))
}
