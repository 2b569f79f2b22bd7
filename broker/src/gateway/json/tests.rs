#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use keyferry_proto::v1::{
    AddSecretVersionRequest, BatchGetSecretsRequest, BatchGetSecretsResponse, ExplainAccessRequest, GetSecretRequest,
    GetSecretResponse, Lease, LeaseState, ListLeasesRequest, ListSecretsRequest, ListSecretsResponse, Secret,
};
use prost::Message;
use prost_types::{Duration, Timestamp};
use serde_json::{Value, json};

use super::schema::Schema;
use crate::error::{Detail, Failure};
use crate::gateway::wiped::Wiped;
use crate::rpc::METHODS;

fn wire(message: &str, json: &str) -> Result<Vec<u8>, Failure> {
    let schema = Schema::new().unwrap();
    let id = schema.message_named(&format!("keyferry.v1.{message}")).unwrap();
    schema.read(id, &mut json.as_bytes().to_vec(), Wiped::with_capacity(0)).map(|wire| wire.as_slice().to_vec())
}

fn read<M: Message + Default>(message: &str, json: &str) -> M {
    M::decode(wire(message, json).unwrap().as_slice()).unwrap()
}

fn written(message: &str, value: &impl Message) -> Value {
    let schema = Schema::new().unwrap();
    let mut out = Wiped::with_capacity(0);
    schema.write(schema.message_named(message).unwrap(), &value.encode_to_vec(), &mut out).unwrap();
    serde_json::from_slice(out.as_slice()).unwrap()
}

/// The field that is named, and what is said of it.
fn refused(message: &str, json: &str) -> (String, String) {
    let failure = wire(message, json).unwrap_err();
    let field = match failure.detail() {
        Detail::BadField { field, .. } => field.to_string(),
        Detail::None | Detail::RetryAfter(_) | Detail::Quota { .. } | Detail::Rotation(_) => String::new(),
    };
    (field, failure.message().to_owned())
}

#[test]
fn knows_every_unary_method_of_the_contract() {
    let schema = Schema::new().unwrap();
    for method in METHODS.iter().filter(|method| method.path.starts_with("/keyferry.")) {
        assert!(schema.method(method.path).is_some(), "{}", method.path);
    }
}

#[test]
fn get_is_for_methods_that_change_nothing_and_take_no_secret() {
    let schema = Schema::new().unwrap();
    let by_get = |path: &str| schema.method(&format!("/keyferry.v1.{path}")).unwrap().only_reads;
    for path in ["SecretService/GetSecret", "SecretService/ListSecrets", "OperatorService/WhoAmI"] {
        assert!(by_get(path), "{path}");
    }
    for path in ["SecretService/AddSecretVersion", "TokenService/MintDatabaseToken", "RotationService/RotateSecret"] {
        assert!(!by_get(path), "{path}");
    }
    // It reads, but what it may be sent is a token, and addresses are written into logs.
    assert!(!by_get("OperatorService/ExplainAccess"));
}

#[test]
fn reads_each_kind_of_field_by_either_of_its_names() {
    let json = r#"{"name": "stores/a/secrets/b", "maxAge": "1.5s", "min_revision": "9007199254740993"}"#;
    let request: GetSecretRequest = read("GetSecretRequest", json);
    assert_eq!(request.name, "stores/a/secrets/b");
    assert_eq!(request.max_age, Some(Duration { seconds: 1, nanos: 500_000_000 }));
    assert_eq!(request.min_revision, 9_007_199_254_740_993);

    let json = r#"{"parent": "p", "payload": "3q2-7w", "payloadCrc32c": 1e3, "allowMissing": true,
                   "labels": {"team": "cart", "": "\u00e9\ud83d\ude00"}, "requestId": null}"#;
    let request: AddSecretVersionRequest = read("AddSecretVersionRequest", json);
    assert_eq!(&request.payload[..], [0xde, 0xad, 0xbe, 0xef]);
    assert_eq!((request.payload_crc32c, request.allow_missing), (Some(1000), true));
    let labels: BTreeMap<_, _> = request.labels.into_iter().collect();
    assert_eq!(labels, BTreeMap::from([("team".into(), "cart".into()), (String::new(), "é😀".into())]));

    let json = r#"{"filter": {"states": ["LEASE_STATE_ACTIVE", 1]}, "pageSize": 7.0}"#;
    let request: ListLeasesRequest = read("ListLeasesRequest", json);
    assert_eq!(request.filter.unwrap().states, [LeaseState::Active as i32, 1]);
    assert_eq!(request.page_size, 7);
    assert!(wire("GetSecretRequest", " {}\n").unwrap().is_empty());
}

