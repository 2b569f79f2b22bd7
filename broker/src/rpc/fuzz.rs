//! Parts of requests that are text with a meaning of their own.

use keyferry_fuzz::{Fuzz, Verdict, protobuf};
use keyferry_proto::v1::{CallerCertificate, DescribedCaller};
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use super::caller_message::{described_certificate, json_of_struct, profile_message};
use super::page_token::{Binding, PageTokens};
use crate::admission::Description;

#[test]
fn only_what_was_sealed_for_a_list_opens_as_its_page_token() {
    let tokens = PageTokens::new().unwrap();
    let (mine, yours) = (Binding::of(&["me", "stores/a"]), Binding::of(&["you", "stores/a"]));
    let sealed = ["a", "last-name", &"x".repeat(3000)].map(|place| tokens.seal(place, mine).unwrap());
    let foreign = tokens.seal("a", yours).unwrap();
    let seeds = sealed.iter().chain([&foreign]).map(|token| token.clone().into_bytes());
    Fuzz::new("page-token").seeds(seeds).inputs(4000).longest(8192).holds(|input| {
        let Ok(text) = str::from_utf8(input) else { return Verdict::Refused };
        let opened = tokens.open(text, mine);
        if let Ok(Some(_)) = &opened {
            assert!(sealed.iter().any(|token| token == text));
        }
        opened.is_ok().into()
    });
}

#[test]
fn a_caller_that_is_described_is_told_back_as_it_was_understood() {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let number = Value { kind: Some(Kind::NumberValue(1e300)) };
    let list = Value { kind: Some(Kind::ListValue(ListValue { values: vec![text("a"), number] })) };
    let inner = Struct { fields: [("namespace".to_owned(), text("shop"))].into() };
    let claims = [
        ("groups".to_owned(), list),
        ("kubernetes.io".to_owned(), Value { kind: Some(Kind::StructValue(inner)) }),
        ("sub".to_owned(), text("cart")),
    ];
    let by_token = DescribedCaller {
        id: "oidc/corp/cart".to_owned(),
        claims: Some(Struct { fields: claims.into() }),
        ..DescribedCaller::default()
    };
    let certificate = CallerCertificate {
        subject: "O=Shop, CN=cart".to_owned(),
        spiffe_id: "spiffe://prod.example/ns/shop/sa/cart".to_owned(),
        dns_names: vec!["Cart.example".to_owned()],
        ..CallerCertificate::default()
    };
    let by_certificate = DescribedCaller {
        id: "x509/spiffe://prod.example/ns/shop/sa/cart".to_owned(),
        certificate: Some(certificate),
        ..DescribedCaller::default()
    };
    let seeds = [by_token, by_certificate].map(|caller| caller.encode_to_vec());
    Fuzz::new("described-caller").seeds(seeds).mutated_by(&protobuf).allocating(1 << 17, 1024).holds(|input| {
        let Ok(described) = DescribedCaller::decode(input) else { return Verdict::Refused };
        let Ok(certificate) = described.certificate.as_ref().map(described_certificate).transpose() else {
            return Verdict::Refused;
        };
        let claims = described.claims.as_ref().map_or_else(|| serde_json::json!({}), json_of_struct);
        let Ok(description) = Description::new(&described.id, claims.to_string().as_bytes(), certificate) else {
            return Verdict::Refused;
        };
        let told = profile_message(&description.profile());
        assert_eq!(told.id, described.id);
        Verdict::Accepted
    });
}
