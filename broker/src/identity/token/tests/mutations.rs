//! Mutated tokens: none is accepted, none panics.
//!
//! Short by default; `KEYFERRY_FUZZ_INPUTS` sets how many.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::signing::{SigningKey, encode};
use super::*;
use crate::identity::token::Claims;
use crate::identity::token::json::read_object;
use crate::identity::token::key_set::KeySet;
use crate::identity::token::registered::Registered;

#[tokio::test]
async fn no_mutation_of_a_good_token_is_accepted() {
    let mut met = BTreeMap::new();
    for algorithm in [Algorithm::Es256, Algorithm::Rs256, Algorithm::EdDsa, Algorithm::Ps512] {
        let issuer = Pinned::with(SigningKey::new("one", algorithm), |_| {}).await;
        let seeds = seeds(&issuer.key);
        for seed in &seeds {
            assert!(issuer.verifier.check(seed).is_ok());
        }
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ u64::from(algorithm.name().as_bytes()[0]));
        for _ in 0..inputs() / 4 {
            let mutant = mutate(&seeds, &mut random);
            match issuer.verifier.check(&mutant) {
                Ok(_) => assert!(seeds.contains(&mutant), "accepted: {mutant}"),
                Err(refusal) => *met.entry(Rejection::from(refusal).reason().as_str_name()).or_insert(0_u64) += 1,
            }
        }
    }
    println!("{met:?}");
    assert!(
        met.contains_key(Reason::TokenSignature.as_str_name()),
        "no mutation came as far as the signature: {met:?}"
    );
}

/// What lies behind a good signature, which mutated tokens do not reach, and what an issuer publishes.
#[tokio::test]
async fn no_claims_and_no_key_set_make_it_panic() {
    let key = SigningKey::new("one", Algorithm::Rs256);
    let settings = settings(KeySource::Pinned("keys.json".into()));
    let now = Timestamp::from_secs(START);
    let keys =
        json!({ "keys": [key.jwk, SigningKey::es256("two").jwk, SigningKey::new("three", Algorithm::EdDsa).jwk] });
    let texts = [rich_payload().to_string(), keys.to_string()];
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut accepted = 0_u64;
    for _ in 0..inputs() / 4 {
        let mut text = texts[random.below(2)].clone().into_bytes();
        for _ in 0..=random.below(3) {
            change_json(&mut text, &mut random);
        }
        if let Ok(payload) = read_object(&text)
            && let (Ok(_), Ok(claims)) = (Registered::check(&payload, &settings, now), Claims::flatten(&payload))
        {
            accepted += u64::from(claims.iter().count() > 0);
        }
        let _ = KeySet::parse(&text, &Algorithm::ALL);
    }
    println!("{accepted} payloads were good ones still");
    assert!(accepted > 0);
}

fn inputs() -> u64 {
    std::env::var("KEYFERRY_FUZZ_INPUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000)
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

fn mutate(seeds: &[String], random: &mut Random) -> String {
    let mut text = seeds[random.below(seeds.len())].clone().into_bytes();
    for _ in 0..=random.below(3) {
        match random.below(10) {
            0 => flip(&mut text, random),
            1 => drop(text.remove(random.below(text.len()))),
            2 => text.insert(random.below(text.len()), random.base64()),
            3 => text.truncate(1 + random.below(text.len())),
            4 => splice(&mut text, seeds[random.below(seeds.len())].as_bytes(), random),
            5 => repeat(&mut text, random),
            6 => text = swap_parts(&text, random),
            // Within the JSON, so that what lies behind the first checks is met too.
            _ => text = inside(&text, random),
        }
        if text.is_empty() {
            text.push(b'.');
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn flip(text: &mut [u8], random: &mut Random) {
    let at = random.below(text.len());
    text[at] = if random.below(4) == 0 { text[at] ^ (1 << random.below(7)) } else { random.base64() };
}

fn splice(text: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let keep = random.below(text.len());
    text.truncate(keep);
    text.extend_from_slice(&other[random.below(other.len())..]);
}

fn repeat(text: &mut Vec<u8>, random: &mut Random) {
    let from = random.below(text.len());
    let to = (from + random.below(64)).min(text.len());
    let piece = text[from..to].to_vec();
    let at = random.below(text.len());
    text.splice(at..at, piece);
}

fn swap_parts(text: &[u8], random: &mut Random) -> Vec<u8> {
    let mut parts: Vec<_> = text.split(|byte| *byte == b'.').collect();
    let (one, other) = (random.below(parts.len()), random.below(parts.len()));
    parts.swap(one, other);
    parts.join(&b'.')
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

/// Changes a byte or inserts a fragment.
fn change_json(json: &mut Vec<u8>, random: &mut Random) {
    const FRAGMENTS: [&str; 12] = [
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
    ];
    let at = random.below(json.len());
    if random.below(2) == 0 {
        let at = if random.below(2) == 0 { at } else { json.len().min(1) };
        json.splice(at..at, FRAGMENTS[random.below(FRAGMENTS.len())].bytes());
    } else if let Some(byte) = json.get_mut(at) {
        // Digits and letters mostly, so that much of it stays JSON.
        *byte = if random.below(8) == 0 { u8::try_from(random.below(256)).unwrap() } else { random.base64() };
    }
}

/// Xorshift: the same inputs in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % bound.max(1)
    }

    fn base64(&mut self) -> u8 {
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ "[self.below(69)]
    }
}
