//! Google's metadata server: tokens of the service account that the machine, pod or service runs as.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::StatusCode;
use zeroize::Zeroizing;

use super::wire::{self, Answer, Http};
use super::{Broken, Token, TokenSource, token};
use crate::clock::SharedClock;

pub(super) const LINK: &str = "metadata";
pub(super) const ID_TOKEN_LINK: &str = "id-token";
const ACCOUNT: &str = "/computeMetadata/v1/instance/service-accounts/default/";

pub(super) struct MetadataServer {
    pub(super) http: Http,
    pub(super) url: String,
    pub(super) clock: SharedClock,
}

impl TokenSource for MetadataServer {
    fn chain(&self) -> Vec<&'static str> {
        vec![LINK]
    }

    fn obtain<'a>(&'a self, scope: &'a str) -> BoxFuture<'a, Result<Token, Broken>> {
        Box::pin(async move {
            let answer = self.get(LINK, "token", &[("scopes", scope)]).await?;
            let mut token = token::read_answer(LINK, &answer.body, self.clock.now())?;
            token.subject = self.email().await;
            Ok(token)
        })
    }
}

impl MetadataServer {
    /// Google's signed word on who the broker is, for `audience` to believe.
    pub(super) async fn id_token(&self, audience: &str) -> Result<Zeroizing<String>, Broken> {
        let answer = self.get(ID_TOKEN_LINK, "identity", &[("audience", audience), ("format", "full")]).await?;
        let value = str::from_utf8(&answer.body).map_err(|_| token::unreadable(ID_TOKEN_LINK, "an ID token"))?;
        let value = value.trim_end();
        token::check_value(ID_TOKEN_LINK, value)?;
        Ok(Zeroizing::new(value.to_owned()))
    }

    /// Nice to know; a token without it works as well.
    async fn email(&self) -> Option<Arc<str>> {
        let answer = self.get(LINK, "email", &[]).await.ok()?;
        let email = str::from_utf8(&answer.body).ok()?.trim_end();
        let is_email = email.len() <= 256 && email.contains('@') && email.bytes().all(|b| b.is_ascii_graphic());
        is_email.then(|| email.into())
    }

    async fn get(&self, link: &'static str, what: &str, query: &[(&str, &str)]) -> Result<Answer, Broken> {
        let url = format!("{}{ACCOUNT}{what}", self.url.trim_end_matches('/'));
        let request = self.http.get(link, &url, query)?.header("metadata-flavor", "Google");
        let answer = wire::send(link, request).await?;
        if !answer.flavor {
            // Proxies and captive portals answer everything.
            let message = format!(
                "what answers at {} is not Google's metadata server (no Metadata-Flavor: Google); \
                 outside Google Cloud use another kind of credential",
                self.url
            );
            return Err(Broken { passing: answer.status.is_server_error(), ..Broken::lasting(link, message) });
        }
        answer.check_passing(link)?;
        let message = match answer.status {
            StatusCode::OK => return Ok(answer),
            StatusCode::NOT_FOUND => {
                "the metadata server knows no default service account; attach one to the machine or service, \
                 in GKE enable Workload Identity Federation on the node pool"
                    .to_owned()
            }
            StatusCode::FORBIDDEN => "the metadata server refuses the default service account; in GKE annotate the \
                                      Kubernetes service account with it and grant it roles/iam.workloadIdentityUser"
                .to_owned(),
            StatusCode::BAD_REQUEST => "the metadata server refuses the scope or audience asked for; correct it where \
                                        it is configured"
                .to_owned(),
            status => format!("the metadata server answers {}; attach a service account", status.as_u16()),
        };
        Err(Broken::lasting(link, message))
    }
}
