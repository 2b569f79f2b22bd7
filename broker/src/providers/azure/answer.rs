//! What the vault answers, as far as the broker looks at it.

use std::collections::BTreeMap;

use azure_core::http::response::ResponseBody;
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroize as _;

use crate::clock::Timestamp;
use crate::secrets::SecretBytes;

/// A version with its value.
pub(super) struct Bundle {
    pub(super) described: Described,
    pub(super) payload: SecretBytes,
}

/// A secret in a list, or a version without its value.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Described {
    id: String,
    pub(super) attributes: Attributes,
    pub(super) content_type: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) tags: BTreeMap<String, String>,
}

#[derive(Deserialize)]
pub(super) struct Attributes {
    pub(super) enabled: bool,
    created: Option<u64>,
    nbf: Option<u64>,
    exp: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DescribedPage {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) value: Vec<Described>,
    pub(super) next_link: Option<String>,
}

/// The names of what went wrong. The text beside them is the vault's and stays here.
#[derive(Default, Deserialize)]
pub(super) struct Refusal {
    error: Option<Code>,
}

#[derive(Deserialize)]
struct Code {
    code: Option<String>,
    #[serde(alias = "innererror")]
    #[serde(rename = "innerError")]
    inner: Option<Box<Code>>,
}

/// The parser's own error would quote the answer.
#[derive(Debug, thiserror::Error)]
#[error("the answer does not have the form of the Key Vault API")]
pub(super) struct Unusable;

impl Bundle {
    pub(super) fn read(body: ResponseBody) -> Result<Self, Unusable> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Valued {
            #[serde(deserialize_with = "secret")]
            value: SecretBytes,
            id: String,
            attributes: Attributes,
            content_type: Option<String>,
            #[serde(default, deserialize_with = "or_default")]
            tags: BTreeMap<String, String>,
        }
        read::<Valued>(body).map(|Valued { value, id, attributes, content_type, tags }| Self {
            described: Described { id, attributes, content_type, tags },
            payload: value,
        })
    }
}

impl Described {
    /// The name in the vault's spelling, and the version where the id is one's.
    pub(super) fn identity(&self) -> Option<(&str, Option<&str>)> {
        let path = self.id.strip_prefix("https://")?;
        let mut parts = path.split('/').skip(1);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("secrets"), Some(name), version, None) => Some((name, version)),
            _ => None,
        }
    }
}

impl Attributes {
    pub(super) fn created(&self) -> Option<Timestamp> {
        self.created.map(Timestamp::from_secs)
    }

    pub(super) fn not_before(&self) -> Option<Timestamp> {
        self.nbf.map(Timestamp::from_secs)
    }

    pub(super) fn expires(&self) -> Option<Timestamp> {
        self.exp.map(Timestamp::from_secs)
    }
}

impl Refusal {
    pub(super) fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    /// Whether it is the vault's own.
    pub(super) fn is_told(&self) -> bool {
        self.error.as_ref().is_some_and(|error| error.code.is_some())
    }

    /// Whether any of its codes is this one, from the general to the precise.
    pub(super) fn is(&self, wanted: &str) -> bool {
        let mut next = self.error.as_ref();
        while let Some(code) = next {
            if code.code.as_deref() == Some(wanted) {
                return true;
            }
            next = code.inner.as_deref();
        }
        false
    }
}

/// Wipes the body after it, since a value may be in there.
pub(super) fn read<T: for<'a> Deserialize<'a>>(body: ResponseBody) -> Result<T, Unusable> {
    let body = Bytes::from(body);
    let parsed = serde_json::from_slice(&body).map_err(|_| Unusable);
    if let Ok(mut body) = body.try_into_mut() {
        body.as_mut().zeroize();
    }
    parsed
}

fn secret<'a, D: Deserializer<'a>>(deserializer: D) -> Result<SecretBytes, D::Error> {
    String::deserialize(deserializer).map(|text| SecretBytes::new(text.into_bytes()))
}

/// Key Vault leaves out what is empty, or says `null`.
fn or_default<'a, D: Deserializer<'a>, T: Default + Deserialize<'a>>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
