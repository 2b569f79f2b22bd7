//! The one bearer token of a request.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::rejection::Rejection;

/// `None`: no authorization was sent. Anything sent that is not exactly one bearer token is an error, never ignored.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Rejection> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Rejection::Malformed("there is more than one authorization header; send one".into()));
    }
    value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| Some(token))
        .ok_or_else(|| Rejection::Malformed("the authorization header is not \"Bearer\", one space and a token".into()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn takes_exactly_one_bearer_header() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), Ok(None));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("bEARER a.b.c"));
        assert_eq!(bearer(&headers), Ok(Some("a.b.c")));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer a.b.c"));
        assert!(bearer(&headers).is_err());
    }

    #[test]
    fn refuses_another_scheme_rather_than_ignoring_it() {
        for value in ["Basic YTpi", "Bearer", "Bearera.b.c", ""] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
            assert!(bearer(&headers).is_err(), "{value:?}");
        }
    }
}
