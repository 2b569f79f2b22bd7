//! What carries the client's requests: HTTPS to one vault and nowhere else, with everything bounded.

use std::time::Duration;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::headers::{AUTHORIZATION, Headers, WWW_AUTHENTICATE};
use azure_core::http::{AsyncRawResponse, Body, HttpClient, Request};
use bytes::Bytes;
use reqwest::{Certificate, Client, Method, Response, StatusCode, Url, redirect};
use thiserror::Error;
use zeroize::Zeroizing;

use super::failure::OpenError;
use crate::config;

/// The largest answers are pages of 25 items with their tags, which stay below a quarter of it.
const MAX_BODY: usize = 1 << 20;
/// The guard bounds the request as a whole.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Wire {
    vault: Url,
    client: Client,
}

/// Why a request got no answer that could be judged.
#[derive(Debug, Error)]
pub(super) enum Trouble {
    #[error("no connection")]
    Unreachable(#[source] reqwest::Error),
    #[error("the answer broke off")]
    Broken(#[source] reqwest::Error),
    #[error("the answer is larger than {MAX_BODY} bytes")]
    TooLarge,
    #[error("the answer leads to another address than the vault's")]
    Elsewhere,
    #[error("the vault demands a token for something else than itself")]
    Challenge,
    #[error("no token was obtained before the request")]
    NoToken,
    #[error("the client sends what the broker never asks it to")]
    Unexpected,
}

impl Wire {
    pub(super) fn new(settings: &config::AzureStore) -> Result<Self, OpenError> {
        let vault = Url::parse(&settings.vault_url).map_err(|_| OpenError::Url)?;
        let mut builder = Client::builder()
            .https_only(true)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT);
        if let Some(address) = settings.address {
            builder = builder.resolve(vault.host_str().ok_or(OpenError::Url)?, address);
        }
        if let Some(path) = &settings.ca {
            let roots = std::fs::read(path).map_err(|source| OpenError::Ca { path: path.clone(), source })?;
            builder = builder.tls_certs_only(Certificate::from_pem_bundle(&roots).map_err(OpenError::Client)?);
        }
        Ok(Self { vault, client: builder.build().map_err(OpenError::Client)? })
    }

    pub(super) fn host(&self) -> &str {
        self.vault.host_str().unwrap_or_default()
    }

    async fn exchange(&self, request: &Request) -> Result<AsyncRawResponse, Trouble> {
        // A list's next page is where the answer says.
        if request.url().origin() != self.vault.origin() {
            return Err(Trouble::Elsewhere);
        }
        let Body::Bytes(body) = request.body() else {
            return Err(Trouble::Unexpected);
        };
        let method = Method::from_bytes(request.method().as_str().as_bytes()).map_err(|_| Trouble::Unexpected)?;
        let mut sent = self.client.request(method, request.url().clone()).body(body.clone());
        for (name, value) in request.headers().iter() {
            sent = sent.header(name.as_str(), value.as_str());
        }
        let response = sent.send().await.map_err(Trouble::from)?;
        let status = response.status();
        let mut headers = Headers::new();
        for (name, value) in response.headers() {
            if let Ok(value) = value.to_str() {
                headers.insert(name.as_str().to_owned(), value.to_owned());
            }
        }
        // Challenged again, the client would send the token that was just refused.
        if status == StatusCode::UNAUTHORIZED && request.headers().get_optional_str(&AUTHORIZATION).is_some() {
            headers.remove(WWW_AUTHENTICATE);
        }
        let body = Bytes::from_owner(read(response).await?);
        Ok(AsyncRawResponse::from_bytes(status.as_u16().into(), headers, body))
    }
}

#[async_trait]
impl HttpClient for Wire {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        self.exchange(request).await.map_err(|trouble| azure_core::Error::new(ErrorKind::Io, trouble))
    }
}

/// Sized once where the length is known: a buffer that grew would leave a value in the one it left.
async fn read(mut response: Response) -> Result<Zeroizing<Vec<u8>>, Trouble> {
    let announced = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
    let mut body = Zeroizing::new(Vec::with_capacity(announced.min(MAX_BODY)));
    while let Some(chunk) = response.chunk().await.map_err(Trouble::from)? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(Trouble::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Without the address, which names the secret.
impl From<reqwest::Error> for Trouble {
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_connect() { Self::Unreachable(error) } else { Self::Broken(error) }
    }
}
