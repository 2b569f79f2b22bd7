//! A plain OIDC issuer with discovery: a Kubernetes cluster's, or one that callers come from.

use std::sync::Arc;

use futures_util::FutureExt as _;
use http::StatusCode;
use keyferry_broker::clock::SharedClock;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::keys::Keys;
use super::service::Service;
use crate::doubles::http::{Answer, Server, json as answer, serve, spoil};
use crate::pki::Ca;
use crate::tls;

#[derive(Debug)]
pub struct OidcIssuer {
    url: String,
    shared: Arc<Shared>,
    _server: Server,
}

#[derive(Debug)]
struct Shared {
    clock: SharedClock,
    keys: Keys,
    discovery: Service,
}

impl OidcIssuer {
    pub async fn start(clock: SharedClock) -> Self {
        Self::start_at(clock, None).await
    }

    /// Over HTTPS at 127.0.0.1, as the broker demands of those whose tokens it accepts.
    pub async fn start_with_tls(clock: SharedClock, ca: &Ca) -> Self {
        Self::start_at(clock, Some(ca)).await
    }

    async fn start_at(clock: SharedClock, ca: Option<&Ca>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if ca.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared { clock, keys: Keys::default(), discovery: Service::default() });
        let (serving, issuer) = (Arc::clone(&shared), url.clone());
        let server = serve(
            listener,
            ca.map(|ca| tls::server(&ca.server("localhost"))),
            Arc::new(move |request| {
                let (shared, issuer) = (Arc::clone(&serving), issuer.clone());
                async move {
                    let fault = shared.discovery.asked();
                    spoil(shared.answer(request.uri().path(), &issuer), fault).await
                }
                .boxed()
            }),
        );
        Self { url, shared, _server: server }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn discovery(&self) -> &Service {
        &self.shared.discovery
    }

    pub fn rotate_keys(&self) {
        self.shared.keys.rotate();
    }

    /// With `more` over the usual claims.
    pub fn token(&self, subject: &str, audience: &str, more: Value) -> String {
        let now = self.shared.clock.now();
        let mut claims = self.shared.discovery.claims(&self.url, audience, now, more);
        claims["sub"] = subject.into();
        self.shared.keys.sign(&claims)
    }
}

impl Shared {
    fn answer(&self, path: &str, issuer: &str) -> Answer {
        match path {
            "/.well-known/openid-configuration" => answer(StatusCode::OK, &configuration(issuer)),
            "/keys" => answer(StatusCode::OK, &self.keys.published()),
            _ => answer(StatusCode::NOT_FOUND, &json!({ "error": "not found" })),
        }
    }
}

fn configuration(issuer: &str) -> Value {
    json!({
        "issuer": issuer, "jwks_uri": format!("{issuer}/keys"), "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256"],
    })
}
