//! Policies replaced under load: a decision is made by one version as a whole, and names it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::digest::Digest;

const SWAPS: usize = 1_000;
const DECISIONS: usize = 100_000;
const DECIDERS: usize = 8;
/// In force by turns, so that decisions of a version that comes back are in the cache.
const VERSIONS: usize = 20;
const SECRETS: [&str; 2] = ["a", "b"];

/// The one secret that a version allows; the next version allows the other.
fn allowed(version: usize) -> &'static str {
    SECRETS[version % 2]
}

fn version(number: usize) -> Arc<Policies> {
    // One looks at the call itself, which keeps its decisions out of the cache.
    let condition = if number == 0 { "when { context.peer.isLoopback() }" } else { "" };
    let (allowed, other) = (allowed(number), allowed(number + 1));
    let text = format!(
        r#"@id("v{number}")
        permit (principal, action, resource == Keyferry::Secret::"stores/s/secrets/{allowed}") {condition};
        forbid (principal, action, resource == Keyferry::Secret::"stores/s/secrets/{other}");"#
    );
    Arc::new(policies(&text).unwrap())
}

#[test]
fn of_100_000_decisions_during_1_000_swaps_each_is_the_word_of_one_version() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("test.cedar"), "permit (principal, action, resource);").unwrap();
    let gate = Gate::new(
        PolicyStore::open(directory.path().to_owned(), Arc::new(SystemClock)).unwrap(),
        Quota::new(settings(), Arc::new(SystemClock)),
    );
    let versions: Vec<_> = (0..VERSIONS).map(version).collect();
    let numbers: HashMap<Digest, usize> = versions.iter().map(|version| version.hash()).zip(0..).collect();
    assert_eq!(numbers.len(), VERSIONS);
    gate.policies().replace(Arc::clone(&versions[0]));
    let (made, swapped) = (AtomicUsize::new(0), AtomicUsize::new(0));

    thread::scope(|scope| {
        let (tick, ticks) = mpsc::channel();
        for decider in 0..DECIDERS {
            let (gate, numbers, made, swapped, tick) = (&gate, &numbers, &made, &swapped, tick.clone());
            scope.spawn(move || {
                let who = caller("/cart");
                while made.load(Ordering::Relaxed) < DECISIONS || swapped.load(Ordering::Relaxed) < SWAPS {
                    let turn = made.fetch_add(1, Ordering::Relaxed);
                    if turn.is_multiple_of(DECISIONS / SWAPS) {
                        let _ = tick.send(());
                    }
                    let asked = SECRETS[(turn + decider) % 2];
                    let (resource, at) = (secret(asked, &[]), at(NOON, [127, 0, 0, 1]));
                    let before = swapped.load(Ordering::SeqCst);
                    let answer = gate.admit(&who, Action::GetSecret, QuotaClass::None, resource, at);
                    let after = swapped.load(Ordering::SeqCst);
                    let (granted, hash) = match answer {
                        Ok(permit) => (true, permit.policy()),
                        Err(refused) => (false, refused.policy),
                    };
                    let number = numbers[&hash];
                    assert_eq!(granted, allowed(number) == asked, "version {number}, secret {asked}");
                    // A swap is counted once it is made, so one more may have been.
                    let in_force = (before..=after + 1).any(|swap| swap % VERSIONS == number);
                    assert!(in_force, "version {number} decided between swaps {before} and {after}");
                }
            });
        }
        drop(tick);
        for swap in 1..=SWAPS {
            ticks.recv().unwrap();
            gate.policies().replace(Arc::clone(&versions[swap % VERSIONS]));
            swapped.store(swap, Ordering::SeqCst);
        }
    });
    assert!(made.load(Ordering::Relaxed) >= DECISIONS && swapped.load(Ordering::Relaxed) == SWAPS);
}
