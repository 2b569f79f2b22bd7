//! Callers, between the contract's message and ours.

use std::collections::BTreeMap;

use keyferry_proto::v1::{CallerCertificate, CallerToken};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::{Value as Json, json};

use super::proto_time::timestamp;
use crate::admission::{CertificateFacts, DescribedCertificate, Profile, TokenFacts};
use crate::identity::token::{Claims, Token};
use crate::identity::{Caller, Certificate, SpiffeId};

pub(super) fn caller_message(caller: &Caller) -> keyferry_proto::v1::Caller {
    keyferry_proto::v1::Caller {
        id: caller.id().to_owned(),
        certificate: caller.certificate().map(certificate_message),
        token: caller.token().map(token_message),
        expire_time: Some(timestamp(caller.ends())),
    }
}

/// Of a caller that was described: what was said of it, and no more.
pub(super) fn profile_message(profile: &Profile<'_>) -> keyferry_proto::v1::Caller {
    keyferry_proto::v1::Caller {
        id: profile.id.to_owned(),
        certificate: profile.certificate.as_ref().map(facts_message),
        token: profile.token.as_ref().map(|token: &TokenFacts<'_>| CallerToken {
            issuer: token.issuer.to_owned(),
            subject: token.subject.to_owned(),
            audiences: token.audiences.iter().map(|&audience| audience.to_owned()).collect(),
            claims: Some(claims_message(token.claims)),
            ..CallerToken::default()
        }),
        expire_time: None,
    }
}

pub(super) fn token_message(token: &Token) -> CallerToken {
    CallerToken {
        issuer: token.issuer_name().to_owned(),
        issuer_url: token.issuer_url().to_owned(),
        subject: token.subject().to_owned(),
        audiences: token.audiences().map(str::to_owned).collect(),
        claims: Some(claims_message(token.claims())),
        issue_time: token.issued().map(timestamp),
        expire_time: Some(timestamp(token.expires())),
        certificate_bound: token.certificate_thumbprint().is_some(),
    }
}

pub(super) fn facts_message(facts: &CertificateFacts<'_>) -> CallerCertificate {
    let spiffe_id = facts.spiffe.as_ref().ok().copied().flatten().map(ToString::to_string).unwrap_or_default();
    CallerCertificate {
        subject: facts.common_name.map(|name| format!("CN={name}")).unwrap_or_default(),
        spiffe_id,
        dns_names: facts.dns_names.to_vec(),
        sha256_fingerprint: facts.thumbprint.clone(),
        ..CallerCertificate::default()
    }
}

/// A certificate as somebody describes it. Of the subject only its common name means anything to policy.
pub(super) fn described_certificate(message: &CallerCertificate) -> Result<DescribedCertificate, String> {
    let spiffe = match message.spiffe_id.as_str() {
        "" => None,
        id => Some(SpiffeId::parse(id).map_err(|error| format!("spiffe_id: {error}"))?),
    };
    let common_name = message.subject.split(',').find_map(|part| part.trim().strip_prefix("CN=")).map(str::to_owned);
    Ok(DescribedCertificate {
        thumbprint: message.sha256_fingerprint.clone(),
        common_name,
        dns_names: message.dns_names.iter().map(|name| name.to_ascii_lowercase()).collect(),
        spiffe,
    })
}

/// A whole number is written without its fraction, as a token would have it.
pub(crate) fn json_of(value: &Value) -> Json {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => json!(value),
        Some(Kind::NumberValue(value)) if value.fract() == 0.0 && value.abs() < 9e15 => json!(*value as i64),
        Some(Kind::NumberValue(value)) => json!(value),
        Some(Kind::StringValue(value)) => json!(value),
        Some(Kind::ListValue(list)) => list.values.iter().map(json_of).collect(),
        Some(Kind::StructValue(value)) => json_of_struct(value),
    }
}

pub(crate) fn json_of_struct(value: &Struct) -> Json {
    Json::Object(value.fields.iter().map(|(name, value)| (name.clone(), json_of(value))).collect())
}

/// Each path with the list of its values: exactly what a policy's `getTag` finds.
fn claims_message(claims: &Claims) -> Struct {
    let mut fields: BTreeMap<String, Value> = BTreeMap::new();
    for (path, value) in claims.iter() {
        let value = Value { kind: Some(Kind::StringValue(value.to_owned())) };
        let list = fields
            .entry(path.to_owned())
            .or_insert_with(|| Value { kind: Some(Kind::ListValue(ListValue::default())) });
        if let Some(Kind::ListValue(list)) = &mut list.kind {
            list.values.push(value);
        }
    }
    Struct { fields }
}

fn certificate_message(certificate: &Certificate) -> CallerCertificate {
    CallerCertificate {
        subject: certificate.subject().to_owned(),
        issuer: certificate.issuer().to_owned(),
        spiffe_id: certificate.spiffe_id().ok().flatten().map(ToString::to_string).unwrap_or_default(),
        dns_names: certificate.dns_names().to_vec(),
        uris: certificate.uris().to_vec(),
        sha256_fingerprint: certificate.thumbprint().to_string(),
        serial_number: certificate.serial().to_owned(),
        not_before_time: Some(timestamp(certificate.not_before())),
        not_after_time: Some(timestamp(certificate.not_after())),
    }
}
