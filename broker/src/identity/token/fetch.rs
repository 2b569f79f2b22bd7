//! An issuer's key set: from its file, or over HTTPS from where its discovery document says.
//!
//! Nothing in a token leads here. An address comes from the operator, or from a document that the operator's address
//! served over TLS and that names the issuer back.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Certificate, Client, StatusCode, redirect};

use super::json::{self, Json, JsonError};
use super::settings::{KeySource, is_https};
use crate::digest::Digest;

const MAX_BODY: usize = 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// From the first byte out to the last byte in, so that a slow body ends too.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) enum Source {
    File(PathBuf),
    Discovery(Discovery),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{} cannot be read", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the client for {what} cannot be made")]
    Client {
        what: &'static str,
        #[source]
        source: reqwest::Error,
    },
    #[error("{what} cannot be fetched from {url}")]
    Request {
        what: &'static str,
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{url} answered {status} instead of 200 with {what}; redirects are not followed")]
    Status { what: &'static str, url: String, status: StatusCode },
    #[error("{what} at {url} is larger than 1 MiB")]
    TooLarge { what: &'static str, url: String },
    #[error("the discovery document is unreadable")]
    Document(#[source] JsonError),
    #[error("the discovery document is for another issuer than the configured {0:?}, or for none")]
    AnotherIssuer(String),
    #[error("the discovery document's jwks_uri is not an https URL")]
    KeysUri,
}

impl Source {
    pub(super) fn new(issuer: &str, source: &KeySource) -> Self {
        match source {
            KeySource::Pinned(path) => Self::File(path.clone()),
            KeySource::Discovery { ca } => {
                Self::Discovery(Discovery { issuer: issuer.to_owned(), ca: ca.clone(), client: Mutex::new(None) })
            }
        }
    }

    pub(super) async fn key_set(&self) -> Result<Vec<u8>, FetchError> {
        match self {
            Self::File(path) => read(path).await,
            Self::Discovery(discovery) => discovery.key_set().await,
        }
    }
}

#[derive(Debug)]
pub(super) struct Discovery {
    issuer: String,
    ca: Option<PathBuf>,
    /// With the digest of the roots that it trusts, because those may be replaced in place.
    client: Mutex<Option<(Digest, Client)>>,
}

impl Discovery {
    const DOCUMENT: &'static str = "the discovery document";
    const KEYS: &'static str = "the key set";

    async fn key_set(&self) -> Result<Vec<u8>, FetchError> {
        let client = self.client().await?;
        // The document is read each time: an issuer that moves its keys is followed as fast as one that rotates them.
        let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let document = get(&client, Self::DOCUMENT, &url).await?;
        get(&client, Self::KEYS, &keys_url(&document, &self.issuer)?).await
    }

    async fn client(&self) -> Result<Client, FetchError> {
        let roots = match &self.ca {
            Some(path) => read(path).await?,
            None => Vec::new(),
        };
        let digest = Digest::of(&roots);
        let mut kept = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, client)) = kept.as_ref()
            && *of == digest
        {
            return Ok(client.clone());
        }
        let client = self.build(&roots).map_err(|source| FetchError::Client { what: Self::KEYS, source })?;
        *kept = Some((digest, client.clone()));
        Ok(client)
    }

    fn build(&self, roots: &[u8]) -> Result<Client, reqwest::Error> {
        let mut builder = Client::builder()
            .https_only(true)
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .user_agent("keyferry");
        if self.ca.is_some() {
            builder = builder.tls_certs_only(Certificate::from_pem_bundle(roots)?);
        }
        builder.build()
    }
}

/// Where a discovery document says that the issuer's keys are.
pub(super) fn keys_url(document: &[u8], issuer: &str) -> Result<String, FetchError> {
    let document = json::read_object(document).map_err(FetchError::Document)?;
    if document.get("issuer").and_then(Json::as_str) != Some(issuer) {
        return Err(FetchError::AnotherIssuer(issuer.to_owned()));
    }
    // Another host is usual (Google's keys), a weaker scheme is not.
    let keys = document.get("jwks_uri").and_then(Json::as_str).ok_or(FetchError::KeysUri)?;
    if !is_https(keys.split('?').next().unwrap_or_default()) || keys.contains('#') {
        return Err(FetchError::KeysUri);
    }
    Ok(keys.to_owned())
}

async fn get(client: &Client, what: &'static str, url: &str) -> Result<Vec<u8>, FetchError> {
    // The error would repeat the address.
    let failed =
        |source: reqwest::Error| FetchError::Request { what, url: url.to_owned(), source: source.without_url() };
    let mut response = client.get(url).header("accept", "application/json").send().await.map_err(failed)?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status { what, url: url.to_owned(), status: response.status() });
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(FetchError::TooLarge { what, url: url.to_owned() });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

async fn read(path: &Path) -> Result<Vec<u8>, FetchError> {
    tokio::fs::read(path).await.map_err(|source| FetchError::File { path: path.to_owned(), source })
}
