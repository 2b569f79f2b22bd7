//! Form, issuer, algorithm, signature, audience, subject, binding.

use std::collections::HashSet;

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use super::signing::{SigningKey, encode};
use super::*;
use crate::digest::Digest;
use crate::error::Failure;
use crate::identity::token::compact::MAX_TOKEN;

#[tokio::test]
async fn accepts_a_good_token_of_every_algorithm() {
    for algorithm in Algorithm::ALL {
        let issuer = Pinned::with(SigningKey::new("one", algorithm), |_| {}).await;
        let token = issuer.payload(|_| {}).await.unwrap_or_else(|error| panic!("{algorithm}: {error}"));
        assert_eq!(&**token.id(), "oidc/acme/system:serviceaccount:shop:cart");
        assert_eq!(token.subject(), "system:serviceaccount:shop:cart");
        assert_eq!(token.issuer_url(), ISSUER);
        assert_eq!(token.audiences().collect::<Vec<_>>(), [AUDIENCE]);
        assert_eq!(token.expires(), Timestamp::from_secs(START + 600));
        assert_eq!(token.ends(), Timestamp::from_secs(START + 630));
    }
}

#[tokio::test]
async fn refuses_more_than_eight_kibibytes() {
    let issuer = Pinned::new().await;
    let filled = |length: usize| issuer.payload(move |payload| payload["filler"] = "x".repeat(length).into());
    assert!(filled(5000).await.is_ok());
    assert_refused(filled(6200).await, Reason::TokenMalformed, "8 KiB");
    assert_refused(issuer.verify(&".".repeat(1 << 20)).await, Reason::TokenMalformed, "8 KiB");
}

#[tokio::test]
async fn refuses_other_than_three_parts() {
    let issuer = Pinned::new().await;
    let token = issuer.key.sign(&payload());
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (header, body) = signed.split_once('.').unwrap();
    let dots = ".".repeat(MAX_TOKEN);
    for token in [
        "",
        ".",
        "..",
        "...",
        header,
        signed,
        &format!("{token}."),
        &format!(".{token}"),
        &format!("{token}.{signature}"),
        &dots,
    ] {
        assert_refused(issuer.verify(token).await, Reason::TokenMalformed, "malformed");
    }
    for token in [format!("{signed}."), format!(".{body}.{signature}"), format!("{header}..{signature}")] {
        assert!(issuer.verify(&token).await.is_err(), "{token}");
    }
}

#[tokio::test]
async fn refuses_an_encrypted_token() {
    let issuer = Pinned::new().await;
    assert_refused(issuer.verify("eyJhbGciOiJkaXIifQ.a.b.c.d").await, Reason::TokenMalformed, "three parts");
    let outcome = issuer.header(|header| header["enc"] = "A256GCM".into()).await;
    assert_refused(outcome, Reason::TokenMalformed, "encrypted");
    let outcome = issuer.header(|header| header["zip"] = "DEF".into()).await;
    assert_refused(outcome, Reason::TokenMalformed, "encrypted");
}

#[tokio::test]
async fn refuses_every_second_spelling_of_base64() {
    let issuer = Pinned::new().await;
    let token = issuer.key.sign(&payload());
    for odd in [
        format!("{token}="),
        format!("{token}=="),
        format!(" {token}"),
        format!("{token}\n"),
        token.replacen('.', "=.", 1),
    ] {
        assert_refused(issuer.verify(&odd).await, Reason::TokenMalformed, "base64url");
    }
    // 64 bytes leave four unused bits in the last character.
    let last = token.chars().last().unwrap();
    for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/".chars().filter(|one| *one != last)
    {
        let changed = format!("{}{other}", &token[..token.len() - 1]);
        assert!(issuer.verify(&changed).await.is_err(), "{last} as {other}");
    }
}

