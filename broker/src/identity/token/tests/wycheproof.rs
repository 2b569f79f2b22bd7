//! Published vectors: C2SP's Wycheproof, RFC 7520's cookbook among them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::Algorithm;
use crate::identity::token::compact::Compact;
use crate::identity::token::key_set::{Candidates, KeySet};

/// Where we differ from the vectors' verdict: they hold these valid and we refuse them.
const DIFFERENCES: [(&str, &[u64], &str); 5] = [
    ("json_web_signature_test", &[1, 348, 352, 357, 358, 359, 372, 373, 376, 377], "HMAC: impossible here by type"),
    ("json_web_signature_test", &[346, 350], "a PS384 token under a key published for PS256"),
    ("json_web_signature_test", &[347, 351], "a key published for ES521, which is no algorithm"),
    ("json_web_crypto_test", &[1, 48], "HMAC: impossible here by type"),
    ("json_web_key_test", &[2, 13, 14, 15], "HMAC: impossible here by type"),
];

#[test]
fn agrees_with_wycheproof_but_for_the_listed_differences() {
    for file in ["json_web_signature_test", "json_web_crypto_test", "json_web_key_test"] {
        let Some(vectors) = vectors(file) else {
            println!("left out: {file}, because ../shared/vectors is not here");
            continue;
        };
        let ours: BTreeMap<u64, &str> = DIFFERENCES
            .into_iter()
            .filter(|(of, ..)| *of == file)
            .flat_map(|(_, ids, why)| ids.iter().map(move |id| (*id, why)))
            .collect();
        let (mut valid, mut invalid, mut differing) = (0, 0, 0);
        for (group, test) in vectors["testGroups"].as_array().unwrap().iter().flat_map(tests_of) {
            let id = test["tcId"].as_u64().unwrap();
            let accepted = accepts(group, &token_of(test));
            match (test["result"].as_str().unwrap(), ours.get(&id)) {
                ("invalid", _) => {
                    invalid += 1;
                    assert!(!accepted, "{file} {id} {}: accepted", test["comment"]);
                }
                (_, Some(why)) => {
                    differing += 1;
                    assert!(!accepted, "{file} {id} {}: accepted, and listed as refused: {why}", test["comment"]);
                }
                (_, None) if test.get("jwe").is_some() => {
                    differing += 1;
                    assert!(!accepted, "{file} {id}: an encrypted token was accepted");
                }
                (_, None) => {
                    valid += 1;
                    assert!(accepted, "{file} {id} {}: refused", test["comment"]);
                }
            }
        }
        println!("{file}: {valid} valid accepted, {invalid} invalid refused, {differing} refused as listed");
        assert!(invalid > 0);
    }
}

fn vectors(file: &str) -> Option<Value> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = root.join("../shared/vectors/wycheproof").join(file).with_extension("json");
    let text = std::fs::read(path).ok()?;
    Some(serde_json::from_slice(&text).unwrap())
}

fn tests_of(group: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    group["tests"].as_array().unwrap().iter().map(move |test| (group, test))
}

/// Some are in the JSON serialization, which is no token here.
fn token_of(test: &Value) -> String {
    let token = test.get("jws").or_else(|| test.get("jwe")).unwrap();
    token.as_str().map_or_else(|| token.to_string(), str::to_owned)
}

/// The signature layer alone: the vectors' payloads are no claims.
fn accepts(group: &Value, token: &str) -> bool {
    let published = group.get("public").unwrap_or(&group["private"]);
    let document = match published.get("keys") {
        Some(_) => published.clone(),
        None => serde_json::json!({ "keys": [published] }),
    };
    let (Ok(keys), Ok(token)) =
        (KeySet::parse(document.to_string().as_bytes(), &Algorithm::ALL), Compact::parse(token))
    else {
        return false;
    };
    match keys.candidates(token.key_id.as_deref(), token.algorithm) {
        Candidates::Some(keys) => keys.iter().any(|key| key.verifies(token.algorithm, token.signed, &token.signature)),
        Candidates::Unknown | Candidates::Unfit | Candidates::Ambiguous(_) => false,
    }
}
