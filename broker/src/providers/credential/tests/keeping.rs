//! The supervisor, over a source that does as it is told and on a clock that runs as fast as nobody waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};

use super::super::*;
use super::{HOUR, TestClock};

#[derive(Default)]
struct Script {
    /// What comes next; when it is used up, `then`.
    steps: Mutex<VecDeque<Step>>,
    then: Mutex<Step>,
    asked: AtomicU64,
}

#[derive(Clone, Copy, Default)]
enum Step {
    #[default]
    Token,
    Refuse,
    Fail,
    Hang,
}

struct Scripted(Arc<Script>, Arc<TestClock>);

impl TokenSource for Scripted {
    fn chain(&self) -> Vec<&'static str> {
        vec!["sts"]
    }

    fn obtain<'a>(&'a self, scope: &'a str) -> BoxFuture<'a, Result<Token, Broken>> {
        Box::pin(async move {
            let count = self.0.asked.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let next = self.0.steps.lock().unwrap().pop_front();
            let step = next.unwrap_or(*self.0.then.lock().unwrap());
            match step {
                Step::Token => {
                    let expires = crate::clock::Clock::now(&*self.1).plus(HOUR);
                    Ok(Token::new(format!("{scope}-{count}"), expires, Some("me".into())))
                }
                Step::Refuse => Err(Broken::lasting("sts", "the audience is wrong")),
                Step::Fail => Err(Broken::passing("sts", "answers 503")),
                Step::Hang => std::future::pending().await,
            }
        })
    }
}

struct World {
    credential: Arc<Credential>,
    script: Arc<Script>,
    clock: Arc<TestClock>,
}

impl World {
    fn new(steps: &[Step]) -> Self {
        let (script, clock) = (Arc::new(Script::default()), TestClock::new());
        script.steps.lock().unwrap().extend(steps);
        let make = {
            let (script, clock) = (Arc::clone(&script), Arc::clone(&clock));
            move || Arc::new(Scripted(Arc::clone(&script), Arc::clone(&clock))) as Arc<dyn TokenSource>
        };
        let credential = Credential::over("google", make(), Box::new(move || Ok(make())), clock.shared());
        Self { credential, script, clock }
    }

    async fn token(&self) -> Result<Token, Failure> {
        self.credential.token("s").await
    }

    async fn value(&self) -> String {
        self.token().await.unwrap_or_else(|failure| panic!("{failure}")).value().to_owned()
    }

    fn then(&self, step: Step) {
        *self.script.then.lock().unwrap() = step;
    }

