//! An issuer's keys: discovery, rotation, withdrawal, outages and faults.

use serde_json::json;

use super::key_server::{Fault, KeyServer};
use super::signing::SigningKey;
use super::*;

struct Discovered {
    clock: Arc<ManualClock>,
    server: KeyServer,
    verifier: Arc<TokenVerifier>,
}

impl Discovered {
    async fn new(keys: &[&SigningKey]) -> Self {
        let server = KeyServer::start().await;
        server.publish(&jwks(keys));
        let verifier = Self::verifier(&server, ManualClock::new()).await;
        verifier.0.refresh().await;
        Self { clock: verifier.1, server, verifier: verifier.0 }
    }

    async fn verifier(server: &KeyServer, clock: Arc<ManualClock>) -> (Arc<TokenVerifier>, Arc<ManualClock>) {
        let keys = KeySource::Discovery { ca: Some(server.ca.clone()) };
        // Refreshes happen when a test says so.
        let settings =
            IssuerSettings { url: server.url.clone(), refresh_interval: Duration::from_secs(3600), ..settings(keys) };
        (TokenVerifier::start(vec![settings], clock.clone()).await.unwrap(), clock)
    }

    fn token(&self, key: &SigningKey) -> String {
        let now = self.clock.secs();
        let mut payload = payload();
        payload["iss"] = self.server.url.as_str().into();
        payload["iat"] = now.into();
        payload["exp"] = (now + 3000).into();
        key.sign(&payload)
    }

    async fn verify(&self, key: &SigningKey) -> Result<Arc<Token>, Rejection> {
        self.verifier.verify(&self.token(key)).await
    }

    fn problem(&self) -> String {
        self.verifier.status()[0].problem.clone().unwrap_or_default()
    }
}

fn jwks<'a>(keys: &[&'a SigningKey]) -> Vec<&'a Value> {
    keys.iter().map(|key| &key.jwk).collect()
}

#[tokio::test]
async fn discovers_keys_over_https() {
    let key = SigningKey::es256("one");
    let issuer = Discovered::new(&[&key]).await;
    assert!(issuer.verify(&key).await.is_ok());
    let status = &issuer.verifier.status()[0];
    assert_eq!((status.usable, status.keys, status.failures), (true, 1, 0), "{status:?}");
}

#[tokio::test]
async fn starts_while_an_issuer_is_down_and_works_once_it_is_up() {
    let key = SigningKey::es256("one");
    let issuer = Discovered::new(&[]).await;
    assert_refused(issuer.verify(&key).await, Reason::IssuerKeysUnavailable, "try again");
    assert!(issuer.problem().contains("no key"), "{}", issuer.problem());
    issuer.server.publish(&[&key.jwk]);
    issuer.verifier.refresh().await;
    assert!(issuer.verify(&key).await.is_ok());
}

#[tokio::test]
async fn fetches_once_for_a_new_key_however_many_calls_wait_for_it() {
    let (old, new) = (SigningKey::es256("old"), SigningKey::es256("new"));
    let issuer = Discovered::new(&[&old]).await;
    let before = issuer.server.fetches();
    issuer.server.publish(&jwks(&[&old, &new]));
    issuer.server.hold().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (verifier, token) = (Arc::clone(&issuer.verifier), issuer.token(&new));
        calls.spawn(async move { verifier.verify(&token).await });
    }
    issuer.server.held().await;
    issuer.server.release();
    while let Some(outcome) = calls.join_next().await {
        assert!(outcome.unwrap().is_ok());
    }
    assert_eq!(issuer.server.fetches(), before + 1);
}

#[tokio::test]
async fn made_up_keys_cannot_drive_it_against_the_issuer() {
    let (key, made_up) = (SigningKey::es256("one"), SigningKey::es256("made-up"));
    let issuer = Discovered::new(&[&key]).await;
    let before = issuer.server.fetches();
    for _ in 0..50 {
        assert_refused(issuer.verify(&made_up).await, Reason::TokenKeyUnknown, "\"made-up\" is not among the 1 keys");
    }
    assert_eq!(issuer.server.fetches(), before + 1);
    issuer.clock.advance(Duration::from_secs(30));
    assert_refused(issuer.verify(&made_up).await, Reason::TokenKeyUnknown, "issuer acme");
    assert_eq!(issuer.server.fetches(), before + 2);
}

