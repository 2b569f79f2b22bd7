//! The claims that the broker itself enforces: audience, times, subject and binding.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::json::{Json, Object};
use super::rejection::{Quoted, Rejection};
use super::settings::IssuerSettings;
use crate::clock::Timestamp;
use crate::digest::Digest;

const MAX_SUBJECT: usize = 512;
/// The last second of the year 9999, so that no arithmetic on a time can overflow.
const MAX_TIME: u64 = 253_402_300_799;

pub(super) struct Registered {
    pub(super) subject: String,
    pub(super) audiences: Vec<String>,
    pub(super) expires: Timestamp,
    pub(super) issued: Option<Timestamp>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) certificate_thumbprint: Option<Digest>,
}

impl Registered {
    /// Of a payload whose signature is verified. A claim of the wrong type is a bad one, never an absent one.
    pub(super) fn check(payload: &Object, issuer: &IssuerSettings, now: Timestamp) -> Result<Self, Rejection> {
        let audiences = audiences(payload)?;
        if !audiences.iter().any(|audience| issuer.audiences.contains(audience)) {
            return Err(Rejection::Audience {
                issuer: issuer.name.clone(),
                seen: Quoted::list(audiences.iter().map(String::as_str)),
                expected: Quoted::list(issuer.audiences.iter().map(String::as_str)),
            });
        }
        let expires = time(payload, "exp")?.ok_or(malformed("it has no exp; this broker takes no token for ever"))?;
        let not_before = time(payload, "nbf")?;
        let issued = time(payload, "iat")?;
        let times = Times { expires, not_before, issued };
        times.check(issuer, now.as_secs())?;
        Ok(Self {
            subject: subject(payload, &issuer.id_claim)?,
            audiences,
            expires: Timestamp::from_secs(expires),
            issued: issued.map(Timestamp::from_secs),
            not_before: not_before.map(Timestamp::from_secs),
            certificate_thumbprint: certificate_thumbprint(payload)?,
        })
    }
}

/// In seconds since the epoch.
struct Times {
    expires: u64,
    not_before: Option<u64>,
    issued: Option<u64>,
}

impl Times {
    fn check(&self, issuer: &IssuerSettings, now: u64) -> Result<(), Rejection> {
        let leeway = issuer.leeway.as_secs();
        let shown = Timestamp::from_secs(now);
        if self.expires + leeway <= now {
            return Err(Rejection::Expired { ago: now - self.expires, now: shown, leeway });
        }
        for (claim, time) in [("nbf", self.not_before), ("iat", self.issued)] {
            if let Some(time) = time
                && time > now + leeway
            {
                return Err(Rejection::NotYetValid { claim, ahead: time - now, now: shown, leeway });
            }
        }
        let start = self.issued.unwrap_or(now);
        let seconds = self.expires.checked_sub(start).or_else(|| self.issued.is_none().then_some(0));
        let seconds = seconds.ok_or(malformed("its exp is before its iat"))?;
        let limit = issuer.maximum_lifetime.as_secs();
        if seconds > limit {
            return Err(Rejection::Lifetime { issuer: issuer.name.clone(), seconds, limit });
        }
        Ok(())
    }
}

fn time(payload: &Object, claim: &'static str) -> Result<Option<u64>, Rejection> {
    match payload.get(claim) {
        None => Ok(None),
        Some(Json::Unsigned(seconds)) if *seconds <= MAX_TIME => Ok(Some(*seconds)),
        Some(_) => Err(Rejection::Malformed(format!("its {claim} is not a time in whole seconds").into())),
    }
}

fn audiences(payload: &Object) -> Result<Vec<String>, Rejection> {
    const NOT_STRINGS: Rejection = malformed("its aud is neither a string nor an array of strings");
    match payload.get("aud") {
        None => Ok(Vec::new()),
        Some(Json::String(one)) => Ok(vec![one.clone()]),
        Some(Json::Array(items)) => {
            items.iter().map(|item| item.as_str().map(str::to_owned).ok_or(NOT_STRINGS)).collect()
        }
        Some(_) => Err(NOT_STRINGS),
    }
}

/// Visible ASCII and inner spaces, which a GitHub environment's name may have: nothing that looks like something else.
fn subject(payload: &Object, claim: &str) -> Result<String, Rejection> {
    let refused = |what: &str| Rejection::Malformed(format!("its {claim}, which identifies its holder, {what}").into());
    let subject = match payload.get(claim) {
        None => return Err(refused("is missing")),
        Some(value) => value.as_str().ok_or_else(|| refused("is not a string"))?,
    };
    if subject.is_empty() || subject.len() > MAX_SUBJECT {
        return Err(refused("is empty or longer than 512 bytes"));
    }
    let visible = subject.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if !visible || subject.starts_with(' ') || subject.ends_with(' ') {
        return Err(refused("has characters other than visible ASCII, or a space at an end"));
    }
    Ok(subject.to_owned())
}

/// Any confirmation other than a certificate's thumbprint cannot be checked here, so the token is not a bearer's.
fn certificate_thumbprint(payload: &Object) -> Result<Option<Digest>, Rejection> {
    let Some(confirmation) = payload.get("cnf") else {
        return Ok(None);
    };
    let members = confirmation.as_object().ok_or(malformed("its cnf is not an object"))?;
    let mut names = members.keys();
    if names.next().map(String::as_str) != Some("x5t#S256") || names.next().is_some() {
        return Err(malformed("it is bound (cnf) by other means than x5t#S256, which this broker cannot check"));
    }
    members["x5t#S256"]
        .as_str()
        .and_then(|encoded| URL_SAFE_NO_PAD.decode(encoded).ok())
        .and_then(|bytes| bytes.try_into().ok())
        .map(|bytes| Some(Digest(bytes)))
        .ok_or(malformed("its cnf has an x5t#S256 that is no SHA-256 digest in base64url"))
}

const fn malformed(what: &'static str) -> Rejection {
    Rejection::Malformed(std::borrow::Cow::Borrowed(what))
}
