//! What an explanation says of each check, in words that lead to a remedy.

use keyferry_proto::v1::{AccessFinding, AccessStage as Stage};

use super::finding;
use crate::admission::{Action, Description, Explanation, QuotaClass, Resource};
use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::error::Failure;
use crate::identity::Caller;
use crate::identity::token::{Rejection, Token};
use crate::names::{NameError, SecretName};
use crate::rpc::call::Call;
use crate::rpc::methods::METHODS;
use crate::suggestion::nearest;

pub(super) fn own(caller: &Caller, now: Timestamp) -> Vec<AccessFinding> {
    let mut found = Vec::new();
    if let Some(certificate) = caller.certificate() {
        let until = format!("valid until {}", certificate.not_after());
        found.push(finding(Stage::Certificate, true, "certificate", "", &until, "the client certificate was accepted"));
    }
    found.extend(caller.token().into_iter().flat_map(|token| self::token(token, now)));
    found
}

pub(super) fn described(description: &Description) -> AccessFinding {
    let stage = if description.issuer().is_some() { Stage::Token } else { Stage::Certificate };
    let message = "taken as described; a real call must prove it";
    finding(stage, true, "caller", "", description.id(), message)
}

pub(super) fn issuer<'a>(name: &str, configured: impl Iterator<Item = &'a str>) -> AccessFinding {
    let configured: Vec<_> = configured.collect();
    if configured.contains(&name) {
        return finding(Stage::Token, true, "token.iss", "", name, "the issuer is configured here");
    }
    let near = nearest(name, configured.iter().copied()).map(|near| format!("; did you mean {near}?"));
    let message = format!(
        "no issuer has this name in the broker's configuration, so no token could make this caller{}",
        near.unwrap_or_default(),
    );
    finding(Stage::Token, false, "token.iss", &configured.join(", "), name, &message)
}

pub(super) fn token(token: &Token, now: Timestamp) -> Vec<AccessFinding> {
    let audiences: Vec<_> = token.audiences().collect();
    let left = format!("{}, {} s from now", token.expires(), token.expires().since(now).as_secs());
    let mut found = vec![
        finding(
            Stage::Token,
            true,
            "token.iss",
            "",
            token.issuer_url(),
            "the issuer is configured and its key verifies",
        ),
        finding(Stage::Token, true, "token.aud", "", &audiences.join(", "), "one of the audiences is this broker's"),
        finding(Stage::Token, true, "token.exp", "", &left, "the token has not expired"),
    ];
    if token.claims().group_overage() {
        let message = "the issuer left the groups out because there are too many, so a policy over `groups` cannot \
                       match; use app roles, or let the issuer send only the groups assigned to the application";
        found.push(finding(Stage::Token, false, "token.groups", "the caller's groups", "left out", message));
    }
    found
}

/// Only what the refusal itself may say: it quotes names, never the token or its signature.
pub(super) fn rejection(rejection: &Rejection) -> AccessFinding {
    let (subject, expected, actual) = match rejection {
        Rejection::Malformed(_) => ("token", String::new(), String::new()),
        Rejection::AlgorithmUnknown { algorithm } => {
            ("token.alg", "RS, PS, ES or EdDSA".to_owned(), algorithm.to_string())
        }
        Rejection::AlgorithmNotAllowed { issuer, algorithm } => {
            ("token.alg", format!("one that issuer {issuer} is allowed"), algorithm.name().to_owned())
        }
        Rejection::AlgorithmUnfit { issuer, algorithm } => {
            ("token.alg", format!("that of the key at issuer {issuer}"), algorithm.name().to_owned())
        }
        Rejection::IssuerUnknown { seen, resembles } => {
            let near = resembles.as_ref().map(|name| format!("the url of [issuers.{name}], which it resembles"));
            ("token.iss", near.unwrap_or_else(|| "a configured issuer".to_owned()), seen.to_string())
        }
        Rejection::KeyUnknown { issuer, key, known, age } => {
            ("token.kid", format!("one of {known} keys of issuer {issuer}, fetched {age} s ago"), key.to_string())
        }
        Rejection::KeyWithdrawn { issuer } => {
            ("token.kid", format!("a key in force at issuer {issuer}"), "a withdrawn one".to_owned())
        }
        Rejection::KeyAmbiguous { issuer, fitting } => {
            ("token.kid", format!("a kid, or one fitting key of issuer {issuer}"), format!("no kid, {fitting} keys"))
        }
        Rejection::KeysUnavailable { issuer } => ("token.kid", format!("keys of issuer {issuer}"), "none".to_owned()),
        Rejection::Signature { issuer } => {
            ("token.signature", format!("one by the named key of issuer {issuer}"), String::new())
        }
        Rejection::Audience { seen, expected, .. } => ("token.aud", expected.clone(), seen.clone()),
        Rejection::Expired { ago, now, leeway } => {
            ("token.exp", format!("after {now}, give or take {leeway} s"), format!("{ago} s before it"))
        }
        Rejection::NotYetValid { claim, ahead, now, leeway } => {
            let subject = if *claim == "iat" { "token.iat" } else { "token.nbf" };
            (subject, format!("before {now}, give or take {leeway} s"), format!("{ahead} s after it"))
        }
        Rejection::Lifetime { seconds, limit, .. } => {
            ("token.exp", format!("a lifetime of at most {limit} s"), format!("{seconds} s"))
        }
        Rejection::Binding(_) => ("token.cnf", "the certificate that it is bound to".to_owned(), String::new()),
    };
    finding(Stage::Token, false, subject, &expected, &actual, &rejection.to_string())
}

