//! The compact form of a signed token, taken apart with nothing left to interpretation.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::algorithm::Algorithm;
use super::json::{self, Json, Object};
use super::rejection::{Quoted, Rejection};

pub(super) const MAX_TOKEN: usize = 8 * 1024;
const MAX_KEY_ID: usize = 256;

/// Well-formed, and still unverified.
pub(super) struct Compact<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    pub(super) payload: Vec<u8>,
    /// What the signature covers.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
}

impl<'a> Compact<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, Rejection> {
        if token.len() > MAX_TOKEN {
            return Err(TOO_LONG);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(NOT_THREE_PARTS)?;
        let (header, payload) = signed.split_once('.').ok_or(NOT_THREE_PARTS)?;
        if payload.contains('.') {
            return Err(NOT_THREE_PARTS);
        }
        let header = json::read_object(&decode(header)?)
            .map_err(|error| Rejection::Malformed(format!("its header is {error}").into()))?;
        let (algorithm, key_id) = read_header(&header)?;
        let signature = decode(signature)?;
        Ok(Self { algorithm, key_id, payload: decode(payload)?, signed: signed.as_bytes(), signature })
    }
}

/// Takes the algorithm and the key's name. `jwk`, `jku`, `x5c` and `x5u` are not read: a token has no say in its key.
fn read_header(header: &Object) -> Result<(Algorithm, Option<String>), Rejection> {
    if header.contains_key("crit") {
        return Err(malformed("its header has crit, and no critical extension is supported"));
    }
    if header.contains_key("enc") || header.contains_key("zip") {
        return Err(malformed("its header is that of an encrypted token; send a signed one"));
    }
    match header.get("typ").map(Json::as_str) {
        None => {}
        Some(Some(kind)) if is_token_type(kind) => {}
        Some(_) => return Err(malformed("its header's typ is neither JWT nor at+jwt")),
    }
    let algorithm = match header.get("alg") {
        None => return Err(malformed("its header has no alg")),
        Some(Json::String(name)) => {
            name.parse().map_err(|_| Rejection::AlgorithmUnknown { algorithm: Quoted::new(name) })?
        }
        Some(_) => return Err(malformed("its header's alg is not a string")),
    };
    let key_id = match header.get("kid") {
        None => None,
        Some(Json::String(id)) if !id.is_empty() && id.len() <= MAX_KEY_ID => Some(id.clone()),
        Some(_) => return Err(malformed("its header's kid is not a string of 1 to 256 bytes")),
    };
    Ok((algorithm, key_id))
}

/// `JOSE` is what SPIFFE's JWT-SVID allows beside `JWT`. A logout token or a DPoP proof names another type.
fn is_token_type(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    matches!(kind.strip_prefix("application/").unwrap_or(&kind), "jwt" | "at+jwt" | "jose")
}

/// Unpadded, without a foreign character, and with every unused bit zero, so that a token has one spelling.
fn decode(part: &str) -> Result<Vec<u8>, Rejection> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed("a part of it is not canonical unpadded base64url"))
}

pub(super) const TOO_LONG: Rejection = malformed("it is longer than 8 KiB; ask its issuer for fewer claims");
const NOT_THREE_PARTS: Rejection =
    malformed("it is not a signed JWT in compact form, which has exactly three parts between two dots");

const fn malformed(what: &'static str) -> Rejection {
    Rejection::Malformed(std::borrow::Cow::Borrowed(what))
}