#[tokio::test]
async fn refuses_a_member_twice_in_header_or_payload() {
    let issuer = Pinned::new().await;
    let body = payload().to_string();
    let twice = issuer.key.sign_text(r#"{"alg":"ES256","kid":"one","kid":"one"}"#, &body);
    assert_refused(issuer.verify(&twice).await, Reason::TokenMalformed, "a member twice");
    let header = issuer.key.header().to_string();
    let twice = issuer.key.sign_text(&header, &body.replacen('{', r#"{"sub":"root","#, 1));
    assert_refused(issuer.verify(&twice).await, Reason::TokenMalformed, "a member twice");
    let nested = issuer.key.sign_text(&header, &body.replacen('{', r#"{"a":{"b":1,"b":2},"#, 1));
    assert_refused(issuer.verify(&nested).await, Reason::TokenMalformed, "a member twice");
}

#[tokio::test]
async fn refuses_a_header_or_payload_that_is_no_object_or_nests_deep() {
    let issuer = Pinned::new().await;
    let header = issuer.key.header().to_string();
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(600), "]".repeat(600));
    for body in ["[]", "\"x\"", "null", "1", "", "{", "{}{}", "\u{feff}{}", &deep] {
        let token = issuer.key.sign_text(&header, body);
        assert_refused(issuer.verify(&token).await, Reason::TokenMalformed, "payload");
        let token = issuer.key.sign_text(body, &payload().to_string());
        assert_refused(issuer.verify(&token).await, Reason::TokenMalformed, "header");
    }
}

#[tokio::test]
async fn refuses_any_critical_extension() {
    let issuer = Pinned::new().await;
    for crit in [json!(["b64"]), json!(["exp"]), json!([]), json!(null)] {
        let outcome = issuer.header(|header| header["crit"] = crit).await;
        assert_refused(outcome, Reason::TokenMalformed, "crit");
    }
}

#[tokio::test]
async fn takes_the_types_of_tokens_and_no_other() {
    let issuer = Pinned::new().await;
    for kind in ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "JOSE"] {
        assert!(issuer.header(|header| header["typ"] = kind.into()).await.is_ok(), "{kind}");
    }
    assert!(issuer.header(|header| drop(header.as_object_mut().unwrap().remove("typ"))).await.is_ok());
    for kind in
        [json!("dpop+jwt"), json!("logout+jwt"), json!("secevent+jwt"), json!("JWE"), json!(""), json!(1), json!(null)]
    {
        assert_refused(issuer.header(|header| header["typ"] = kind).await, Reason::TokenMalformed, "typ");
    }
}

#[tokio::test]
async fn refuses_none_however_it_is_spelt() {
    let issuer = Pinned::new().await;
    for name in ["none", "None", "NONE", "nOnE", ""] {
        let header = encode(json!({ "alg": name, "kid": "one" }).to_string().as_bytes());
        let unsigned = format!("{header}.{}.", encode(payload().to_string().as_bytes()));
        assert_refused(issuer.verify(&unsigned).await, Reason::TokenAlgorithm, "none that this broker verifies");
    }
    for alg in [json!(null), json!(1), json!(["ES256"])] {
        assert_refused(issuer.header(|header| header["alg"] = alg).await, Reason::TokenMalformed, "alg");
    }
}

#[tokio::test]
async fn refuses_hmac_with_the_public_key_as_its_secret() {
    for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
        let issuer = Pinned::with(SigningKey::new("one", algorithm), |_| {}).await;
        let header = encode(json!({ "alg": "HS256", "kid": "one" }).to_string().as_bytes());
        let signed = format!("{header}.{}", encode(payload().to_string().as_bytes()));
        for secret in [issuer.key.public_der(), issuer.key.jwk.to_string().into_bytes()] {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), signed.as_bytes());
            let outcome = issuer.verify(&format!("{signed}.{}", encode(tag.as_ref()))).await;
            assert_refused(outcome, Reason::TokenAlgorithm, "\"HS256\"");
        }
    }
}

#[tokio::test]
async fn refuses_an_algorithm_that_is_not_allowed_for_the_issuer() {
    let issuer =
        Pinned::with(SigningKey::new("one", Algorithm::Rs256), |settings| settings.algorithms = vec![Algorithm::Rs256])
            .await;
    assert!(issuer.payload(|_| {}).await.is_ok());
    let key = issuer.key.signing_with(Algorithm::Rs384);
    assert_refused(
        issuer.verifier.verify(&key.sign(&payload())).await,
        Reason::TokenAlgorithm,
        "RS384, which is not allowed for issuer acme",
    );
}

#[tokio::test]
async fn refuses_an_algorithm_that_does_not_fit_its_key() {
    let key = SigningKey::new("one", Algorithm::Rs256).published_with("alg", json!("RS256"));
    let issuer = Pinned::with(key, |_| {}).await;
    assert!(issuer.payload(|_| {}).await.is_ok());
    let key = issuer.key.signing_with(Algorithm::Ps256);
    assert_refused(issuer.verifier.verify(&key.sign(&payload())).await, Reason::TokenAlgorithm, "does not fit the key");
    let impostor = SigningKey::es256("one");
    assert_refused(
        issuer.verifier.verify(&impostor.sign(&payload())).await,
        Reason::TokenAlgorithm,
        "does not fit the key",
    );
}

