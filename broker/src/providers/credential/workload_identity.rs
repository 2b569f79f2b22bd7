//! What becomes an Entra application by a token that somebody else signed: a Kubernetes service account or a Google one.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use zeroize::Zeroizing;

use super::impersonation::Impersonation;
use super::metadata::{self, MetadataServer};
use super::settings::EntraApplication;
use super::wire::Http;
use super::{Broken, Token, TokenSource, entra, token};
use crate::clock::SharedClock;

const FILE_LINK: &str = "token-file";

pub(super) struct FederatedClient {
    pub(super) http: Http,
    pub(super) application: EntraApplication,
    pub(super) assertion: Assertion,
    pub(super) clock: SharedClock,
}

pub(super) enum Assertion {
    /// Replaced under us before it ends, so it is read each time.
    File(PathBuf),
    Metadata {
        server: MetadataServer,
        audience: String,
    },
    Impersonated {
        source: Arc<dyn TokenSource>,
        impersonation: Impersonation,
        audience: String,
    },
}

impl TokenSource for FederatedClient {
    fn chain(&self) -> Vec<&'static str> {
        let mut chain = match &self.assertion {
            Assertion::File(_) => vec![FILE_LINK],
            Assertion::Metadata { .. } => vec![metadata::ID_TOKEN_LINK],
            Assertion::Impersonated { source, .. } => [source.chain(), vec![metadata::ID_TOKEN_LINK]].concat(),
        };
        chain.push(entra::LINK);
        chain
    }

    fn obtain<'a>(&'a self, scope: &'a str) -> BoxFuture<'a, Result<Token, Broken>> {
        Box::pin(async move {
            let assertion = self.assertion.obtain().await?;
            entra::exchange(&self.http, &self.application, &assertion, scope, self.clock.now()).await
        })
    }
}

impl Assertion {
    async fn obtain(&self) -> Result<Zeroizing<String>, Broken> {
        match self {
            Self::File(path) => read(path).await,
            Self::Metadata { server, audience } => server.id_token(audience).await,
            Self::Impersonated { source, impersonation, audience } => {
                let token = source.obtain(super::GOOGLE_CLOUD_SCOPE).await?;
                impersonation.id_token(&token, audience).await
            }
        }
    }
}

async fn read(path: &PathBuf) -> Result<Zeroizing<String>, Broken> {
    let shown = path.display();
    let bytes = tokio::fs::read(path).await.map(Zeroizing::new).map_err(|error| {
        let message = format!(
            "{shown} cannot be read ({}); label the pod azure.workload.identity/use: \"true\", or correct token_file",
            error.kind()
        );
        Broken::lasting(FILE_LINK, message)
    })?;
    let text = str::from_utf8(&bytes).unwrap_or_default().trim();
    if text.split('.').count() != 3 || token::check_value(FILE_LINK, text).is_err() {
        let message =
            format!("{shown} holds no signed token; correct token_file, or project a service account's token");
        return Err(Broken::lasting(FILE_LINK, message));
    }
    Ok(Zeroizing::new(text.to_owned()))
}
