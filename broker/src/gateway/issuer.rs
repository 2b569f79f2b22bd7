//! Our own issuer's documents. Databases fetch them at every login, so an answer costs a copy of what is ready.

use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, Method, StatusCode};

use super::answer::{self, Answer};
use super::web::Route;
use crate::databases::issuer::Issuer;

/// The paths begin where the issuer's URL ends.
pub fn routes(issuer: &Issuer) -> Vec<Route> {
    let seconds = issuer.cacheable_for().as_secs();
    let caching = HeaderValue::from_str(&format!("public, max-age={seconds}")).ok();
    let (discovery, keys) = (issuer.discovery(), issuer.clone());
    let cached = caching.clone();
    let path = |of: &str| format!("{}{of}", issuer.base_path());
    vec![
        Route::new(Method::GET, path(Issuer::DISCOVERY_PATH), move |_| {
            let answer = document(discovery.clone(), cached.clone());
            async move { answer }
        }),
        Route::new(Method::GET, path(Issuer::JWKS_PATH), move |_| {
            let answer = match keys.jwks() {
                Some(jwks) => document(jwks, caching.clone()),
                None => answer::text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the keys have not been read from their store yet; try again",
                ),
            };
            async move { answer }
        }),
    ]
}

fn document(body: Bytes, caching: Option<HeaderValue>) -> Answer {
    let mut answer = answer::json(body);
    if let Some(caching) = caching {
        answer.headers_mut().insert(CACHE_CONTROL, caching);
    }
    answer
}