#[test]
fn base64_comes_in_either_alphabet_with_padding_or_without() {
    for text in ["+/+/", "-_-_", "+/-", "_w==", "_w", "/w=="] {
        let request = wire("AddSecretVersionRequest", &format!(r#"{{"payload": "{text}"}}"#));
        assert_eq!(request.is_ok(), text != "+/-", "{text}");
    }
    // As some encoders escape it.
    let request: AddSecretVersionRequest = read("AddSecretVersionRequest", r#"{"payload": "\u002B\/+\/"}"#);
    assert_eq!(&request.payload[..], [0xfb, 0xff, 0xbf]);
}

#[test]
fn a_struct_holds_any_json() {
    let claims = json!({"s": "x", "n": 1.5, "b": true, "z": null, "l": [1, ["two"], {}], "o": {"deep": [false]}});
    let json = json!({"describedCaller": {"id": "oidc/a/b", "claims": claims}}).to_string();
    let request: ExplainAccessRequest = read("ExplainAccessRequest", &json);
    let told = written("keyferry.v1.ExplainAccessRequest", &request);
    assert_eq!(told["describedCaller"]["claims"], claims);
}

#[test]
fn writes_each_kind_of_field() {
    let response = GetSecretResponse {
        name: "stores/a/secrets/b/versions/1".into(),
        payload: b"\0\xff\x80"[..].into(),
        payload_crc32c: 4_294_967_295,
        source: 2,
        load_time: Some(Timestamp { seconds: 1, nanos: 500_000_000 }),
        ..GetSecretResponse::default()
    };
    let told = written("keyferry.v1.GetSecretResponse", &response);
    let expected = json!({
        "name": "stores/a/secrets/b/versions/1", "payload": "AP+A", "payloadCrc32c": "4294967295",
        "source": "READ_SOURCE_PROVIDER", "loadTime": "1970-01-01T00:00:01.500Z",
    });
    assert_eq!(told, expected);

    let secret = |labels: &[(&str, &str)]| Secret {
        name: "\"\\\n\u{2028}".into(),
        labels: labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
        ..Secret::default()
    };
    let list = ListSecretsResponse {
        secrets: vec![secret(&[("a", "1"), ("b", "")]), secret(&[])],
        next_page_token: "more".into(),
    };
    let name = "\"\\\n\u{2028}";
    let expected = json!({
        "secrets": [{"name": name, "labels": {"a": "1", "b": ""}}, {"name": name}], "nextPageToken": "more",
    });
    assert_eq!(written("keyferry.v1.ListSecretsResponse", &list), expected);
    let lease = Lease { state: 77, ..Lease::default() };
    assert_eq!(written("keyferry.v1.Lease", &lease), json!({"state": 77}));
    let states = ListLeasesRequest {
        filter: Some(keyferry_proto::v1::LeaseFilter { states: vec![1, 2], ..Default::default() }),
        ..ListLeasesRequest::default()
    };
    let told = written("keyferry.v1.ListLeasesRequest", &states);
    assert_eq!(told["filter"]["states"], json!(["LEASE_STATE_PENDING", "LEASE_STATE_ACTIVE"]));
    assert_eq!(written("keyferry.v1.BatchGetSecretsResponse", &BatchGetSecretsResponse::default()), json!({}));
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    let get = |json: &str| refused("GetSecretRequest", json);
    for (json, field, says) in [
        (r#"{"nmae": "x"}"#, "[\"nmae\"]", "did you mean name?"),
        (r#"{"name": 5}"#, "name", "is a number; write a string"),
        (r#"{"name": {}}"#, "name", "is an object; write a string"),
        (r#"{"name": ["x"]}"#, "name", "is a list; write a string"),
        (r#"{"name": "a", "name": "b"}"#, "name", "is given twice"),
        (r#"{"maxAge": "1s", "max_age": "1s"}"#, "maxAge", "is given twice"),
        (r#"{"maxAge": "5 minutes"}"#, "maxAge", "such as \"300s\""),
        (r#"{"maxAge": "1.1234567890s"}"#, "maxAge", "such as \"300s\""),
        (r#"{"minRevision": 1.5}"#, "minRevision", "whole number"),
        (r#"{"minRevision": "9223372036854775808"}"#, "minRevision", "whole number"),
        (r#"{"minRevision": "+1"}"#, "minRevision", "whole number"),
        (r#"{"minRevision": true}"#, "minRevision", "write a whole number"),
        ("[]", "", "is a list; write an object"),
        ("null", "", "null"),
        ("\"x\"", "", "is a string; write an object"),
    ] {
        let (named, said) = get(json);
        assert_eq!(named, field, "{json}: {said}");
        assert!(said.contains(says), "{json}: {said}");
    }
    let (named, said) = refused("BatchGetSecretsRequest", r#"{"requests": [{}, {"name": "a", "age": 1}]}"#);
    assert_eq!((named.as_str(), said.contains("keyferry.v1.GetSecretRequest")), ("requests[1][\"age\"]", true));
    assert_eq!(refused("BatchGetSecretsRequest", r#"{"requests": [null]}"#).0, "requests[0]");
    assert_eq!(refused("AddSecretVersionRequest", r#"{"labels": {"a": 1}}"#).0, "labels[\"a\"]");
    assert_eq!(refused("AddSecretVersionRequest", r#"{"labels": {"a": "1", "a": "2"}}"#).0, "labels[\"a\"]");
    assert_eq!(refused("ListLeasesRequest", r#"{"pageSize": 2147483648}"#).0, "pageSize");
    assert_eq!(refused("ListLeasesRequest", r#"{"filter": {"states": ["ACTIVE"]}}"#).0, "filter.states[0]");
    let both = r#"{"describedCaller": {}, "examinedToken": {}}"#;
    assert!(refused("ExplainAccessRequest", both).1.contains("excludes another field"));
    assert!(wire("ExplainAccessRequest", r#"{"describedCaller": null, "examinedToken": {}}"#).is_ok());
}

#[test]
fn what_is_no_json_is_refused_with_its_line() {
    for json in ["", "{", "{\"name\": \"x\"", "{\"name\": \"x"] {
        assert!(refused("GetSecretRequest", json).1.contains("ends before"), "{json}");
    }
    for json in
        ["{\n\"name\": x}", "{\n}}", "{\n} {}", "{\n'name': 1}", "{\n\"name\": \"\\ud800\"}", "{\n\"minRevision\": 01}"]
    {
        assert!(refused("GetSecretRequest", json).1.contains("is not JSON at line 2"), "{json}");
    }
    let schema = Schema::new().unwrap();
    let id = schema.message_named("keyferry.v1.GetSecretRequest").unwrap();
    assert!(schema.read(id, &mut b"{\"name\": \"\xff\"}".to_vec(), Wiped::with_capacity(0)).is_err());
}

#[test]
fn nesting_ends_at_its_bound() {
    let claims = |levels: usize| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        wire("ExplainAccessRequest", &format!(r#"{{"describedCaller": {{"claims": {{"a": {open}{close}}}}}}}"#))
    };
    assert!(claims(29).is_ok());
    let refused = claims(30).unwrap_err();
    assert!(refused.message().contains("deeper than 32"), "{refused}");
    assert!(claims(100_000).unwrap_err().message().contains("deeper than 32"));
}

#[test]
fn no_refusal_repeats_a_value() {
    const SECRET: &str = "hunter2-canary";
    for json in [
        r#"{"payload": "hunter2-canary!"}"#.to_owned(),
        r#"{"payload": "hunter2-canary"#.to_owned(),
        r#"{"payload": "\u00zz hunter2-canary"}"#.to_owned(),
        r#"{"payload": {"hunter2-canary secret": 1}}"#.to_owned(),
        r#"{"hunter2-canary with words": 1}"#.to_owned(),
        r#"{"labels": {"hunter2-canary with words": 1}}"#.to_owned(),
        r#"{"allowMissing": "hunter2-canary"}"#.to_owned(),
        r#"{"payloadCrc32c": "hunter2-canary"}"#.to_owned(),
        r#""hunter2-canary""#.to_owned(),
        format!("{{\"{}\": 1}}", SECRET.repeat(10)),
    ] {
        let said = refused("AddSecretVersionRequest", &json);
        assert!(!format!("{said:?}").contains("hunter2"), "{json}: {said:?}");
    }
}

#[test]
fn what_is_written_is_read_as_it_was() {
    let mut requests = Vec::new();
    for length in [0, 1, 127, 128, 16_383, 16_384] {
        let name = "n".repeat(length);
        requests.push(GetSecretRequest { name, min_revision: -1, ..GetSecretRequest::default() });
    }
    let batch = BatchGetSecretsRequest { requests };
    let told = written("keyferry.v1.BatchGetSecretsRequest", &batch).to_string();
    assert_eq!(read::<BatchGetSecretsRequest>("BatchGetSecretsRequest", &told), batch);
    let list = ListSecretsRequest { page_size: -5, parent: "\0\u{7f}".into(), ..ListSecretsRequest::default() };
    let told = written("keyferry.v1.ListSecretsRequest", &list).to_string();
    assert_eq!(read::<ListSecretsRequest>("ListSecretsRequest", &told), list);
}
