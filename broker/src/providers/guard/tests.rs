//! On tokio's paused time, which the guard's clock follows: hours pass in milliseconds, and to the nanosecond.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{advance, sleep, timeout};

use super::*;
use crate::clock::Clock;
use crate::error::Detail;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn ten_thousand_keys_at_a_hundred_a_second_stay_within_the_budget_and_are_served_in_order() {
    let world = World::new(settings(100, SECOND, 2 * MINUTE));
    let mut tasks = JoinSet::new();
    for key in 0..10_000 {
        let world = world.clone();
        tasks.spawn(async move { world.read(key).await });
    }
    assert!(tasks.join_all().await.iter().all(Result::is_ok));
    let sent = world.sent();
    assert!(sent.iter().map(|(key, _)| *key).eq(0..10_000), "served out of order");
    within_budget(&sent, 100, SECOND);
    assert_eq!(sent.last().unwrap().1 - sent[0].1, 99 * SECOND, "the budget was not used to the full");
    assert_eq!(world.guard.lock().queues[0].refused, 0);
}

#[tokio::test(start_paused = true)]
async fn whatever_comes_and_goes_no_window_is_over_budget_and_no_turn_is_lost() {
    for seed in 1..=60 {
        let mut random = Random(seed);
        let (limit, window) = (1 + random.below(20) as u32, Duration::from_millis(1 + random.below(3_000)));
        let world = World::new(settings(limit, window, MINUTE));
        let (served, mut tasks) = (Arc::new(Mutex::new(Vec::new())), JoinSet::new());
        for key in 0..300 {
            sleep(Duration::from_millis(random.below(2) * random.below(400))).await;
            let (world, served) = (world.clone(), Arc::clone(&served));
            let leaves = Duration::from_millis(random.below(4_000));
            let impatient = random.below(3) == 0;
            let throttled = random.below(50) == 0;
            tasks.spawn(async move {
                let call = world.guard.call(Operation::Access, "db", || {
                    world.note(key);
                    let wait = Duration::from_secs(throttled.into());
                    async move { if throttled { Err(throttle(wait)) } else { Ok(()) } }
                });
                let gone = impatient && timeout(leaves, call).await.is_err();
                if !gone {
                    served.lock().unwrap().push(key);
                }
            });
            // So that it asks before the next one comes.
            tokio::task::yield_now().await;
        }
        tasks.join_all().await;
        within_budget(&world.sent(), limit, window);
        assert_eq!(world.guard.lock().queues[0].waiting, 0, "seed {seed}");
        advance(10 * MINUTE).await;
        let account = world.guard.account();
        assert_eq!((account.ledger[0].left(), account.ledger[0].forecast), (limit.into(), 0), "seed {seed}");
        for key in 0..limit {
            let now = world.now();
            world.read(1_000 + key).await.unwrap();
            assert_eq!(world.now(), now, "seed {seed}: a turn was lost");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_beyond_patience_is_refused_at_once_with_the_time_that_it_takes() {
    let world = World::new(settings(10, MINUTE, 5 * SECOND));
    for key in 0..10 {
        world.read(key).await.unwrap();
    }
    sleep(20 * SECOND).await;
    let asked = world.now();
    let refusal = world.read(10).await.unwrap_err();
    assert_eq!((refusal.reason(), wait(&refusal), world.now()), (Reason::ProviderBudgetExhausted, 40 * SECOND, asked));
    assert!(refusal.message().contains("10 access requests in 60s") && refusal.message().contains("access_budget"));
    assert_eq!(world.guard.account().ledger[0].refused, 1);
    // Another class has a budget of its own.
    world.guard.call(Operation::Metadata, "db", || async { Ok(()) }).await.unwrap();

    sleep(36 * SECOND).await;
    world.read(11).await.unwrap();
    assert_eq!(world.now() - asked, 40 * SECOND, "waited for its turn");
}

#[tokio::test(start_paused = true)]
async fn waiters_that_leave_give_their_turns_on() {
    let world = World::new(settings(1, SECOND, MINUTE));
    world.read(0).await.unwrap();
    let waiting: Vec<_> = (1..=20)
        .map(|key| {
            let world = world.clone();
            tokio::spawn(async move { world.read(key).await })
        })
        .collect();
    tokio::task::yield_now().await;
    assert_eq!(world.guard.account().ledger[0].used, 1);
    let began = world.now();
    for (key, task) in waiting.iter().enumerate() {
        // The head of the queue, some in the middle, and all but one at the end.
        if key != 5 {
            task.abort();
        }
    }
    for (key, task) in waiting.into_iter().enumerate() {
        assert_eq!(task.await.is_ok(), key == 5);
    }
    assert_eq!(world.now() - began, SECOND, "the one that stayed got the next turn");
    assert_eq!(world.guard.lock().queues[0].waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured_by_the_call_itself_and_by_all_that_come_meanwhile() {
    let world = World::new(settings(100, SECOND, MINUTE));
    let (began, tries) = (world.now(), AtomicU32::new(0));
    let first = world.guard.call(Operation::Access, "db", || {
        world.note(0);
        let first = tries.fetch_add(1, Ordering::Relaxed) == 0;
        async move { if first { Err(throttle(7 * SECOND)) } else { Ok(()) } }
    });
    let others = async {
        sleep(SECOND).await;
        world.guard.call(Operation::Metadata, "db", || async { Ok(()) }).await.unwrap();
        assert_eq!(world.now() - began, SECOND, "another class is not held up");
        world.read(1).await.unwrap();
    };
    let (first, ()) = tokio::join!(first, others);
    first.unwrap();
    let late: Vec<_> = world.sent()[1..].iter().map(|(_, at)| *at - began).collect();
    assert!(late.len() == 2 && late.iter().all(|at| *at >= 7 * SECOND && *at < 8 * SECOND), "{late:?}");
    let entry = &world.guard.account().ledger[0];
    assert_eq!((entry.throttled, entry.refused, world.guard.account().retries), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_pause_beyond_patience_is_told_to_whoever_asks() {
    let world = World::new(settings(100, SECOND, 5 * SECOND));
    let throttled = world.guard.call(Operation::Access, "db", || {
        world.note(0);
        async { Err::<(), _>(throttle(MINUTE)) }
    });
    assert_eq!(wait(&throttled.await.unwrap_err()), MINUTE);
    let refusal = world.read(1).await.unwrap_err();
    assert_eq!(refusal.reason(), Reason::ProviderThrottled);
    assert!(wait(&refusal) >= MINUTE && wait(&refusal) <= MINUTE + 6 * SECOND);
    assert_eq!(world.sent().len(), 1);
    assert!(world.guard.account().ledger[0].paused.is_some());
    sleep(wait(&refusal)).await;
    world.read(2).await.unwrap();

    // No header shuts a store for a year.
    let _ = world.guard.once(Operation::Access, "db", async { Err::<(), _>(throttle(MINUTE * 525_600)) }).await;
    assert!(wait(&world.read(3).await.unwrap_err()) <= 6 * MINUTE);
}

#[tokio::test(start_paused = true)]
async fn throttled_without_a_time_it_pauses_for_longer_each_time_in_a_row() {
    let world = World::new(settings(100, SECOND, SECOND / 10));
    let throttled = || async { Err::<(), _>(Failure::new(Reason::ProviderThrottled, "slow down")) };
    for longest in [1, 2, 4, 8, 16, 30, 30] {
        // Those that were under way together are one throttling.
        let many = (0..20).map(|_| world.guard.once(Operation::Access, "db", throttled()));
        futures_util::future::join_all(many).await;
        let pause = wait(&world.read(0).await.unwrap_err());
        assert!(pause >= longest * SECOND / 2 && pause <= longest * SECOND, "{pause:?} of {longest} s");
        sleep(pause).await;
    }
    world.read(0).await.unwrap();
    let _ = world.guard.once(Operation::Access, "db", throttled()).await;
    assert!(wait(&world.read(0).await.unwrap_err()) <= SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_outage_opens_the_circuit_and_one_probe_at_a_time_finds_its_end() {
    let world = World::new(settings(1_000, SECOND, 5 * SECOND));
    let mut opened = Duration::ZERO;
    for round in 0..8 {
        world.fail_until_open().await;
        let refusal = world.read(0).await.unwrap_err();
        assert_eq!(refusal.reason(), Reason::CircuitOpen);
        opened = wait(&refusal);
        let longest = (1 << round).min(30) * SECOND;
        assert!(opened >= longest / 2 && opened <= longest, "{opened:?} of {longest:?}");
        let account = world.guard.account();
        assert_eq!(account.circuit, Circuit::Open { retry: world.guard.clock.now().plus(opened) });
        assert_eq!(account.failure.unwrap().reason, Reason::ProviderUnavailable);
        let before = world.sent().len();
        sleep(opened - Duration::from_millis(1)).await;
        assert_eq!(world.read(0).await.unwrap_err().reason(), Reason::CircuitOpen);
        assert_eq!(world.sent().len(), before, "nothing goes out while it is open");
        sleep(Duration::from_millis(1)).await;
    }
    assert!(opened >= 15 * SECOND);
    assert_eq!(world.guard.account().circuit, Circuit::HalfOpen);

    // A thousand come the moment it may be tried again; the provider takes a second to answer.
    let before = world.sent().len();
    let calls = (0..1_000).map(|key| {
        let world = world.clone();
        async move {
            let request = world.guard.once(Operation::Access, "db", async {
                world.note(key);
                sleep(SECOND).await;
                Ok(())
            });
            request.await
        }
    });
    let outcomes = futures_util::future::join_all(calls).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert_eq!(world.sent().len() - before, 1, "a single probe");
    assert_eq!(world.guard.account().circuit, Circuit::Closed);
    world.read(0).await.unwrap();
    assert!(world.guard.account().failure.is_none());
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_when_the_circuit_opens_are_told_and_do_not_rush_in_when_it_closes() {
    let world = World::new(settings(10, SECOND, MINUTE));
    let down = Arc::new(AtomicUsize::new(1));
    let mut tasks = JoinSet::new();
    for key in 0..500 {
        let (world, down) = (world.clone(), Arc::clone(&down));
        tasks.spawn(async move {
            loop {
                let request = world.guard.once(Operation::Access, about(key), async {
                    world.note(key);
                    if down.load(Ordering::Relaxed) == 1 { Err(silence()) } else { Ok(()) }
                });
                match request.await {
                    Ok(()) => break,
                    Err(failure) => sleep(retry_after(&failure).unwrap_or(SECOND)).await,
                }
            }
        });
    }
    sleep(MINUTE).await;
    let during = world.sent().len();
    assert!(during < 25, "{during} requests in a minute of outage, from 500 callers who ask as told");
    down.store(0, Ordering::Relaxed);
    let back = world.now();
    tasks.join_all().await;
    within_budget(&world.sent(), 10, SECOND);
    assert!(world.now() - back < 2 * MINUTE, "{:?}", world.now() - back);
}

#[tokio::test(start_paused = true)]
async fn what_is_an_answer_or_our_own_trouble_does_not_open_the_circuit() {
    let world = World::new(settings(1_000, SECOND, SECOND));
    let no_outage = [
        Reason::SecretNotFound,
        Reason::VersionDisabled,
        Reason::ProviderDenied,
        Reason::ProviderCredential,
        Reason::PayloadCorrupt,
    ];
    for reason in no_outage {
        for key in 0..20 {
            let outcome =
                world.guard.call(Operation::Access, about(key), || async { Err::<(), _>(Failure::new(reason, "no")) });
            assert_eq!(outcome.await.unwrap_err().reason(), reason);
        }
    }
    let account = world.guard.account();
    assert_eq!((account.circuit, account.retries), (Circuit::Closed, 0));
    // An answer between two silences ends the row.
    for _ in 0..10 {
        for key in 0..4 {
            world.guard.once(Operation::Access, about(key), async { Err::<(), _>(silence()) }).await.unwrap_err();
        }
        let _ = world.guard.once(Operation::Access, "db", async { Err::<(), _>(denial()) }).await;
    }
    assert_eq!(world.guard.account().circuit, Circuit::Closed);
}

#[tokio::test(start_paused = true)]
async fn one_secret_that_never_answers_shuts_no_store_and_does_not_keep_it_shut() {
    let world = World::new(settings(1_000, SECOND, 5 * SECOND));
    let flapping = async || world.guard.once(Operation::Access, "flaps", async { Err::<(), _>(silence()) }).await;
    for _ in 0..100 {
        assert_eq!(flapping().await.unwrap_err().reason(), Reason::ProviderUnavailable);
    }
    assert_eq!(world.guard.account().circuit, Circuit::Closed);

    // An outage opens it. Whoever failed the probe gives way to the others at the next, and alone probes all the same.
    world.fail_until_open().await;
    sleep(SECOND).await;
    assert_eq!(flapping().await.unwrap_err().reason(), Reason::ProviderUnavailable);
    let others = wait(&world.read(0).await.unwrap_err());
    assert_eq!(wait(&flapping().await.unwrap_err()), others + SECOND);
    sleep(others + SECOND).await;
    assert_eq!(flapping().await.unwrap_err().reason(), Reason::ProviderUnavailable);
    sleep(wait(&world.read(0).await.unwrap_err())).await;
    assert_eq!(flapping().await.unwrap_err().reason(), Reason::CircuitOpen);
    world.read(0).await.unwrap();
    assert_eq!(world.guard.account().circuit, Circuit::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_abandoned_leaves_the_next_caller_to_probe() {
    let world = World::new(settings(1_000, SECOND, SECOND));
    world.fail_until_open().await;
    sleep(SECOND).await;
    let hangs = world.guard.once(Operation::Access, "db", std::future::pending::<Result<(), Failure>>());
    timeout(SECOND, hangs).await.unwrap_err();
    world.read(0).await.unwrap();
    assert_eq!(world.guard.account().circuit, Circuit::Closed);
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_before_the_circuit_changed_says_nothing_about_now() {
    let world = World::new(settings(1_000, SECOND, SECOND));
    let late = world.guard.once(Operation::Access, "db", async {
        sleep(3 * SECOND / 2).await;
        Err::<(), _>(silence())
    });
    let meanwhile = async {
        world.fail_until_open().await;
        sleep(SECOND).await;
        world.read(0).await.unwrap();
        for key in 0..4 {
            world.guard.once(Operation::Access, about(key), async { Err::<(), _>(silence()) }).await.unwrap_err();
        }
    };
    let (_, ()) = tokio::join!(late, meanwhile);
    assert_eq!(world.guard.account().circuit, Circuit::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_not_multiplied_by_retries() {
    // Every call comes when the circuit is closed or may be probed: the worst for the provider.
    let world = World::new(settings(90_000, MINUTE, MINUTE));
    let calls = 2_000;
    for key in 0..calls {
        let sent = world.sent().len();
        while world.sent().len() == sent {
            let outcome = world.guard.call(Operation::Access, about(key), || {
                world.note(key);
                async { Err::<(), _>(silence()) }
            });
            let failure = outcome.await.unwrap_err();
            if failure.reason() == Reason::CircuitOpen {
                sleep(wait(&failure)).await;
            }
        }
    }
    let factor = world.sent().len() as f64 / f64::from(calls);
    println!("requests per call in a total outage: {factor:.3}");
    assert!(factor < 1.01);

    // Every other request fails, so the circuit never opens.
    let world = World::new(settings(90_000, SECOND, MINUTE));
    let mut random = Random(7);
    let mut failed = 0;
    for key in 0..calls {
        let outcome = world.guard.call(Operation::Access, about(key), || {
            world.note(key);
            let fails = world.sent().len().is_multiple_of(2) && random.below(100) < 99;
            async move { if fails { Err(silence()) } else { Ok(()) } }
        });
        failed += usize::from(outcome.await.is_err());
    }
    let factor = world.sent().len() as f64 / f64::from(calls);
    println!("requests per call when half of them fail: {factor:.3}; calls failed: {failed}");
    assert!(factor > 1.03 && factor <= 1.105, "{factor}");
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_passes_is_tried_again_and_one_that_lasts_is_not() {
    let world = World::new(settings(100, SECOND, MINUTE));
    let tries = AtomicU32::new(0);
    let answer = world.guard.call(Operation::Access, "db", || {
        let attempt = tries.fetch_add(1, Ordering::Relaxed);
        async move { if attempt < 2 { Err(silence()) } else { Ok(attempt) } }
    });
    assert_eq!(answer.await.unwrap(), 2);
    assert_eq!(world.guard.account().ledger[0].used, 3, "retries are paid for");

    for (failure, expected) in [(silence as fn() -> Failure, 3), (denial, 1)] {
        tries.store(0, Ordering::Relaxed);
        let outcome = world.guard.call(Operation::Access, "db", || {
            tries.fetch_add(1, Ordering::Relaxed);
            async move { Err::<(), _>(failure()) }
        });
        assert_eq!(outcome.await.unwrap_err().reason(), failure().reason());
        assert_eq!(tries.load(Ordering::Relaxed), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_ends_in_time_and_a_write_is_never_sent_twice() {
    let world = World::new(settings(100, SECOND, MINUTE));
    let began = world.now();
    let hangs = world.guard.once(Operation::Write, "db", async {
        world.note(0);
        std::future::pending::<Result<(), Failure>>().await
    });
    let failure = hangs.await.unwrap_err();
    assert_eq!((failure.reason(), world.now() - began), (Reason::ProviderUnavailable, 10 * SECOND));
    assert!(failure.message().contains("within 10s") && failure.message().contains("may have been made"));
    assert_eq!(world.sent().len(), 1);
    let hangs = world.guard.call(Operation::Access, "db", std::future::pending::<Result<(), Failure>>);
    assert!(hangs.await.unwrap_err().message().contains("retry"));
    assert!(world.now() - began < 45 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_may_have_been_made_stays_in_doubt_whatever_its_repetition_meets() {
    for then in [denial(), throttle(SECOND)] {
        let world = World::new(settings(100, SECOND, MINUTE));
        let call = async |operation, mut says: Vec<Result<(), Failure>>| {
            world.guard.call(operation, "", || std::future::ready(says.pop().unwrap())).await
        };
        let retold = || Failure::new(then.reason(), "then");
        let says = || vec![Err(retold()), Err(retold()), Err(silence())];
        assert_eq!(call(Operation::Write, says()).await.unwrap_err().reason(), Reason::ProviderUnavailable);
        assert_eq!(call(Operation::Access, says()).await.unwrap_err().reason(), then.reason());
        assert!(call(Operation::Write, vec![Ok(()), Err(silence())]).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn the_ledger_tells_use_rest_and_forecast() {
    let world = World::new(settings(200, MINUTE, SECOND));
    // One a second is within the budget for ever.
    for key in 0..120 {
        world.read(key).await.unwrap();
        sleep(SECOND).await;
    }
    let entry = world.guard.account().ledger[0].clone();
    assert_eq!((entry.used, entry.left(), entry.requests), (59, 141, 120));
    assert!((56..=60).contains(&entry.forecast) && entry.exhausted.is_none(), "{entry:?}");
    // Four a second are not: 104 were made, 96 are left, and for each four that come one leaves the window.
    for key in 0..60 {
        world.read(key).await.unwrap();
        sleep(SECOND / 4).await;
    }
    let entry = world.guard.account().ledger[0].clone();
    assert!((236..=240).contains(&entry.forecast) && (103..=105).contains(&entry.used), "{entry:?}");
    let left = entry.exhausted.unwrap().since(world.guard.clock.now()).as_secs();
    assert!((31..=34).contains(&left), "{left}");
    let began = world.now();
    while world.guard.account().ledger[0].left() > 0 {
        world.read(0).await.unwrap();
        sleep(SECOND / 4).await;
    }
    let took = (world.now() - began).as_secs();
    assert!(took.abs_diff(left) <= 1, "foretold {left} s, was {took} s");
}

/// Never more than the limit in any window, wherever it begins.
#[track_caller]
fn within_budget(sent: &[(u32, Instant)], limit: u32, window: Duration) {
    for pair in sent.windows(limit as usize + 1) {
        let (first, last) = (pair[0].1, pair[limit as usize].1);
        assert!(last - first >= window, "{} requests within {:?}", limit + 1, last - first);
    }
}

fn settings(limit: u32, window: Duration, maximum_wait: Duration) -> GuardSettings {
    let budget = Budget { limit, window };
    GuardSettings { access: budget, metadata: budget, write: budget, maximum_wait, request_timeout: 10 * SECOND }
}

/// What the request is about.
fn about(key: u32) -> &'static str {
    ["a", "b", "c"][key as usize % 3]
}

fn silence() -> Failure {
    Failure::new(Reason::ProviderUnavailable, "nobody there")
}

fn denial() -> Failure {
    Failure::new(Reason::ProviderDenied, "no grant")
}

fn throttle(retry_after: Duration) -> Failure {
    Failure::new(Reason::ProviderThrottled, "slow down").retry_after(retry_after)
}

#[track_caller]
fn wait(failure: &Failure) -> Duration {
    retry_after(failure).unwrap_or_else(|| panic!("no time to retry after in {failure:?}"))
}

fn retry_after(failure: &Failure) -> Option<Duration> {
    match failure.detail() {
        Detail::RetryAfter(wait) => Some(*wait),
        Detail::None | Detail::Quota { .. } | Detail::BadField { .. } | Detail::Rotation(_) => None,
    }
}

/// A guard, and when which request was sent through it.
#[derive(Clone)]
struct World {
    guard: Arc<Guard>,
    sent: Arc<Mutex<Vec<(u32, Instant)>>>,
}

impl World {
    fn new(settings: GuardSettings) -> Self {
        let guard = Guard::new("stores/cloud".into(), settings, Arc::new(TokioClock));
        Self { guard, sent: Arc::default() }
    }

    async fn read(&self, key: u32) -> Result<(), Failure> {
        let request = || {
            self.note(key);
            async { Ok(()) }
        };
        self.guard.call(Operation::Access, "db", request).await
    }

    async fn fail_until_open(&self) {
        while !matches!(self.guard.account().circuit, Circuit::Open { .. }) {
            let sent = u32::try_from(self.sent().len()).unwrap();
            let failing = async {
                self.note(0);
                Err::<(), _>(silence())
            };
            self.guard.once(Operation::Access, about(sent), failing).await.unwrap_err();
        }
    }

    fn note(&self, key: u32) {
        self.sent.lock().unwrap().push((key, self.now()));
    }

    fn sent(&self) -> Vec<(u32, Instant)> {
        self.sent.lock().unwrap().clone()
    }

    fn now(&self) -> Instant {
        self.guard.clock.monotonic()
    }
}

/// Both clocks run with tokio's.
#[derive(Debug)]
struct TokioClock;

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let began = *BEGAN.get_or_init(|| self.monotonic());
        Timestamp::from_secs(1_800_000_000).plus(self.monotonic().saturating_duration_since(began))
    }

    fn monotonic(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
