//! A call by GET: `?connect=v1&encoding=json&message=…`, where the message is in URL-safe base64 with `base64=1`.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::request::compressed;
use crate::error::{Failure, Reason};
use crate::gateway::frame;
use crate::gateway::wiped::Wiped;

#[derive(Debug, Default)]
pub(super) struct Query<'a> {
    message: Option<&'a str>,
    base64: bool,
}

impl<'a> Query<'a> {
    pub(super) fn parse(query: &'a str) -> Result<Self, Failure> {
        let (mut parsed, mut encoding) = (Self::default(), None);
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "message" if parsed.message.is_some() => return Err(bad("message", "is given twice; give it once")),
                "message" => parsed.message = Some(value),
                "encoding" => encoding = Some(value),
                "base64" => parsed.base64 = value == "1",
                "connect" if value != "v1" => return Err(bad("connect", "is not v1; send v1, or leave it out")),
                "compression" if !matches!(value, "" | "identity") => return Err(compressed()),
                _ => {}
            }
        }
        if !matches!(encoding, Some("json" | "proto")) {
            return Err(bad("encoding", "is neither json nor proto; add encoding=json"));
        }
        Ok(parsed)
    }

    /// After room for the head of a frame.
    pub(super) fn message(&self, most: usize) -> Result<Wiped, Failure> {
        let message =
            self.message.ok_or_else(|| bad("message", "is missing; add message={} with the request's fields"))?;
        let text = unescaped(message).ok_or_else(|| bad("message", "is not percent-encoded as a URL asks for"))?;
        let mut whole = frame::begin(text.len());
        if self.base64 {
            let text = text.as_ref().trim_ascii_end();
            let unpadded = text.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
            let decode = |out: &mut [u8]| URL_SAFE_NO_PAD.decode_slice(&text[..unpadded], out);
            whole
                .put_with(base64::decoded_len_estimate(unpadded), decode)
                .map_err(|_| bad("message", "is not URL-safe base64, which base64=1 says that it is"))?;
        } else {
            whole.put(&text);
        }
        if whole.len() - frame::HEAD > most {
            return Err(frame::too_large());
        }
        Ok(whole)
    }
}

/// `%xx` and `+` as forms have them.
fn unescaped(text: &str) -> Option<Cow<'_, [u8]>> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Some(Cow::Borrowed(text.as_bytes()));
    }
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => digit(bytes.next()?)? << 4 | digit(bytes.next()?)?,
            b'+' => b' ',
            other => other,
        });
    }
    Some(Cow::Owned(plain))
}

fn bad(field: &'static str, description: &str) -> Failure {
    Failure::bad_field(Reason::InvalidArgument, field, description)
}