#[tokio::test]
async fn takes_no_key_from_the_token() {
    let issuer = Pinned::new().await;
    let impostor = SigningKey::es256("one");
    let mut header = impostor.header();
    header["jwk"] = impostor.jwk.clone();
    header["jku"] = "https://127.0.0.1:1/keys".into();
    header["x5u"] = "https://127.0.0.1:1/chain".into();
    header["x5c"] = json!([encode(b"certificate")]);
    let token = impostor.sign_text(&header.to_string(), &payload().to_string());
    assert_refused(issuer.verify(&token).await, Reason::TokenSignature, "does not verify");
    // Beside a good signature they are ignored.
    let token = issuer.key.sign_text(&header.to_string(), &payload().to_string());
    assert!(issuer.verify(&token).await.is_ok());
}

#[tokio::test]
async fn refuses_a_signature_by_another_key_and_over_other_text() {
    let issuer = Pinned::new().await;
    let impostor = SigningKey::es256("one");
    assert_refused(issuer.verify(&impostor.sign(&payload())).await, Reason::TokenSignature, "issuer acme");
    let token = issuer.key.sign(&payload());
    let other = issuer.key.sign(&json!({ "iss": ISSUER }));
    let swapped = format!("{}.{}", token.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().1);
    assert_refused(issuer.verify(&swapped).await, Reason::TokenSignature, "does not verify");
}

#[tokio::test]
async fn compares_the_issuer_byte_by_byte() {
    let issuer = Pinned::new().await;
    for seen in [
        "https://issuer.test/tenant",
        "https://ISSUER.test/tenant/",
        "http://issuer.test/tenant/",
        "https://issuer.test/tenant/ ",
        "https://issuer.test/tenant/%",
        "",
    ] {
        let outcome = issuer.payload(|payload| payload["iss"] = seen.into()).await;
        assert_refused(outcome, Reason::TokenIssuerUnknown, "letter by letter");
    }
    for seen in [json!(null), json!([ISSUER]), json!(1)] {
        let outcome = issuer.payload(|payload| payload["iss"] = seen).await;
        assert_refused(outcome, Reason::TokenMalformed, "iss");
    }
}

#[tokio::test]
async fn tells_the_log_and_not_the_caller_which_issuer_was_meant() {
    let issuer = Pinned::new().await;
    let rejection = issuer.payload(|payload| payload["iss"] = "https://issuer.test/tenant".into()).await.unwrap_err();
    let failure = Failure::from(rejection);
    assert!(!failure.message().contains("acme"), "{}", failure.message());
    assert_eq!(failure.cause().unwrap(), "it resembles the configured issuer acme");
}

#[tokio::test]
async fn a_key_of_one_issuer_proves_nothing_about_another() {
    let (files, clock) = (tempfile::tempdir().unwrap(), ManualClock::new());
    let keys = [SigningKey::es256("one"), SigningKey::es256("one")];
    let settings =
        [("acme", ISSUER), ("umbra", "https://umbra.test")].into_iter().zip(&keys).map(|((name, url), key)| {
            let path = files.path().join(name);
            std::fs::write(&path, json!({ "keys": [key.jwk] }).to_string()).unwrap();
            IssuerSettings { name: name.into(), url: url.into(), ..settings(KeySource::Pinned(path)) }
        });
    let verifier = TokenVerifier::start(settings.collect(), clock).await.unwrap();
    let of = |url: &str| {
        let mut payload = payload();
        payload["iss"] = url.into();
        payload
    };
    assert_eq!(verifier.verify(&keys[0].sign(&of(ISSUER))).await.unwrap().issuer_name(), "acme");
    assert_eq!(verifier.verify(&keys[1].sign(&of("https://umbra.test"))).await.unwrap().issuer_name(), "umbra");
    assert_refused(verifier.verify(&keys[1].sign(&of(ISSUER))).await, Reason::TokenSignature, "acme");
    assert_refused(verifier.verify(&keys[0].sign(&of("https://umbra.test"))).await, Reason::TokenSignature, "umbra");
}

