//! How a browser is told from other clients: by what a page cannot keep it from saying.

use http::HeaderMap;
use http::header::{ORIGIN, USER_AGENT};

/// What current browsers add to each request, be it one that carries its page's origin or not.
const FETCH_SITE: &str = "sec-fetch-site";

/// Says where the page is from, or that there is one.
pub(crate) fn tells_its_page(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN) || headers.contains_key(FETCH_SITE)
}

/// All of them call themselves so, old ones too, which say nothing else where a page fetches an image or a script.
pub(crate) fn is_one(headers: &HeaderMap) -> bool {
    let name = headers.get(USER_AGENT).map(http::HeaderValue::as_bytes);
    tells_its_page(headers) || name.is_some_and(|name| name.starts_with(b"Mozilla/"))
}