    fn asked(&self) -> u64 {
        self.script.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_share_one_request() {
    let world = World::new(&[]);
    let tokens = join_all((0..1000).map(|_| world.token())).await;
    assert!(tokens.into_iter().all(|token| token.is_ok_and(|token| token.value() == "s-1")));
    assert_eq!(world.asked(), 1);
    assert_eq!(world.credential.token("other").await.unwrap().value(), "other-2");
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_well_before_its_end_and_without_a_caller() {
    let world = World::new(&[]);
    world.credential.keep("s").unwrap();
    tokio::time::sleep(HOUR.mul_f64(0.69)).await;
    assert_eq!(world.asked(), 1);
    tokio::time::sleep(HOUR.mul_f64(0.12)).await;
    assert_eq!((world.asked(), world.value().await), (2, "s-2".to_owned()));
    tokio::time::sleep(HOUR * 100).await;
    assert!((125..=145).contains(&world.asked()), "{}", world.asked());
}

#[tokio::test(start_paused = true)]
async fn one_400_costs_a_failure_and_heals_without_a_restart() {
    let world = World::new(&[Step::Refuse]);
    let failure = world.token().await.err().unwrap();
    assert_eq!(failure.reason(), Reason::ProviderCredential);
    assert_eq!(failure.message(), "the broker's credential \"google\" broke at sts: the audience is wrong");
    let status = world.credential.status();
    assert_eq!((status.health, status.rebuilds, status.failures), (CredentialHealth::Unhealthy, 1, 1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.value().await, "s-2");
    let status = world.credential.status();
    assert_eq!(
        (status.health, status.broken, status.subject.as_deref()),
        (CredentialHealth::Healthy, None, Some("me"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_first_call_waits_over_a_failure_that_passes() {
    let world = World::new(&[Step::Fail, Step::Fail]);
    assert_eq!(world.value().await, "s-3");
}

#[tokio::test(start_paused = true)]
async fn the_last_good_token_serves_as_long_as_it_lives() {
    let world = World::new(&[Step::Token]);
    world.then(Step::Refuse);
    assert_eq!(world.value().await, "s-1");
    tokio::time::sleep(HOUR.mul_f64(0.99)).await;
    assert_eq!(world.value().await, "s-1");
    let status = world.credential.status();
    assert_eq!((status.health, status.broken.unwrap().link), (CredentialHealth::Degraded, "sts"));
    tokio::time::sleep(HOUR.mul_f64(0.01)).await;
    assert!(world.token().await.is_err());
    assert_eq!(world.credential.status().health, CredentialHealth::Unhealthy);
    world.then(Step::Token);
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert!(world.token().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_broken_chain_is_tried_for_ever_at_a_pace() {
    let world = World::new(&[]);
    world.then(Step::Refuse);
    world.credential.keep("s").unwrap();
    tokio::time::sleep(HOUR * 24).await;
    // Once in 24 to 36 seconds, and callers do not hurry it.
    assert!((2_300..=3_700).contains(&world.asked()), "{}", world.asked());
    let before = world.asked();
    for _ in 0..1000 {
        assert!(world.token().await.is_err());
    }
    assert!(world.asked() <= before + 1);
    assert_eq!(u64::from(world.credential.status().rebuilds), world.credential.status().failures);
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_five_seconds_and_no_attempt_hangs_for_ever() {
    let world = World::new(&[Step::Hang]);
    let begun = tokio::time::Instant::now();
    let failure = world.token().await.err().unwrap();
    assert_eq!((begun.elapsed().as_secs(), failure.reason()), (5, Reason::ProviderCredential));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.value().await, "s-2");
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_replaced_once_in_a_while() {
    let world = World::new(&[]);
    let first = world.token().await.unwrap();
    for _ in 0..10 {
        world.credential.refused("s", &first);
    }
    let second = world.token().await.unwrap();
    assert_eq!((second.value(), world.asked()), ("s-2", 2));
    // The old one again, and the new one too soon: neither asks for more.
    world.credential.refused("s", &first);
    world.credential.refused("s", &second);
    assert_eq!((world.value().await, world.asked()), ("s-2".to_owned(), 2));
    tokio::time::sleep(Duration::from_secs(31)).await;
    world.credential.refused("s", &second);
    assert_eq!(world.value().await, "s-3");
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_serves_on_where_no_other_can_be_had() {
    let world = World::new(&[Step::Token]);
    world.then(Step::Refuse);
    let first = world.token().await.unwrap();
    world.credential.refused("s", &first);
    assert_eq!(world.value().await, "s-1");
}

#[tokio::test(start_paused = true)]
async fn one_stores_refusals_slow_no_other_store_while_no_token_can_be_had() {
    let world = World::new(&[Step::Token]);
    world.then(Step::Fail);
    let token = world.token().await.unwrap();
    world.credential.refused("s", &token);
    assert_eq!(world.value().await, "s-1");
    let begun = tokio::time::Instant::now();
    for _ in 0..100 {
        // Further on than the interval between the renewals that refusals ask for.
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.credential.refused("s", &token);
        assert_eq!(world.value().await, "s-1");
    }
    assert_eq!(begun.elapsed().as_secs(), 100, "callers waited");
}

#[tokio::test(start_paused = true)]
async fn a_credential_whose_token_is_refused_is_not_called_healthy() {
    let world = World::new(&[]);
    for expected in ["s-1", "s-2", "s-2"] {
        let token = world.token().await.unwrap();
        assert_eq!(token.value(), expected);
        world.credential.refused("s", &token);
        assert_eq!(world.credential.status().health, CredentialHealth::Degraded);
    }
    tokio::time::sleep(Duration::from_secs(31)).await;
    world.credential.refused("s", &world.token().await.unwrap());
    assert_eq!(world.value().await, "s-3");
    assert_eq!(world.credential.status().health, CredentialHealth::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_makes_a_token_no_older_and_no_younger_than_is_safe() {
    let world = World::new(&[]);
    assert_eq!(world.value().await, "s-1");
    world.clock.set_wall_by(2 * 3600);
    assert_eq!(world.value().await, "s-2");
    world.clock.set_wall_by(-4 * 3600);
    assert_eq!(world.value().await, "s-2");
    world.then(Step::Fail);
    tokio::time::sleep(HOUR).await;
    assert!(world.token().await.is_err(), "the wall clock says that it lives for hours");
}

#[tokio::test(start_paused = true)]
async fn scopes_are_bounded_and_end_with_the_credential() {
    let world = World::new(&[]);
    for scope in 0..MAX_SCOPES {
        world.credential.keep(&scope.to_string()).unwrap();
    }
    assert!(world.credential.keep("one more").is_err());
    world.credential.stop().await;
    let asked = world.asked();
    tokio::time::sleep(HOUR).await;
    assert_eq!(world.asked(), asked);
}
