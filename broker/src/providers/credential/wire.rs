//! The one way out: every request bounded in time and size, never redirected, never in plain text across a network.

use std::net::Ipv4Addr;
use std::time::Duration;

use http::StatusCode;
use http::header::CONTENT_LENGTH;
use reqwest::{Client, RequestBuilder, Url, redirect};
use zeroize::Zeroizing;

use super::{Broken, Symptom};

const MAX_BODY: usize = 64 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// From the first byte out to the last byte in.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub(crate) struct Http(Client);

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// Google's metadata server proves itself with it.
    pub(crate) flavor: bool,
    /// Where to ask on; Azure has two headers for it.
    pub(crate) location: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl Http {
    pub(crate) fn new() -> Result<Self, Broken> {
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            // A proxy named by the environment would see the tokens.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .user_agent("keyferry")
            .build();
        let no_roots = "no HTTPS client can be made; install the system's CA certificates (ca-certificates)";
        client.map(Self).map_err(|_| Broken::lasting("https", no_roots))
    }

    pub(crate) fn get(&self, link: &'static str, url: &str, query: &[(&str, &str)]) -> Result<RequestBuilder, Broken> {
        let mut url = permitted(link, url)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(self.0.get(url))
    }

    pub(crate) fn post_form(
        &self,
        link: &'static str,
        url: &str,
        form: &[(&str, &str)],
    ) -> Result<RequestBuilder, Broken> {
        let mut encoded = permitted(link, url)?;
        let target = encoded.clone();
        encoded.set_query(None);
        encoded.query_pairs_mut().extend_pairs(form);
        let body = encoded.query().unwrap_or_default().to_owned();
        Ok(self.0.post(target).header("content-type", "application/x-www-form-urlencoded").body(body))
    }

    /// With nothing in its body.
    pub(crate) fn post(&self, link: &'static str, url: &str) -> Result<RequestBuilder, Broken> {
        Ok(self.0.post(permitted(link, url)?).header(CONTENT_LENGTH, 0))
    }

    pub(crate) fn post_json(
        &self,
        link: &'static str,
        url: &str,
        body: &serde_json::Value,
    ) -> Result<RequestBuilder, Broken> {
        let url = permitted(link, url)?;
        Ok(self.0.post(url).header("content-type", "application/json").body(body.to_string()))
    }
}

/// Whatever the status is; only an answer that does not come, or not whole, is an error here.
pub(crate) async fn send(link: &'static str, request: RequestBuilder) -> Result<Answer, Broken> {
    let (client, request) = request.header("accept", "application/json").build_split();
    let request = request.map_err(|_| Broken::lasting(link, "no request can be made of the configured values"))?;
    let place = place_of(request.url());
    let timeout = request.timeout().copied().unwrap_or(TIMEOUT);
    let lost = |error: reqwest::Error| Broken::passing(link, unreached(&place, timeout, &error));
    let mut response = client.execute(request).await.map_err(lost)?;
    let status = response.status();
    let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let flavor = text("metadata-flavor") == Some("Google");
    let location = text("location").or_else(|| text("azure-asyncoperation")).map(str::to_owned);
    let retry_after = text("retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(lost)? {
        if body.len() + chunk.len() > MAX_BODY {
            let message = format!("{place} answers more than 64 KiB; check that this address is the cloud's own");
            return Err(Broken::lasting(link, message));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, flavor, location, retry_after, body })
}

impl Answer {
    /// What any of them may answer for a while, to be asked before what is particular to one.
    pub(crate) fn check_passing(&self, link: &'static str) -> Result<(), Broken> {
        let status = self.status;
        if status.is_server_error()
            || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::GONE)
        {
            let message = format!("answers {} for now; it is asked again until it does better", status.as_u16());
            let passing = Broken::passing(link, message);
            return Err(match status {
                StatusCode::TOO_MANY_REQUESTS => Broken { symptom: Symptom::Throttled, ..passing },
                _ => passing,
            });
        }
        if status.is_redirection() {
            let message = "answers with a redirect, which is not followed; configure the address it really has";
            return Err(Broken::lasting(link, message));
        }
        Ok(())
    }
}

fn permitted(link: &'static str, url: &str) -> Result<Url, Broken> {
    let parsed = Url::parse(url).ok().filter(|url| {
        let plain = url.scheme() == "http" && url.host_str().is_some_and(stays_on_host);
        plain || url.scheme() == "https"
    });
    parsed.ok_or_else(|| {
        let message = "its address is neither https:// nor http:// on this host; correct it where it is configured";
        Broken::lasting(link, message)
    })
}

/// Metadata services speak plain HTTP, on addresses that lead no further than the host's own network card.
pub fn stays_on_host(host: &str) -> bool {
    ["localhost", "[::1]", "[fd20:ce::254]", "metadata.google.internal"].contains(&host)
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback() || address.is_link_local())
}

/// Without path and query, which hold what was asked for.
fn place_of(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn unreached(place: &str, timeout: Duration, error: &reqwest::Error) -> String {
    if error.is_timeout() {
        format!("{place} does not answer within {} s; check the network from here to there", timeout.as_secs())
    } else if error.is_connect() {
        format!("{place} cannot be connected to; check its name, the network from here to there, and its certificate")
    } else {
        format!("{place} ended the connection within its answer; it is asked again")
    }
}