pub(super) fn names(action: Action, resource: &Resource) -> AccessFinding {
    let actual = format!("{} on {}", action.as_str(), resource.name());
    finding(Stage::Request, true, "request", "", &actual, "action and resource are well-formed")
}

pub(super) fn unknown_action(action: &str, near: Option<&str>) -> AccessFinding {
    let expected = near.unwrap_or("an action of the policy schema");
    let message = match near {
        Some(near) => format!("there is no such action; did you mean {near}?"),
        None => "there is no such action; each method's comment names its own, for example GetSecret".to_owned(),
    };
    finding(Stage::Request, false, "action", expected, action, &message)
}

pub(super) fn bad_resource(resource: &str, error: &NameError) -> AccessFinding {
    let expected =
        "stores/{store}, stores/{store}/secrets/{secret}, databases/{database}/roles/{role}, or empty for the broker";
    finding(Stage::Request, false, "resource", expected, resource, &format!("the name {error}"))
}

pub(super) fn misfit(action: Action, resource: &Resource, error: &str) -> AccessFinding {
    let actual = format!("{} on {}", action.as_str(), resource.name());
    let message = format!("this action is not asked of this kind of resource: {error}");
    finding(Stage::Request, false, "resource", "", &actual, &message)
}

pub(super) fn labels(resource: &Resource) -> AccessFinding {
    let labels = match resource {
        Resource::Secret(_, labels) => labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
        Resource::Store(_) | Resource::DatabaseRole(_) | Resource::Broker => Vec::new(),
    };
    let actual = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
    finding(Stage::Request, true, "resource.labels", "", &actual, "the secret exists; policy sees these labels")
}

/// To whoever asks about itself a hidden secret reads the same.
pub(super) fn absent(secret: &SecretName, openly: bool) -> AccessFinding {
    let message = if openly {
        "it does not exist, so no label of it is known and policy sees none"
    } else {
        "it does not exist for you, so no label of it is known and policy sees none"
    };
    finding(Stage::Request, false, "resource", "a secret that exists", secret.as_str(), message)
}

pub(super) fn unread(failure: &Failure) -> AccessFinding {
    let message = format!("its labels cannot be read now, so policy sees none; a call would fail: {failure}");
    finding(Stage::Request, false, "resource.labels", "", "", &message)
}

pub(super) fn policy(explanation: &Explanation, openly: bool, reads_context: bool) -> AccessFinding {
    let ids: Vec<_> = explanation.determining.iter().map(|policy| policy.id.as_str()).collect();
    let mut message = match (explanation.allowed, explanation.failed, ids.is_empty()) {
        (true, ..) => format!("permitted by {}", ids.join(", ")),
        (false, true, _) => "a policy could not be evaluated, which denies; see those considered".to_owned(),
        (false, false, false) => format!("forbidden by {}; a forbid outweighs every permit", ids.join(", ")),
        (false, false, true) => match explanation.considered.iter().find(|policy| !policy.forbids) {
            Some(near) if openly => format!("no policy permits it; the nearest is {}: {}", near.id, near.unmet),
            Some(near) => format!("no policy permits it; the nearest is {}", near.id),
            None => "no policy permits this action at all".to_owned(),
        },
    };
    if reads_context {
        message.push_str("; time and peer address, which some policy looks at, are those of this very call");
    }
    let actual = if explanation.allowed { "allow" } else { "deny" };
    finding(Stage::Policy, explanation.allowed, "policy", "", actual, &message)
}

/// `None` where the call would not be metered.
pub(super) fn quota(call: &Call, caller: &str, action: Action) -> Option<AccessFinding> {
    let class = METHODS.iter().find(|method| method.action() == Some(action)).map_or(QuotaClass::None, |m| m.quota);
    let allowance = call.gate.quota().allowance(caller, class)?;
    let class = class.as_str();
    let expected = format!("{} {class} calls a second, {} at once", allowance.bucket.rate, allowance.bucket.burst);
    let actual = format!("{} {class} calls left at this replica", allowance.calls_left);
    let passed = allowance.calls_left > 0;
    let message = if passed { "within its quota" } else { "used up for now; wait and call less often" };
    Some(finding(Stage::Quota, passed, "quota", &expected, &actual, message))
}

pub(super) fn digest(hex: &str) -> Option<Digest> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(Digest(bytes))
}
