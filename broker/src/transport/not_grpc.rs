//! What is not a gRPC request is turned away before it can do anything. A browser that holds a client certificate may be
//! made to send any page's GET or form POST, but not this content type; and HTTP/1 would lose the answer's trailers.

use http::header::{ALLOW, CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use tonic::body::Body;

/// The plain answer to what is not gRPC over HTTP/2; `None` to what is.
pub(super) fn refuse<B>(request: &Request<B>) -> Option<Response<Body>> {
    if request.version() != Version::HTTP_2 {
        let text = "this port speaks gRPC, which needs HTTP/2; use a gRPC client\n";
        let mut response = plain(StatusCode::HTTP_VERSION_NOT_SUPPORTED, text);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return Some(response);
    }
    if request.method() != Method::POST {
        let mut response =
            plain(StatusCode::METHOD_NOT_ALLOWED, "this port speaks gRPC, whose calls are POST; use a gRPC client\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Some(response);
    }
    if !request.headers().get(CONTENT_TYPE).is_some_and(is_grpc) {
        let text =
            "send content-type application/grpc or application/grpc+proto; other encodings are not spoken here\n";
        return Some(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    None
}

fn is_grpc(content_type: &HeaderValue) -> bool {
    let bytes = content_type.as_bytes();
    let essence = bytes.split(|byte| *byte == b';').next().unwrap_or(bytes).trim_ascii();
    essence.eq_ignore_ascii_case(b"application/grpc") || essence.eq_ignore_ascii_case(b"application/grpc+proto")
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::new(text.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answered(version: Version, method: Method, content_type: Option<&str>) -> Option<StatusCode> {
        let mut request = Request::new(());
        *request.version_mut() = version;
        *request.method_mut() = method;
        if let Some(content_type) = content_type {
            request.headers_mut().insert(CONTENT_TYPE, content_type.parse().unwrap());
        }
        refuse(&request).map(|response| response.status())
    }

    #[test]
    fn only_a_post_over_http_2_with_grpcs_content_type_goes_on() {
        let post = |content_type| answered(Version::HTTP_2, Method::POST, content_type);
        for good in
            ["application/grpc", "application/grpc+proto", "Application/GRPC", "application/grpc; charset=utf-8"]
        {
            assert_eq!(post(Some(good)), None, "{good}");
        }
        for bad in ["", "text/plain", "application/json", "application/grpc-web", "application/grpc+json", "grpc"] {
            assert_eq!(post(Some(bad)), Some(StatusCode::UNSUPPORTED_MEDIA_TYPE), "{bad}");
        }
        assert_eq!(post(None), Some(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        for method in [Method::GET, Method::PUT, Method::OPTIONS, Method::HEAD] {
            let status = answered(Version::HTTP_2, method, Some("application/grpc"));
            assert_eq!(status, Some(StatusCode::METHOD_NOT_ALLOWED));
        }
        for version in [Version::HTTP_10, Version::HTTP_11] {
            let status = answered(version, Method::POST, Some("application/grpc"));
            assert_eq!(status, Some(StatusCode::HTTP_VERSION_NOT_SUPPORTED));
        }
    }
}
