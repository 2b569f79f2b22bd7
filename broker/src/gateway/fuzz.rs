//! What is read of a request before any handler sees it.

use futures_util::FutureExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use http_body_util::BodyExt as _;
use keyferry_fuzz::{Fuzz, Verdict};

use super::connect::{self, Asked, timeout};
use super::json::Schema;
use super::speech::{Codec, Speech};
use super::{frame, grpc_web};
use crate::rpc;
use crate::telemetry::TraceContext;
use crate::transport::grpc_timeout;

const MOST: usize = 1024;

#[test]
fn a_call_by_get_becomes_one_frame_of_the_size_that_is_allowed() {
    const WORDS: [&str; 9] = [
        "connect=v1",
        "&encoding=json",
        "&encoding=proto",
        "&base64=1",
        "&message=",
        "%7B%7D",
        "%",
        "+",
        "&compression=gzip",
    ];
    const PATH: &str = "/keyferry.v1.SecretService/GetSecret";
    let schema = Schema::new().unwrap();
    let (_, method) = rpc::find(PATH).unwrap();
    Fuzz::new("query").words(&WORDS).holds(|input| {
        let Some(uri) = str::from_utf8(input).ok().and_then(|query| format!("{PATH}?{query}").parse::<Uri>().ok())
        else {
            return Verdict::Refused;
        };
        let request = Request::get(uri).body(tonic::body::Body::empty()).unwrap();
        let Ok(Speech::Connect { codec, get: true }) = Speech::of(&request, &schema) else { return Verdict::Refused };
        let asked = Asked { codec, get: true, most: MOST };
        match connect::request(&schema, asked, method, request).now_or_never().unwrap() {
            Ok(request) => is_one_frame(&body_of(request), if codec == Codec::Proto { MOST } else { 4 * MOST }),
            Err(failure) => {
                assert!(!failure.message().contains(char::is_control));
                return Verdict::Refused;
            }
        }
        Verdict::Accepted
    });
}

fn is_one_frame(bytes: &[u8], most: usize) {
    let (head, message) = bytes.split_at(frame::HEAD);
    assert_eq!(head[0], 0);
    assert_eq!(usize::try_from(u32::from_be_bytes(head[1..].try_into().unwrap())).unwrap(), message.len());
    assert!(message.len() <= most);
}

fn body_of(request: Request<tonic::body::Body>) -> bytes::Bytes {
    request.into_body().collect().now_or_never().unwrap().unwrap().to_bytes()
}

#[test]
fn the_text_form_of_grpc_web_is_never_longer_as_bytes() {
    Fuzz::new("grpc-web-text").words(&["=", "==", "AAAAAAA=", "AA==", "-_", "\r\n"]).holds(|input| {
        let body = frame::body(bytes::Bytes::copy_from_slice(input));
        let decoded = grpc_web::decoded(Request::new(body), MOST).now_or_never().unwrap();
        decoded.map(|request| assert!(body_of(request).len() <= input.len() * 3 / 4)).is_ok().into()
    });
}

#[test]
fn headers_are_read_whole_or_not_at_all() {
    const WORDS: [&str; 12] = [
        "grpc-timeout: ",
        "connect-timeout-ms: ",
        "traceparent: ",
        "content-type: ",
        "application/json",
        ";charset=utf-8",
        "00-",
        "-01",
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "00f067aa0ba902b7",
        "99999999H",
        "9999999999",
    ];
    let schema = Schema::new().unwrap();
    Fuzz::new("headers").words(&WORDS).holds(|input| {
        let Some(headers) = headers(input) else { return Verdict::Refused };
        let span = grpc_timeout(&headers).ok().flatten().or_else(|| timeout(&headers).ok().flatten());
        assert!(span.is_none_or(|span| span.as_secs() <= 99_999_999 * 3600));
        let trace = headers.get("traceparent").and_then(|header| TraceContext::parse(header.as_bytes()));
        if let Some(trace) = &trace {
            let passed_on = trace.to_header();
            let again = TraceContext::parse(passed_on.as_bytes()).unwrap();
            assert_eq!(again.to_header().as_bytes()[..35], passed_on.as_bytes()[..35]);
        }
        let mut request = Request::post("/keyferry.v1.SecretService/GetSecret").body(()).unwrap();
        *request.headers_mut() = headers;
        let speech = Speech::of(&request, &schema);
        (span.is_some() || trace.is_some() || (request.headers().contains_key(CONTENT_TYPE) && speech.is_ok())).into()
    });
}

fn headers(input: &[u8]) -> Option<HeaderMap> {
    let lines = input.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let name = HeaderName::from_bytes(&line[..colon]).ok()?;
            Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
        })
        .collect()
}
