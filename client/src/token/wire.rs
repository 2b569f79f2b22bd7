use std::time::Duration;

use http::StatusCode;
use reqwest::{Client, RequestBuilder, Response, redirect};
use serde_json::Value;
use zeroize::{Zeroize as _, Zeroizing};

/// Requests that carry or fetch tokens: never by a proxy, never where a redirect points.
pub(super) fn client() -> Result<Client, String> {
    let client = Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(Duration::from_secs(10));
    client.build().map_err(|_| "no HTTP client can be made here; see that the system has CAs".to_owned())
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// A token has at most 8 KiB.
const LONGEST: usize = 64 * 1024;

/// The error says what happened, in words of its own.
pub(super) async fn send(request: RequestBuilder) -> Result<Answer, String> {
    let mut response: Response = request.send().await.map_err(|error| explain(&error))?;
    let status = response.status();
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(|error| explain(&error))? {
        if body.len() + chunk.len() > LONGEST {
            return Err("its answer is too long for a token; see that the address is right".to_owned());
        }
        body.extend_from_slice(&chunk);
        if let Ok(mut chunk) = chunk.try_into_mut() {
            chunk.zeroize();
        }
    }
    Ok(Answer { status, body })
}

impl Answer {
    /// `access_token` of an answer of OAuth's, or the code of its error.
    pub(super) fn access_token(&self) -> Result<Zeroizing<String>, String> {
        let answer: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        if self.status == StatusCode::OK
            && let Some(token) = answer["access_token"].as_str()
        {
            return Ok(Zeroizing::new(token.to_owned()));
        }
        let code = answer["error"].as_str().filter(|code| is_code(code)).unwrap_or("no OAuth answer");
        Err(format!("it answers {} ({code}); see the identity and the resource it is asked for", self.status.as_u16()))
    }
}

/// A code is one short word; a sentence could have a token in it.
fn is_code(text: &str) -> bool {
    text.len() <= 40 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn explain(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "nothing answers at its address"
    } else {
        "the connection was lost"
    };
    format!("{what}; see that this runs where it is said to")
}