#[tokio::test]
async fn a_call_that_goes_away_does_not_take_the_fetch_along() {
    let (old, new) = (SigningKey::es256("old"), SigningKey::es256("new"));
    let issuer = Discovered::new(&[&old]).await;
    issuer.server.publish(&jwks(&[&old, &new]));
    issuer.server.hold().await;
    let token = issuer.token(&new);
    tokio::select! {
        _ = issuer.verifier.verify(&token) => panic!("nothing was fetched yet"),
        () = issuer.server.held() => {}
    }
    issuer.server.release();
    assert!(issuer.verify(&new).await.is_ok());
}

#[tokio::test]
async fn an_issuer_that_hangs_holds_up_new_keys_only_and_these_within_bounds() {
    let (key, new) = (SigningKey::es256("one"), SigningKey::es256("new"));
    let issuer = Discovered::new(&[&key]).await;
    issuer.server.hold().await;
    let waiting = {
        let (verifier, token) = (Arc::clone(&issuer.verifier), issuer.token(&new));
        tokio::spawn(async move { verifier.verify(&token).await })
    };
    issuer.server.held().await;
    assert!(issuer.verify(&key).await.is_ok());
    assert!(!waiting.is_finished());
    assert_refused(waiting.await.unwrap(), Reason::TokenKeyUnknown, "\"new\"");
    issuer.server.release();
}

#[tokio::test]
async fn a_withdrawn_key_ends_the_tokens_that_it_signed_kept_ones_too() {
    let (old, new) = (SigningKey::es256("old"), SigningKey::es256("new"));
    let issuer = Discovered::new(&[&old, &new]).await;
    let (first, second) = (issuer.token(&old), issuer.token(&new));
    let withdrawn = issuer.verifier.verify(&first).await.unwrap();
    let kept = issuer.verifier.verify(&second).await.unwrap();
    let mut changes = issuer.verifier.key_changes();
    changes.mark_unchanged();
    issuer.server.publish(&[&new.jwk]);
    issuer.verifier.refresh().await;
    assert!(changes.has_changed().unwrap(), "open streams were not told");
    assert_refused(issuer.verifier.recheck(&withdrawn).map(|()| withdrawn), Reason::TokenKeyUnknown, "withdrawn");
    assert!(issuer.verifier.recheck(&kept).is_ok());
    assert_refused(issuer.verifier.verify(&first).await, Reason::TokenKeyUnknown, "\"old\"");
    assert!(Arc::ptr_eq(&kept, &issuer.verifier.verify(&second).await.unwrap()), "it was verified anew");
}

#[tokio::test]
async fn a_key_replaced_under_its_name_ends_the_tokens_of_the_first() {
    let (first, second) = (SigningKey::es256("one"), SigningKey::es256("one"));
    let issuer = Discovered::new(&[&first]).await;
    let token = issuer.token(&first);
    issuer.verifier.verify(&token).await.unwrap();
    issuer.server.publish(&[&second.jwk]);
    issuer.verifier.refresh().await;
    assert_refused(issuer.verifier.verify(&token).await, Reason::TokenSignature, "does not verify");
    assert!(issuer.verify(&second).await.is_ok());
}

