//! What the admin port answers, whoever asks and however.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;

use super::overview::Overview;
use super::status_page;
use crate::telemetry::{Metrics, PROMETHEUS_CONTENT_TYPE};

/// Nothing comes from elsewhere, nothing goes elsewhere, and nobody frames it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

pub struct Pages {
    metrics: Arc<Metrics>,
    obstacles: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    overview: Box<dyn Fn() -> Overview + Send + Sync>,
}

pub(super) type Answer = Response<Full<Bytes>>;

impl Pages {
    /// `obstacles` names each reason not to be ready in one line, such as `draining`.
    pub fn new(
        metrics: Arc<Metrics>,
        obstacles: impl Fn() -> Vec<String> + Send + Sync + 'static,
        overview: impl Fn() -> Overview + Send + Sync + 'static,
    ) -> Self {
        Self { metrics, obstacles: Box::new(obstacles), overview: Box::new(overview) }
    }

    /// What an orchestrator's probe asks, which tells nothing but that.
    pub(super) fn is_probe(path: &str) -> bool {
        ["/healthz", "/readyz"].contains(&path)
    }

    pub(super) fn answer<B>(&self, request: &Request<B>) -> Answer {
        let page: fn(&Self) -> Answer = match request.uri().path() {
            "/healthz" => |_| text(StatusCode::OK, "ok\n"),
            "/readyz" => Self::readiness,
            "/metrics" => |pages| reply(StatusCode::OK, PROMETHEUS_CONTENT_TYPE, pages.metrics.prometheus()),
            "/" => Self::status,
            "/status.css" => |_| reply(StatusCode::OK, "text/css; charset=utf-8", status_page::STYLE),
            "/status.js" => |_| reply(StatusCode::OK, "text/javascript; charset=utf-8", status_page::SCRIPT),
            _ => {
                return text(StatusCode::NOT_FOUND, "not found; there are /, /healthz, /readyz and /metrics\n");
            }
        };
        // A HEAD answer is a GET answer whose body hyper leaves out.
        if *request.method() == Method::GET || *request.method() == Method::HEAD {
            return page(self);
        }
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        refusal
    }

    fn readiness(&self) -> Answer {
        let obstacles = (self.obstacles)();
        if obstacles.is_empty() {
            return text(StatusCode::OK, "ready\n");
        }
        text(StatusCode::SERVICE_UNAVAILABLE, obstacles.join("\n") + "\n")
    }

    fn status(&self) -> Answer {
        let page = status_page::page(&(self.overview)(), &(self.obstacles)());
        let mut answer = reply(StatusCode::OK, "text/html; charset=utf-8", page);
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        answer
    }
}

/// A page of the web whose name was made to lead here must not read what a browser on this host may.
pub(super) fn names_this_host<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    host.is_some_and(|authority| {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    reply(status, "text/plain; charset=utf-8", body)
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pages")
    }
}
