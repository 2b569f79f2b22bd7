//! The broker's own tokens on the SDK's requests. Each request says which one it goes with, so that a refusal is laid
//! to the token that met it.

use std::future::Future;

use google_cloud_auth::credentials::{CacheableResource, CredentialsProvider, EntityTag};
use google_cloud_auth::errors::CredentialsError;
use http::Extensions;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use crate::providers::credential::Token;

pub(super) const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

tokio::task_local! {
    static TOKEN: Token;
}

/// Sends `request` with this token.
pub(super) async fn with<T>(token: Token, request: impl Future<Output = T>) -> T {
    TOKEN.scope(token, request).await
}

/// For the SDK's client: knows no token but the one that the request goes with.
#[derive(Debug)]
pub(super) struct FromRequest;

impl CredentialsProvider for FromRequest {
    async fn headers(&self, _: Extensions) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        let value = TOKEN.try_with(|token| HeaderValue::try_from(format!("Bearer {}", token.value())));
        let mut value = match value {
            Ok(Ok(value)) => value,
            Ok(Err(_)) => return Err(CredentialsError::from_msg(false, "the token does not fit a header")),
            Err(_) => return Err(CredentialsError::from_msg(false, "a request goes without a token")),
        };
        value.set_sensitive(true);
        let data = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        Ok(CacheableResource::New { entity_tag: EntityTag::new(), data })
    }

    async fn universe_domain(&self) -> Option<String> {
        None
    }
}