#[tokio::test]
async fn compares_the_audience_exactly_as_string_or_array() {
    let issuer = Pinned::new().await;
    for good in [json!(AUDIENCE), json!([AUDIENCE]), json!(["x", AUDIENCE]), json!("other")] {
        assert!(issuer.payload(|payload| payload["aud"] = good).await.is_ok());
    }
    for bad in [
        json!("https://keyferry.test/"),
        json!("https://keyferry.tes"),
        json!("HTTPS://KEYFERRY.TEST"),
        json!([]),
        json!(["x"]),
        json!(""),
    ] {
        let outcome = issuer.payload(|payload| payload["aud"] = bad).await;
        assert_refused(outcome, Reason::TokenAudience, "expects \"other\", \"https://keyferry.test\"");
    }
    let outcome = issuer.payload(|payload| drop(payload.as_object_mut().unwrap().remove("aud"))).await;
    assert_refused(outcome, Reason::TokenAudience, "audience none");
    for bad in [json!(null), json!(1), json!([AUDIENCE, 1]), json!([[AUDIENCE]]), json!({ "a": AUDIENCE })] {
        assert_refused(issuer.payload(|payload| payload["aud"] = bad).await, Reason::TokenMalformed, "aud");
    }
}

#[tokio::test]
async fn tells_what_it_expects_only_to_whom_the_issuer_signed_for() {
    let issuer = Pinned::new().await;
    let mut wrong = payload();
    wrong["aud"] = "elsewhere".into();
    let rejection = issuer.verify(&SigningKey::es256("one").sign(&wrong)).await.unwrap_err();
    assert!(!rejection.to_string().contains(AUDIENCE), "{rejection}");
}

#[tokio::test]
async fn takes_subjects_as_issuers_shape_them() {
    let issuer = Pinned::new().await;
    let long = "x".repeat(512);
    for subject in [
        "repo:org/name:ref:refs/heads/main",
        "repo:org/name:environment:Blue Green",
        "spiffe://acme.test/cart",
        "00u1|a@b.test",
        &long,
    ] {
        let token = issuer.payload(|payload| payload["sub"] = subject.into()).await.unwrap();
        assert_eq!(&**token.id(), format!("oidc/acme/{subject}"));
    }
    let longer = "x".repeat(513);
    for subject in ["", " x", "x ", "a\nb", "a\u{0}b", "caf\u{e9}", "\u{202e}x", &longer] {
        let outcome = issuer.payload(|payload| payload["sub"] = subject.into()).await;
        assert_refused(outcome, Reason::TokenMalformed, "sub");
    }
    for subject in [json!(null), json!(1), json!(["a"])] {
        let outcome = issuer.payload(|payload| payload["sub"] = subject).await;
        assert_refused(outcome, Reason::TokenMalformed, "sub");
    }
    let outcome = issuer.payload(|payload| drop(payload.as_object_mut().unwrap().remove("sub"))).await;
    assert_refused(outcome, Reason::TokenMalformed, "is missing");
}

#[tokio::test]
async fn identifies_by_the_configured_claim_and_never_falls_back() {
    let issuer = Pinned::with(SigningKey::es256("one"), |settings| settings.id_claim = "oid".into()).await;
    let token = issuer.payload(|payload| payload["oid"] = "7d1c".into()).await.unwrap();
    assert_eq!(&**token.id(), "oidc/acme/7d1c");
    assert_refused(issuer.payload(|_| {}).await, Reason::TokenMalformed, "oid");
}

#[tokio::test]
async fn a_bound_token_is_good_with_its_certificate_only() {
    let issuer = Pinned::new().await;
    let thumbprint = Digest::of(b"certificate");
    let token = issuer.payload(|payload| payload["cnf"] = json!({ "x5t#S256": encode(&thumbprint.0) })).await.unwrap();
    assert_eq!(token.certificate_thumbprint(), Some(thumbprint));
    assert_eq!(token.check_binding(Some(thumbprint)), Ok(()));
    for presented in [None, Some(Digest::of(b"another"))] {
        assert_eq!(token.check_binding(presented).unwrap_err().reason(), Reason::TokenBinding);
    }
    let bearer = issuer.payload(|_| {}).await.unwrap();
    assert_eq!(bearer.check_binding(None), Ok(()));
    assert_eq!(bearer.check_binding(Some(thumbprint)), Ok(()));
}

#[tokio::test]
async fn refuses_a_binding_that_it_cannot_check() {
    let issuer = Pinned::new().await;
    let good = encode(&[0; 32]);
    for binding in [
        json!({ "jkt": "a" }),
        json!({ "x5t#S256": good, "jkt": "a" }),
        json!({}),
        json!(null),
        json!("x"),
        json!({ "x5t#S256": "AA" }),
        json!({ "x5t#S256": 1 }),
    ] {
        let outcome = issuer.payload(|payload| payload["cnf"] = binding).await;
        assert_refused(outcome, Reason::TokenMalformed, "cnf");
    }
}

