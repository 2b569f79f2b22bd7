//! Goes on from the inputs that reached what none before them did.

use std::collections::HashSet;
use std::env;
use std::time::Duration;

use crate::corpus::Corpus;
use crate::coverage::Coverage;
use crate::mutation::Mutator;
use crate::random::Random;
use crate::trial::Trial;
use crate::{Verdict, bound};

/// `make fuzz TARGET=NAME SECONDS=N`
pub(crate) struct Order {
    target: String,
    /// Of processor time, for each target.
    time: Duration,
    seed: u64,
}

impl Order {
    pub(crate) fn given() -> Option<Self> {
        let target = env::var("KEYFERRY_FUZZ_TARGET").ok()?;
        let number = |name| env::var(name).ok().and_then(|text| text.parse().ok());
        let time = Duration::from_secs(number("KEYFERRY_FUZZ_SECONDS").unwrap_or(60));
        Some(Self { target, time, seed: number("KEYFERRY_FUZZ_SEED").unwrap_or(1) })
    }

    pub(crate) fn is_for(&self, name: &str) -> bool {
        self.target == name || self.target == "all"
    }
}

pub(crate) fn run(
    order: &Order,
    name: &str,
    mut trial: Trial<'_, impl FnMut(&[u8]) -> Verdict>,
    mutator: &Mutator<'_>,
    corpus: &Corpus,
    seeds: Vec<Vec<u8>>,
) {
    let mut coverage = Coverage::new();
    assert!(coverage.branches() > 0, "nothing counts branches in this build: call it by `make fuzz`");
    let mut random = Random::new(order.seed);
    let mut queue = Vec::new();
    for seed in seeds.into_iter().chain(corpus.found()) {
        coverage.clear();
        trial.run(&seed);
        if coverage.news() || queue.is_empty() {
            queue.push(seed);
        }
    }
    let (began, before) = (bound::worked(), coverage.taken());
    let mut inputs = 0_u64;
    while bound::worked() - began < order.time {
        // What came last lies furthest off, and is where most of the news is.
        let recent = if random.below(2) == 0 { queue.len().saturating_sub(32) } else { 0 };
        let mutant = mutator.mutant(&queue[recent..], &mut random);
        coverage.clear();
        trial.run(&mutant);
        inputs += 1;
        if coverage.news() {
            queue.push(mutant);
        }
    }
    let kept = fewest(queue, &mut coverage, &mut trial);
    corpus.replace_found(kept.iter());
    println!(
        "{name}: {inputs} inputs in {} s; {} branches taken, {before} of them by the corpus; {} inputs kept; {}",
        order.time.as_secs(),
        coverage.taken(),
        kept.len(),
        trial.most(),
    );
}

/// Those that together reach all, smaller ones first.
fn fewest(
    mut queue: Vec<Vec<u8>>,
    coverage: &mut Coverage,
    trial: &mut Trial<'_, impl FnMut(&[u8]) -> Verdict>,
) -> Vec<Vec<u8>> {
    queue.sort_by_key(Vec::len);
    let mut reached = HashSet::new();
    queue.retain(|input| {
        coverage.clear();
        trial.run(input);
        let before = reached.len();
        reached.extend(coverage.reached());
        reached.len() > before
    });
    queue
}