#[tokio::test]
async fn good_keys_outlive_every_fault_and_are_never_replaced_by_none() {
    let key = SigningKey::es256("one");
    let issuer = Discovered::new(&[&key]).await;
    let faults = [
        (Fault::Error, "500"),
        (Fault::Redirect, "302"),
        (Fault::Oversize, "larger than 1 MiB"),
        (Fault::Garbage, "unreadable"),
        (Fault::Truncated, "unreadable"),
    ];
    for (fault, says) in faults {
        issuer.server.fail(Some(fault));
        issuer.verifier.refresh().await;
        assert!(issuer.problem().contains(says), "{}", issuer.problem());
        assert!(issuer.verify(&key).await.is_ok(), "{says}");
    }
    issuer.server.fail(None);
    assert_eq!(issuer.server.strays(), 0, "a redirect was followed");
    for (set, says) in [
        (json!({ "keys": [] }).to_string(), "no key"),
        (json!({}).to_string(), "no array"),
        (json!({ "keys": {} }).to_string(), "no array"),
        (json!({ "keys": [{ "kty": "oct", "k": "AAAA", "kid": "one" }] }).to_string(), "key type"),
        (r#"{"keys":[],"keys":[]}"#.to_owned(), "unreadable"),
        (json!({ "keys": vec![&key.jwk; 65] }).to_string(), "more than 64"),
    ] {
        issuer.server.publish_text(&set);
        issuer.verifier.refresh().await;
        assert!(issuer.problem().contains(says), "{}", issuer.problem());
        assert!(issuer.verify(&key).await.is_ok(), "{says}");
    }
    issuer.server.publish(&[&key.jwk]);
    issuer.verifier.refresh().await;
    assert_eq!(issuer.problem(), "");
}

#[tokio::test]
async fn the_last_good_keys_end_at_their_hard_age_for_kept_tokens_too() {
    let key = SigningKey::es256("one");
    let issuer = Discovered::new(&[&key]).await;
    issuer.server.fail(Some(Fault::Error));
    issuer.verifier.refresh().await;
    issuer.clock.advance(Duration::from_secs(24 * 3600 - 1));
    let token = issuer.token(&key);
    let kept = issuer.verifier.verify(&token).await.unwrap();
    issuer.clock.advance(Duration::from_secs(1));
    assert_refused(issuer.verifier.verify(&token).await, Reason::IssuerKeysUnavailable, "no good copy");
    assert_eq!(issuer.verifier.recheck(&kept).unwrap_err().reason(), Reason::IssuerKeysUnavailable);
    assert!(!issuer.verifier.status()[0].usable);
    issuer.server.fail(None);
    issuer.verifier.refresh().await;
    assert!(issuer.verifier.verify(&token).await.is_ok());
}

#[tokio::test]
async fn believes_a_discovery_document_for_exactly_the_configured_issuer_only() {
    let key = SigningKey::es256("one");
    for (member, value, says) in [
        ("issuer", json!("https://issuer.test"), "another issuer"),
        ("issuer", json!(null), "another issuer"),
        ("jwks_uri", json!("http://127.0.0.1:1/keys"), "not an https URL"),
        ("jwks_uri", json!("file:///etc/keys"), "not an https URL"),
        ("jwks_uri", json!("https://user:pass@127.0.0.1/keys"), "not an https URL"),
        ("jwks_uri", json!(null), "not an https URL"),
    ] {
        let issuer = Discovered::new(&[&key]).await;
        assert!(issuer.verify(&key).await.is_ok());
        issuer.server.discover(member, value);
        issuer.verifier.refresh().await;
        assert!(issuer.problem().contains(says), "{}", issuer.problem());
    }
}

#[tokio::test]
async fn follows_the_discovery_document_to_another_host() {
    let key = SigningKey::es256("one");
    let issuer = Discovered::new(&[&key]).await;
    let elsewhere = KeyServer::start().await;
    elsewhere.publish(&[&key.jwk]);
    // Signed by another CA, so it is reached and not trusted.
    issuer.server.discover("jwks_uri", json!(format!("{}/keys", elsewhere.url)));
    issuer.verifier.refresh().await;
    assert!(issuer.problem().contains(&elsewhere.url), "{}", issuer.problem());
    assert_eq!(elsewhere.fetches(), 0);
}

#[tokio::test]
async fn trusts_no_server_but_those_of_the_configured_roots() {
    let key = SigningKey::es256("one");
    let (server, other) = (KeyServer::start().await, KeyServer::start().await);
    server.publish(&[&key.jwk]);
    for ca in [Some(other.ca.clone()), None] {
        let settings = IssuerSettings { url: server.url.clone(), ..settings(KeySource::Discovery { ca }) };
        let verifier = TokenVerifier::start(vec![settings], ManualClock::new()).await.unwrap();
        verifier.refresh().await;
        let status = &verifier.status()[0];
        assert!(!status.usable && status.problem.as_ref().unwrap().contains("cannot be fetched"), "{status:?}");
    }
    assert_eq!(server.fetches(), 0);
}

#[tokio::test]
async fn leaves_unusable_keys_aside_and_says_why() {
    let good = SigningKey::es256("good");
    let issuer = Discovered::new(&[
        &SigningKey::es256("enc").published_with("use", json!("enc")),
        &SigningKey::es256("ops").published_with("key_ops", json!(["sign"])),
        &SigningKey::es256("leaked").published_with("d", json!("AAAA")),
        &SigningKey::es256("alg").published_with("alg", json!("ES384")),
        &SigningKey::es256("type").published_with("kty", json!("AKP")),
        &SigningKey::es256("point").published_with("y", json!("A".repeat(43))),
        &SigningKey::es256("short").published_with("x", json!("AAAA")),
        &good,
    ])
    .await;
    assert!(issuer.verify(&good).await.is_ok());
    let unusable = issuer.verifier.status()[0].unusable_keys.join("\n");
    for says in [
        "\"enc\": published for another use",
        "\"ops\": published for another use",
        "\"leaked\": published together with its private part",
        "\"alg\": published for an algorithm",
        "\"type\": a key type",
        "\"point\": not a point",
        "\"short\": not a point",
    ] {
        assert!(unusable.contains(says), "{unusable}");
    }
}

#[tokio::test]
async fn tries_the_keys_that_share_a_name_up_to_a_bound() {
    let keys: Vec<_> = (0..5).map(|_| SigningKey::es256("same")).collect();
    let rsa = SigningKey::new("same", Algorithm::Rs256);
    let issuer = Discovered::new(&[&rsa, &keys[0], &keys[1], &keys[2], &keys[3], &keys[4]]).await;
    assert!(issuer.verify(&rsa).await.is_ok());
    assert!(issuer.verify(&keys[3]).await.is_ok());
    assert_refused(issuer.verify(&keys[4]).await, Reason::TokenSignature, "does not verify");
}

#[tokio::test]
async fn a_token_that_names_no_key_needs_exactly_one_that_fits() {
    let (ec, rsa, second) =
        (SigningKey::es256("one"), SigningKey::new("two", Algorithm::Rs256), SigningKey::es256("three"));
    let issuer = Discovered::new(&[&ec, &rsa]).await;
    let mut payload = payload();
    payload["iss"] = issuer.server.url.as_str().into();
    let unnamed =
        |key: &SigningKey| key.sign_text(&json!({ "alg": key.algorithm.name() }).to_string(), &payload.to_string());
    assert!(issuer.verifier.verify(&unnamed(&ec)).await.is_ok());
    assert!(issuer.verifier.verify(&unnamed(&rsa)).await.is_ok());
    issuer.server.publish(&jwks(&[&ec, &rsa, &second]));
    issuer.verifier.refresh().await;
    assert_refused(issuer.verifier.verify(&unnamed(&second)).await, Reason::TokenKeyUnknown, "names no key");
}

#[tokio::test]
async fn pinned_keys_are_read_again_and_a_bad_file_at_the_start_is_a_mistake() {
    let issuer = Pinned::new().await;
    let second = SigningKey::es256("two");
    publish(issuer.files.path(), &[&second.jwk]);
    issuer.verifier.refresh().await;
    assert!(issuer.verifier.verify(&second.sign(&payload())).await.is_ok());
    std::fs::write(issuer.files.path().join("keys.json"), "{}").unwrap();
    issuer.verifier.refresh().await;
    assert!(issuer.verifier.verify(&second.sign(&payload())).await.is_ok(), "the last good keys were given up");
    for path in [issuer.files.path().join("keys.json"), issuer.files.path().join("absent.json")] {
        let outcome = TokenVerifier::start(vec![settings(KeySource::Pinned(path))], ManualClock::new()).await;
        assert!(outcome.unwrap_err().to_string().contains("pinned"));
    }
}

#[tokio::test]
async fn its_tasks_end_with_it() {
    let key = SigningKey::es256("one");
    let issuer = Discovered::new(&[&key]).await;
    let issuers = issuer.verifier.status().len();
    assert_eq!(issuers, 1);
    issuer.verifier.stop().await;
    let before = issuer.server.fetches();
    issuer.verifier.refresh().await;
    assert_eq!(issuer.server.fetches(), before);
    assert!(issuer.verify(&key).await.is_ok());
}
