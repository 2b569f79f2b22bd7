//! The broker's own token, as Microsoft's client asks for it.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::error::ErrorKind;
use azure_core::time::OffsetDateTime;

use super::wire::Trouble;
use crate::providers::credential::Token;

/// Hands the client the token of the moment. The broker's credential alone keeps tokens and knows when they end.
pub(super) struct Bearer {
    scope: String,
    token: Mutex<Option<Token>>,
}

impl Bearer {
    /// For a vault's host. Each of Azure's clouds names its vaults' scope after the domain that they share.
    pub(super) fn new(host: &str) -> Self {
        let domain = host.split_once('.').map_or(host, |(_, domain)| domain);
        Self { scope: format!("https://{domain}/.default"), token: Mutex::new(None) }
    }

    pub(super) fn scope(&self) -> &str {
        &self.scope
    }

    /// For the requests that follow.
    pub(super) fn carry(&self, token: Token) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
    }

    /// Whom the cloud takes the broker for.
    pub(super) fn subject(&self) -> Option<Arc<str>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.subject.clone()
    }
}

#[async_trait]
impl TokenCredential for Bearer {
    /// The scopes are those that the vault's challenge named, and it gets a token for none but its own.
    async fn get_token(
        &self,
        scopes: &[&str],
        _options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        if scopes != [self.scope.as_str()] {
            return Err(azure_core::Error::new(ErrorKind::Credential, Trouble::Challenge));
        }
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        let token = token.as_ref().ok_or_else(|| azure_core::Error::new(ErrorKind::Credential, Trouble::NoToken))?;
        // Told as ended, it is asked for again with each request.
        Ok(AccessToken::new(token.value().to_owned(), OffsetDateTime::UNIX_EPOCH))
    }
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bearer").field("scope", &self.scope).finish_non_exhaustive()
    }
}
