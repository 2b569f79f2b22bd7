//! Expiry, skew and lifetime.

use serde_json::json;

use super::*;

async fn set(issuer: &Pinned, claims: &[(&str, Value)]) -> Result<Arc<Token>, Rejection> {
    issuer
        .payload(|payload| {
            for (claim, value) in claims {
                payload[*claim] = value.clone();
            }
        })
        .await
}

#[tokio::test]
async fn refuses_a_token_without_expiry() {
    let issuer = Pinned::new().await;
    let outcome = issuer.payload(|payload| drop(payload.as_object_mut().unwrap().remove("exp"))).await;
    assert_refused(outcome, Reason::TokenMalformed, "no exp");
}

#[tokio::test]
async fn a_time_of_the_wrong_type_is_refused_and_not_taken_as_absent() {
    let issuer = Pinned::new().await;
    for claim in ["exp", "nbf", "iat"] {
        for value in [
            json!("1800000300"),
            json!(1_800_000_300.5),
            json!(1.8e9),
            json!(null),
            json!(-1),
            json!([START]),
            json!(true),
            json!(u64::MAX),
            json!(1e300),
        ] {
            assert_refused(set(&issuer, &[(claim, value)]).await, Reason::TokenMalformed, claim);
        }
    }
}

#[tokio::test]
async fn expires_at_the_second_and_states_the_skew() {
    let issuer = Pinned::new().await;
    assert!(set(&issuer, &[("iat", json!(START - 100)), ("exp", json!(START - 29))]).await.is_ok());
    let outcome = set(&issuer, &[("iat", json!(START - 100)), ("exp", json!(START - 30))]).await;
    assert_refused(outcome, Reason::TokenExpired, "expired 30 s ago");
    let outcome = set(&issuer, &[("iat", json!(0)), ("exp", json!(0))]).await;
    assert_refused(outcome, Reason::TokenExpired, "30 s of leeway");
}

#[tokio::test]
async fn refuses_a_future_nbf_or_iat_and_states_the_skew() {
    let issuer = Pinned::new().await;
    for claim in ["nbf", "iat"] {
        assert!(set(&issuer, &[(claim, json!(START + 30))]).await.is_ok());
        assert_refused(set(&issuer, &[(claim, json!(START + 31))]).await, Reason::TokenNotYetValid, "is 31 s ahead");
    }
}

#[tokio::test]
async fn bounds_the_lifetime_with_and_without_iat() {
    let issuer = Pinned::new().await;
    assert!(set(&issuer, &[("exp", json!(START + 3600))]).await.is_ok());
    let outcome = set(&issuer, &[("exp", json!(START + 3601))]).await;
    assert_refused(outcome, Reason::TokenLifetime, "lives 3601 s, and issuer acme may grant 3600 s");
    let outcome = set(&issuer, &[("exp", json!(253_402_300_799_u64))]).await;
    assert_refused(outcome, Reason::TokenLifetime, "3600 s");
    for (exp, good) in [(START + 3600, true), (START + 3601, false)] {
        let outcome = issuer
            .payload(|payload| {
                payload["exp"] = exp.into();
                payload.as_object_mut().unwrap().remove("iat");
            })
            .await;
        assert_eq!(outcome.is_ok(), good);
    }
    let outcome = set(&issuer, &[("iat", json!(START + 20)), ("exp", json!(START + 10))]).await;
    assert_refused(outcome, Reason::TokenMalformed, "before its iat");
}

#[tokio::test]
async fn a_kept_token_ends_when_a_new_one_would_be_refused() {
    let issuer = Pinned::new().await;
    let text = issuer.key.sign(&payload());
    let token = issuer.verify(&text).await.unwrap();
    issuer.clock.advance(Duration::from_secs(629));
    assert!(Arc::ptr_eq(&token, &issuer.verify(&text).await.unwrap()), "it was verified anew");
    assert!(issuer.verifier.recheck(&token).is_ok());
    issuer.clock.advance(Duration::from_secs(1));
    assert_refused(issuer.verify(&text).await, Reason::TokenExpired, "expired 30 s ago");
    assert_eq!(issuer.verifier.recheck(&token).unwrap_err().reason(), Reason::TokenExpired);
    assert_eq!(token.ends().as_secs(), issuer.clock.secs());
}

#[tokio::test]
async fn kept_tokens_are_bounded_and_give_way_to_new_ones_when_they_end() {
    let issuer = Pinned::new().await;
    for number in 0..40 {
        let good = set(&issuer, &[("jti", json!(number))]).await;
        assert!(good.is_ok());
    }
    let (count, bytes) = issuer.verifier.cached_tokens();
    assert_eq!(count, 40);
    assert!(bytes < 40 * 1200, "{bytes}");
    issuer.clock.advance(Duration::from_secs(3600));
    let now = issuer.clock.secs();
    for number in 0..400 {
        set(&issuer, &[("jti", json!(number)), ("iat", json!(now)), ("exp", json!(now + 60))]).await.unwrap();
    }
    assert_eq!(issuer.verifier.cached_tokens().0, 400);
}

#[tokio::test]
async fn nothing_is_kept_about_a_refused_token() {
    let issuer = Pinned::new().await;
    for number in 0..50 {
        assert!(set(&issuer, &[("aud", json!(format!("a{number}")))]).await.is_err());
    }
    assert_eq!(issuer.verifier.cached_tokens(), (0, 0));
}