#[tokio::test]
async fn says_nothing_of_the_token_itself() {
    let issuer = Pinned::new().await;
    let mut token = payload();
    token["aud"] = "elsewhere".into();
    let token = issuer.key.sign(&token);
    let message = issuer.verify(&token).await.unwrap_err().to_string();
    for part in token.split('.') {
        assert!(!message.contains(part), "{message}");
    }
    let odd = issuer
        .payload(|payload| payload["iss"] = format!("a\n\u{1b}[31m{}", "x".repeat(900)).into())
        .await
        .unwrap_err()
        .to_string();
    assert!(odd.is_ascii() || odd.contains('…'), "{odd}");
    assert!(odd.len() < 500 && !odd.contains('\n') && !odd.contains('\u{1b}'), "{odd}");
}

#[tokio::test]
async fn shows_policy_the_claims_of_the_issuers_people_use() {
    let issuer = Pinned::new().await;
    let token = issuer
        .payload(|payload| {
            payload["roles"] = json!(["secrets.read"]);
            payload["xms_mirid"] = "/subscriptions/s/resourcegroups/g/providers/p/vm".into();
            payload["email_verified"] = true.into();
            payload["kubernetes.io"] = json!({ "namespace": "shop", "serviceaccount": { "name": "cart", "uid": "u" } });
            payload["_claim_names"] = json!({ "groups": "src1" });
        })
        .await
        .unwrap();
    let one = |path: &str| token.claims().get(path).collect::<Vec<_>>().join("|");
    assert_eq!(one("roles"), "secrets.read");
    assert_eq!(one("email_verified"), "true");
    assert_eq!(one("kubernetes.io/serviceaccount/name"), "cart");
    assert_eq!(one("xms_mirid"), "/subscriptions/s/resourcegroups/g/providers/p/vm");
    assert_eq!(one("exp"), "");
    assert!(token.claims().group_overage());
}

#[tokio::test]
async fn tokens_have_the_same_facts_where_policy_sees_the_same() {
    let issuer = Pinned::new().await;
    let token = async |change: fn(&mut Value)| issuer.payload(change).await.unwrap();
    let first = token(|_| {}).await;
    let next = token(|payload| {
        payload["jti"] = "another".into();
        payload["exp"] = (payload["exp"].as_u64().unwrap() + 1).into();
    })
    .await;
    assert!(first.digest() != next.digest() && first.facts() == next.facts());
    let others: [fn(&mut Value); 4] = [
        |payload| payload["sub"] = "another".into(),
        |payload| payload["aud"] = json!([payload["aud"], "another"]),
        |payload| payload["roles"] = json!(["a", "b"]),
        |payload| payload["roles"] = json!(["ab"]),
    ];
    let mut seen = HashSet::from([first.facts()]);
    for change in others {
        assert!(seen.insert(token(change).await.facts()));
    }
}

#[tokio::test]
async fn refuses_settings_that_would_weaken_a_rule() {
    type Change = fn(&mut IssuerSettings);
    let changes: [(Change, &str); 12] = [
        (|issuer| issuer.name = "Acme/x".into(), "name"),
        (|issuer| issuer.name = String::new(), "name"),
        (|issuer| issuer.audiences.clear(), "audiences"),
        (|issuer| issuer.audiences.push(String::new()), "audiences"),
        (|issuer| issuer.algorithms.clear(), "algorithms"),
        (|issuer| issuer.leeway = Duration::from_secs(61), "leeway"),
        (|issuer| issuer.maximum_lifetime = Duration::ZERO, "maximum_lifetime"),
        (|issuer| issuer.id_claim.clear(), "id_claim"),
        (|issuer| issuer.maximum_key_age = Duration::from_secs(1), "maximum_key_age"),
        (|issuer| issuer.url = "http://issuer.test".into(), "https"),
        (|issuer| issuer.url = "https://user@issuer.test".into(), "https"),
        (|issuer| issuer.url = "https://issuer.test?x".into(), "https"),
    ];
    for (change, says) in changes {
        let mut changed = settings(KeySource::Discovery { ca: None });
        change(&mut changed);
        let error = TokenVerifier::start(vec![changed], ManualClock::new()).await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let twice = vec![settings(KeySource::Discovery { ca: None }); 2];
    assert!(TokenVerifier::start(twice, ManualClock::new()).await.is_err());
}

#[tokio::test]
async fn without_issuers_every_token_is_refused() {
    let verifier = TokenVerifier::start(Vec::new(), ManualClock::new()).await.unwrap();
    let token: Value = payload();
    assert_refused(
        verifier.verify(&SigningKey::es256("one").sign(&token)).await,
        Reason::TokenIssuerUnknown,
        "not configured",
    );
}
