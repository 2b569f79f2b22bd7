use std::sync::Arc;

use http::StatusCode;
use reqwest::Client;
use zeroize::Zeroizing;

use super::{TokenError, wire};

/// Google's metadata server, which signs for the service account that this runs as.
pub(super) struct MetadataServer {
    http: Client,
    audience: String,
    base: String,
}

/// Its address, as Google's own libraries find it.
pub(super) fn metadata() -> String {
    let host = std::env::var("GCE_METADATA_HOST").unwrap_or_else(|_| "metadata.google.internal".to_owned());
    format!("http://{host}")
}

impl MetadataServer {
    pub(super) fn new(audience: String, base: String) -> Result<Self, TokenError> {
        let place = format!("Google's metadata server at {base}");
        let http = wire::client().map_err(|problem| TokenError::Source { place, problem })?;
        Ok(Self { http, audience, base })
    }

    pub(super) fn place(&self) -> String {
        format!("Google's metadata server at {}", self.base)
    }

    pub(super) async fn fetch(self: Arc<Self>) -> Result<Zeroizing<String>, TokenError> {
        self.identity().await.map_err(|problem| TokenError::Source { place: self.place(), problem })
    }

    async fn identity(&self) -> Result<Zeroizing<String>, String> {
        let base = self.base.trim_end_matches('/');
        let url = format!("{base}/computeMetadata/v1/instance/service-accounts/default/identity");
        let request = self.http.get(url).query(&[("audience", &*self.audience), ("format", "full")]);
        let answer = wire::send(request.header("metadata-flavor", "Google")).await?;
        match (answer.status, str::from_utf8(&answer.body)) {
            (StatusCode::OK, Ok(token)) => Ok(Zeroizing::new(token.trim().to_owned())),
            (StatusCode::NOT_FOUND, _) => Err("it knows no service account; attach one to this workload".to_owned()),
            (status, _) => Err(format!("it answers {}; see the service account and the audience", status.as_u16())),
        }
    }
}
