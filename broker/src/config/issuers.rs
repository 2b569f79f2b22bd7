//! `[issuers.NAME]`: whose tokens are accepted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::kind::{FileUse, Kind, duration, file, made_of, one_of, text};
use super::reader::Reader;
use super::section::Section;
use super::url::https_url;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerSettings {
    /// Equal, byte by byte, to a token's `iss`.
    pub url: String,
    pub audiences: Vec<String>,
    pub algorithms: Vec<Algorithm>,
    /// A pinned JWKS; without it the keys come from the issuer's discovery document.
    pub keys: Option<PathBuf>,
    pub ca: Option<PathBuf>,
    pub leeway: Duration,
    pub maximum_lifetime: Duration,
    pub id_claim: String,
    pub refresh_interval: Duration,
    pub maximum_key_age: Duration,
}

/// There is no `none` here and no HMAC, so neither can be configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    const ALL: [Self; 10] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// As in a token's `alg`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }
}

const ABOUT: &str = "An OpenID Connect issuer whose tokens are accepted; NAME stands in its callers' ids.";

pub(super) fn read(reader: &mut Reader<'_>) -> BTreeMap<String, IssuerSettings> {
    let mut urls = Vec::new();
    reader.named("issuers", ABOUT, issuer_name, |s| {
        let issuer = read_one(s);
        if !issuer.url.is_empty() && urls.contains(&issuer.url) {
            s.refuse("url", "is another issuer's too, and a token names only its url; merge the two");
        }
        urls.push(issuer.url.clone());
        issuer
    })
}

fn read_one(s: &mut Section<'_, '_>) -> IssuerSettings {
    let algorithms = one_of(Algorithm::ALL.map(|algorithm| (algorithm.as_str(), algorithm)));
    let issuer = IssuerSettings {
        url: s.required("url", https_url(), "The issuer, exactly as its tokens name it in `iss`."),
        audiences: s.list("audiences", &audience(), &[], "A token must name one of these in `aud`, exactly."),
        algorithms: s.list(
            "algorithms",
            &algorithms,
            &["RS256", "ES256", "PS256", "EdDSA"],
            "Signatures that are accepted.",
        ),
        keys: s.optional(
            "keys",
            &file(FileUse::Read),
            "The issuer's keys (JWKS), pinned. Without it they come from the issuer's discovery document.",
        ),
        ca: s.optional("ca", &file(FileUse::Read), "CAs (PEM) of the issuer's HTTPS, instead of the system's."),
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
            duration("10s", "24h"),
            "5m",
            "How often the keys are fetched.",
        ),
        maximum_key_age: s.with_default(
            "maximum_key_age",
            duration("1m", "168h"),
            "24h",
            "How long the last good keys serve when fetching fails.",
        ),
    };
    if s.is_given("keys") && s.is_given("ca") {
        s.refuse("ca", "is for fetching keys, but keys pins them; remove one of the two");
    }
    if issuer.refresh_interval > issuer.maximum_key_age && s.are_sound(&["refresh_interval", "maximum_key_age"]) {
        s.refuse("refresh_interval", "is longer than maximum_key_age; shorten it, or raise the age");
    }
    issuer
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
