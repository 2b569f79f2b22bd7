//! What verification costs; run on a release build with `--ignored --nocapture`.

use super::signing::SigningKey;
use super::*;

/// The size of an access token of Entra ID, with roles.
fn usual_payload(number: usize) -> Value {
    let mut payload = payload();
    let id = "7d1c1f6e-3f53-4d0e-9c1b-2a4f8f3a5b60";
    for claim in ["aio", "appid", "idp", "oid", "rh", "tid", "uti", "ver", "azp", "azpacr", "appidacr", "xms_ftd"] {
        payload[claim] = id.into();
    }
    payload["xms_mirid"] = "/subscriptions/7d1c1f6e/resourcegroups/shop/providers/Microsoft.Compute/vm/cart".into();
    payload["roles"] = json!(["secrets.read", "tokens.mint", "rotations.watch"]);
    payload["jti"] = number.into();
    payload
}

#[tokio::test]
#[ignore = "a measurement"]
async fn prints_what_verification_costs() {
    for algorithm in [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::EdDsa] {
        let issuer = Pinned::with(SigningKey::new("one", algorithm), |_| {}).await;
        let tokens: Vec<_> = (0..200).map(|number| issuer.key.sign(&usual_payload(number))).collect();
        let cold = per_round(20, || {
            for token in &tokens {
                assert!(issuer.verifier.check(token).is_ok());
            }
        }) / 200;
        for token in &tokens {
            issuer.verify(token).await.unwrap();
        }
        let start = SystemClock.monotonic();
        for _ in 0..1000 {
            for token in &tokens {
                issuer.verify(token).await.unwrap();
            }
        }
        let warm = start.elapsed() / 200_000;
        let (count, bytes) = issuer.verifier.cached_tokens();
        println!(
            "{algorithm}: token {} bytes, cold {cold:?}, warm {warm:?}, kept {} bytes each",
            tokens[0].len(),
            bytes / count
        );
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn prints_what_kept_tokens_take() {
    const TOKENS: usize = 30_000;
    let issuer = Pinned::with(SigningKey::new("one", Algorithm::EdDsa), |_| {}).await;
    issuer.verify(&issuer.key.sign(&usual_payload(TOKENS))).await.unwrap();
    let before = resident();
    for number in 0..TOKENS {
        issuer.verify(&issuer.key.sign(&usual_payload(number))).await.unwrap();
    }
    let (count, bytes) = issuer.verifier.cached_tokens();
    println!("{count} tokens: {} bytes each by account, {} resident", bytes / count, (resident() - before) / TOKENS);
}

fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn per_round(rounds: u32, work: impl Fn()) -> Duration {
    let start = SystemClock.monotonic();
    for _ in 0..rounds {
        work();
    }
    start.elapsed() / rounds
}
