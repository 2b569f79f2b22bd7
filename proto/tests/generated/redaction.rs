//! What the contract marks `debug_redact` is in no `Debug` output, whichever message it is inside.

use std::fmt::Debug;

use keyferry_proto::envoy::config::core::v3::DataSource;
use keyferry_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use keyferry_proto::{Any, FILE_DESCRIPTOR_SET, v1};
use protox::prost_reflect::prost::Message;
use protox::prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

use super::is_redacted;

const CANARY: &str = "canary-7f3e9b";
const NUMBER_CANARY: i64 = 3_141_592_653;

#[test]
fn debug_output_of_every_message_redacts_what_is_marked() {
    let mut seen = 0;
    for message in contract().all_messages().filter(is_ours) {
        for sample in samples(&message, &mut Vec::new()) {
            let text = debug_text(message.name(), &sample.encode_to_vec());
            assert!(text.contains("[redacted]"), "{} leaves out where a secret was: {text}", message.name());
            for canary in [CANARY.to_owned(), format!("{:?}", CANARY.as_bytes()), NUMBER_CANARY.to_string()] {
                assert!(!text.contains(&canary), "{} shows a field marked debug_redact", message.name());
            }
            seen += 1;
        }
    }
    assert!(seen > 0, "the descriptor set has lost its debug_redact options");
}

#[test]
fn fields_that_sound_like_secrets_are_marked() {
    for message in contract().all_messages().filter(is_ours) {
        for field in message.fields() {
            let name = field.name();
            let page_token = name.ends_with("page_token");
            let secret = match field.kind() {
                Kind::Bytes => true,
                Kind::String => {
                    (name.contains("password") || name.contains("private") || name.ends_with("token")) && !page_token
                }
                _ => false,
            };
            assert!(!secret || is_redacted(&field), "{} must be marked debug_redact", field.full_name());
        }
    }
}

#[test]
fn an_any_shows_its_type_and_not_its_value() {
    let any = Any { type_url: "a/b".to_owned(), value: CANARY.into() };
    let text = format!("{any:?} {any:#?}");
    assert!(text.contains("a/b") && !text.contains(CANARY) && !text.contains(&format!("{:?}", CANARY.as_bytes())));
}

fn contract() -> DescriptorPool {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the checked-in descriptor set decodes")
}

fn is_ours(message: &MessageDescriptor) -> bool {
    message.package_name() == "keyferry.v1" || message.package_name().starts_with("envoy.")
}

/// One message for each way in which a marked field can be inside, so that members of a oneof do not displace another.
fn samples(message: &MessageDescriptor, path: &mut Vec<String>) -> Vec<DynamicMessage> {
    if path.iter().any(|outer| outer == message.full_name()) {
        return Vec::new();
    }
    path.push(message.full_name().to_owned());
    let mut samples = Vec::new();
    for field in message.fields() {
        for value in values(&field, path) {
            let mut sample = DynamicMessage::new(message.clone());
            let value = if field.is_list() { Value::List(vec![value]) } else { value };
            sample.set_field(&field, value);
            samples.push(sample);
        }
    }
    path.pop();
    samples
}

fn values(field: &FieldDescriptor, path: &mut Vec<String>) -> Vec<Value> {
    match field.kind() {
        Kind::Message(inner) if !field.is_map() => samples(&inner, path).into_iter().map(Value::Message).collect(),
        _ if !is_redacted(field) => Vec::new(),
        Kind::String => vec![Value::String(CANARY.to_owned())],
        Kind::Bytes => vec![Value::Bytes(CANARY.as_bytes().into())],
        Kind::Int64 => vec![Value::I64(NUMBER_CANARY)],
        other => panic!("{} is marked debug_redact: give {other:?} a canary here", field.full_name()),
    }
}

fn debug_text(message: &str, encoded: &[u8]) -> String {
    match message {
        "AccessTokenCredential" => show::<v1::AccessTokenCredential>(encoded),
        "AddSecretVersionRequest" => show::<v1::AddSecretVersionRequest>(encoded),
        "BatchGetSecretsResponse" => show::<v1::BatchGetSecretsResponse>(encoded),
        "BatchGetSecretsResult" => show::<v1::BatchGetSecretsResult>(encoded),
        "CertificateCredential" => show::<v1::CertificateCredential>(encoded),
        "CertificateValidationContext" => show::<tls::CertificateValidationContext>(encoded),
        "DataSource" => show::<DataSource>(encoded),
        "GenericSecret" => show::<tls::GenericSecret>(encoded),
        "Secret" => show::<tls::Secret>(encoded),
        "TlsCertificate" => show::<tls::TlsCertificate>(encoded),
        "ExaminedToken" => show::<v1::ExaminedToken>(encoded),
        "ExplainAccessRequest" => show::<v1::ExplainAccessRequest>(encoded),
        "GetSecretResponse" => show::<v1::GetSecretResponse>(encoded),
        "MintDatabaseTokenResponse" => show::<v1::MintDatabaseTokenResponse>(encoded),
        "PasswordCredential" => show::<v1::PasswordCredential>(encoded),
        other => panic!("{other} can carry a secret: add it to this table"),
    }
}

fn show<M: Message + Default + Debug>(encoded: &[u8]) -> String {
    let message = M::decode(encoded).expect("the generated type decodes what the descriptor describes");
    format!("{message:?} {message:#?}")
}
