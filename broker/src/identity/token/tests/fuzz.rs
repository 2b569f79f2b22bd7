//! Tokens that somebody changed, and what issuers publish.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyferry_fuzz::{Fuzz, Random, Verdict};

use super::signing::{SigningKey, encode};
use super::*;
use crate::identity::token::Claims;
use crate::identity::token::fetch::keys_url;
use crate::identity::token::json::read_object;
use crate::identity::token::key_set::KeySet;
use crate::identity::token::registered::Registered;

/// What JSON is made of here, and what fooled others.
const WORDS: [&str; 24] = [
    "\"crit\":[],",
    "\"alg\":\"none\",",
    "\"exp\":\"1\",",
    "\"sub\":\"root\",",
    "\"aud\":[[]],",
    "\"iss\":null,",
    "\\u0000",
    "\\ud800",
    "[[[[",
    "{}",
    "1e999",
    "\"kid\":\"\",",
    "\"nbf\":",
    "\"cnf\":{\"x5t#S256\":",
    "\"keys\":[",
    "\"kty\":\"RSA\",",
    "\"kty\":\"EC\",\"crv\":\"P-256\",",
    "\"n\":\"",
    "\"e\":\"AQAB\"",
    "\"x\":\"",
    "\"d\":\"AA\"",
    "\"key_ops\":[\"verify\"]",
    "\"jwks_uri\":",
    "https://",
];

#[tokio::test]
async fn no_mutation_of_a_good_token_is_accepted() {
    for algorithm in [Algorithm::Es256, Algorithm::Rs256, Algorithm::EdDsa, Algorithm::Ps512] {
        let issuer = Pinned::with(SigningKey::new("one", algorithm), |_| {}).await;
        let seeds = seeds(&issuer.key);
        let mut refused = BTreeSet::new();
        let changed = |token: &[u8], random: &mut Random| inside(token, random);
        let texts = seeds.iter().map(|seed| seed.clone().into_bytes());
        Fuzz::new("token").words(&WORDS).seeds(texts).mutated_by(&changed).allocating(1 << 16, 64).holds(|input| {
            let Ok(text) = str::from_utf8(input) else { return Verdict::Refused };
            match issuer.verifier.check(text) {
                Ok(_) => {
                    assert!(seeds.iter().any(|seed| seed == text), "accepted: {text}");
                    Verdict::Accepted
                }
                Err(refusal) => {
                    refused.insert(Rejection::from(refusal).reason().as_str_name());
                    Verdict::Refused
                }
            }
        });
        let far = refused.is_empty() || refused.contains(Reason::TokenSignature.as_str_name());
        assert!(far, "no mutation came as far as the signature: {refused:?}");
    }
}

/// What lies behind a good signature, which mutated tokens do not reach.
#[tokio::test]
async fn claims_are_taken_whole_or_refused() {
    let settings = settings(KeySource::Pinned("keys.json".into()));
    let now = Timestamp::from_secs(START);
    let seeds = [payload(), rich_payload()].map(|payload| payload.to_string().into_bytes());
    Fuzz::new("claims").words(&WORDS).seeds(seeds).allocating(1 << 17, 512).holds(|input| {
        let Ok(payload) = read_object(input) else { return Verdict::Refused };
        let registered = Registered::check(&payload, &settings, now);
        let claims = Claims::flatten(&payload);
        if let Ok(claims) = &claims {
            // A policy finds every one of them.
            assert!(claims.iter().all(|(path, value)| claims.get(path).any(|found| found == value)));
        }
        if let Ok(registered) = &registered {
            let leeway = settings.leeway;
            assert!(registered.expires.plus(leeway) > now && !registered.subject.is_empty());
            assert!(registered.not_before.is_none_or(|time| time <= now.plus(leeway)));
        }
        (registered.is_ok() && claims.is_ok()).into()
    });
}

#[test]
fn what_an_issuer_publishes_is_keys_that_can_be_used_or_nothing() {
    let mut keys = [("one", Algorithm::Rs256), ("two", Algorithm::Es256), ("three", Algorithm::EdDsa)]
        .map(|(id, algorithm)| SigningKey::new(id, algorithm).jwk)
        .to_vec();
    keys.push(SigningKey::es256("four").published_with("use", "enc".into()).jwk);
    let seeds = [json!({ "keys": keys }).to_string().into_bytes()];
    Fuzz::new("key-set").words(&WORDS).seeds(seeds).inputs(8000).allocating(1 << 18, 1024).holds(|input| {
        let Ok(keys) = KeySet::parse(input, &Algorithm::ALL) else { return Verdict::Refused };
        assert!((1..=64).contains(&keys.len()));
        Verdict::Accepted
    });
}

#[test]
fn a_discovery_document_leads_nowhere_but_to_https() {
    let document = json!({ "issuer": ISSUER, "jwks_uri": "https://keys.test/keys?v=1", "x": [] }).to_string();
    let words = [&WORDS[..], &["http://", "//", "#", "?", "\\n", "@", ISSUER, "\"issuer\":"]].concat();
    Fuzz::new("discovery").words(&words).seeds([document.into_bytes()]).allocating(1 << 16, 512).holds(|input| {
        let Ok(url) = keys_url(input, ISSUER) else { return Verdict::Refused };
        let parsed: reqwest::Url = url.parse().unwrap_or_else(|error| panic!("{url:?}: {error}"));
        assert!(parsed.scheme() == "https" && parsed.fragment().is_none(), "{url:?}");
        Verdict::Accepted
    });
}

fn seeds(key: &SigningKey) -> Vec<String> {
    vec![key.sign(&payload()), key.sign(&rich_payload())]
}

fn rich_payload() -> Value {
    let mut rich = payload();
    rich["aud"] = json!([AUDIENCE, "x"]);
    rich["nbf"] = START.into();
    rich["kubernetes.io"] = json!({ "namespace": "shop", "pod": { "name": "cart" } });
    rich["cnf"] = json!({ "x5t#S256": encode(&[7; 32]) });
    rich
}

/// Changes the header's or the payload's JSON.
fn inside(text: &[u8], random: &mut Random) -> Vec<u8> {
    let mut parts: Vec<_> = text.split(|byte| *byte == b'.').map(<[u8]>::to_vec).collect();
    let part = random.below(parts.len().min(2));
    let Ok(mut json) = URL_SAFE_NO_PAD.decode(&parts[part]) else {
        return text.to_vec();
    };
    change_json(&mut json, random);
    parts[part] = encode(&json).into_bytes();
    parts.join(&b'.')
}

/// Changes a byte or inserts a word.
fn change_json(json: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(json.len());
    if random.below(2) == 0 {
        let at = if random.below(2) == 0 { at } else { json.len().min(1) };
        json.splice(at..at, random.choose(&WORDS).bytes());
    } else if let Some(byte) = json.get_mut(at) {
        // Digits and letters mostly, so that much of it stays JSON.
        *byte = if random.below(8) == 0 { random.byte() } else { *random.choose(b"0123456789abcdefxyzABCXYZ-_.\"") };
    }
}
