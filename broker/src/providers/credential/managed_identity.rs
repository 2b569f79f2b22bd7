//! Azure's managed identity: tokens of the identity that the machine, app or container runs as.

use futures_util::future::BoxFuture;
use http::StatusCode;
use zeroize::Zeroizing;

use super::api_error::OAuthError;
use super::claims::Claims;
use super::wire::{self, Answer, Http};
use super::{Broken, Token, TokenSource, token};
use crate::clock::SharedClock;

pub(super) const LINK: &str = "managed-identity";

pub(super) struct ManagedIdentity {
    pub(super) http: Http,
    pub(super) host: Host,
    /// Of a user-assigned identity.
    pub(super) client_id: Option<String>,
    pub(super) clock: SharedClock,
}

pub(super) enum Host {
    VirtualMachine { url: String },
    AppService { url: String, header: Zeroizing<String> },
}

impl Host {
    /// As App Service, Functions and Container Apps tell their processes.
    pub(super) fn app_service() -> Result<Self, Broken> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        match (variable("IDENTITY_ENDPOINT"), variable("IDENTITY_HEADER")) {
            (Some(url), Some(header)) => Ok(Self::AppService { url, header: Zeroizing::new(header) }),
            _ => {
                let message = "the variables IDENTITY_ENDPOINT and IDENTITY_HEADER are not set; assign an identity to \
                               the app, or set host = \"virtual-machine\"";
                Err(Broken::lasting(LINK, message))
            }
        }
    }
}

impl TokenSource for ManagedIdentity {
    fn chain(&self) -> Vec<&'static str> {
        vec![LINK]
    }

    fn obtain<'a>(&'a self, scope: &'a str) -> BoxFuture<'a, Result<Token, Broken>> {
        Box::pin(async move {
            let resource = scope.strip_suffix("/.default").unwrap_or(scope);
            let answer = self.ask(resource).await?;
            answer.check_passing(LINK)?;
            if answer.status != StatusCode::OK {
                return Err(Broken::lasting(LINK, self.explain(&answer, resource)));
            }
            let mut token = token::read_answer(LINK, &answer.body, self.clock.now())?;
            token.subject = Claims::of(token.value()).known_subject();
            Ok(token)
        })
    }
}

impl ManagedIdentity {
    async fn ask(&self, resource: &str) -> Result<Answer, Broken> {
        let (url, version) = match &self.host {
            Host::VirtualMachine { url } => {
                (format!("{}/metadata/identity/oauth2/token", url.trim_end_matches('/')), "2018-02-01")
            }
            Host::AppService { url, .. } => (url.clone(), "2019-08-01"),
        };
        let mut query = vec![("api-version", version), ("resource", resource)];
        query.extend(self.client_id.as_deref().map(|id| ("client_id", id)));
        let request = self.http.get(LINK, &url, &query)?;
        let request = match &self.host {
            Host::VirtualMachine { .. } => request.header("metadata", "true"),
            Host::AppService { header, .. } => request.header("x-identity-header", header.as_str()),
        };
        wire::send(LINK, request).await
    }

    fn explain(&self, answer: &Answer, resource: &str) -> String {
        let error = OAuthError::read(&answer.body);
        let resource_unknown = error.aadsts.is_some_and(|code| [500_011, 65_001, 50_001].contains(&code))
            || error.code() == "invalid_resource";
        match (&self.client_id, answer.status.as_u16()) {
            _ if resource_unknown => format!(
                "Azure knows no resource {resource}; register it as an Entra application with this App ID URI, \
                 or correct the resource"
            ),
            (_, 401 | 403) => "the identity endpoint refuses the broker's request; check that it is this host's own, \
                               and that no proxy stands before it"
                .to_owned(),
            (Some(id), 400 | 404) => format!(
                "no user-assigned identity with client id {id} is attached to this host; attach it, or correct \
                 client_id (it is the client id, not the object id)"
            ),
            (None, 400 | 404) => "this host has no system-assigned identity, or several user-assigned ones; assign \
                                  one, or name one with client_id"
                .to_owned(),
            (_, status) => format!("the identity endpoint answers {status}; check that its address is right"),
        }
    }
}
