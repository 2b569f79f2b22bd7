//! Browsers. A page of another site must neither call in the name of a certificate that the browser holds, nor read what
//! is answered, unless its origin is listed; with an empty list no page may.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tonic::body::Body;

use super::speech::{Refusal, plain};
use crate::browser;

/// A page sends its token itself; a certificate or a cookie of the browser is never asked for.
const HEADERS: &str = "authorization, content-type, connect-protocol-version, connect-timeout-ms, grpc-timeout, \
                       x-grpc-web, x-user-agent, traceparent, tracestate";
const EXPOSED: &str = "grpc-status, grpc-message, grpc-status-details-bin, retry-after";
/// Browsers keep a permission no longer than this.
const KEPT_SECONDS: &str = "7200";

#[derive(Debug)]
pub(super) struct Origins(Vec<String>);

impl Origins {
    pub(super) fn new(allowed: Vec<String>) -> Self {
        Self(allowed)
    }

    /// The origin, if a browser asks; or the answer to a page that may not, and to the question whether it may.
    pub(super) fn admit<B>(&self, request: &Request<B>) -> Result<Option<HeaderValue>, Refusal> {
        let headers = request.headers();
        let origin = headers.get(ORIGIN);
        // Old browsers fetch an image or a script for a page without a word of it, and so by GET.
        let is_for_page =
            if request.method() == Method::GET { browser::is_one(headers) } else { browser::tells_its_page(headers) };
        if !is_for_page {
            return Ok(None);
        }
        let Some(origin) = origin.filter(|origin| self.0.iter().any(|allowed| *origin == allowed.as_str())) else {
            let text = "pages may call from the origins in [listen] web_origins only; an operator can add this one\n";
            return Err(plain(StatusCode::FORBIDDEN, text));
        };
        if request.method() != Method::OPTIONS {
            return Ok(Some(origin.clone()));
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let answer = response.headers_mut();
        self.allow(Some(origin.clone()), answer);
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
        answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(KEPT_SECONDS));
        Err(Box::new(response))
    }

    pub(super) fn allow(&self, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
        let Some(origin) = origin else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        headers.insert(VARY, HeaderValue::from_static("origin"));
    }
}
