//! Fuzzing as part of the test suite. A target is a plain function of bytes beside the parser that it feeds, and holds
//! what must be true of every input; this crate makes the inputs.
//!
//! Without more it runs what is in `corpus/` and a fixed number of mutations of it, the same in every run. `make fuzz`
//! builds the broker with counters on its branches, keeps what reaches new ones, and goes on from there.
#![allow(clippy::print_stdout, reason = "a test says what it did")]

mod bound;
mod corpus;
mod coverage;
mod guided;
mod mutation;
mod protobuf;
mod random;
mod trial;

pub use bound::Counting;
pub use protobuf::protobuf;
pub use random::Random;

use corpus::Corpus;
use mutation::Mutator;
use trial::Trial;

/// Changes an input in a way of its own, which knows the form: half of all mutations are its.
pub type Mutate<'a> = &'a dyn Fn(&[u8], &mut Random) -> Vec<u8>;

/// One target: its name is that of its directory in `corpus/`.
pub struct Fuzz<'a> {
    name: &'static str,
    words: &'a [&'a str],
    seeds: Vec<Vec<u8>>,
    own: Option<Mutate<'a>>,
    inputs: u64,
    longest: usize,
    bytes: (usize, usize),
}

/// What became of an input that did not panic. Most of what is tried is refused, and a target that accepts nothing, or
/// refuses nothing, is not at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    Refused,
}

impl<'a> Fuzz<'a> {
    pub fn new(name: &'static str) -> Self {
        Self { name, words: &[], seeds: Vec::new(), own: None, inputs: 20_000, longest: 4096, bytes: (1 << 16, 64) }
    }

    /// Fragments that chance would be long in finding.
    #[must_use]
    pub fn words(self, words: &'a [&'a str]) -> Self {
        Self { words, ..self }
    }

    /// Seeds that cannot be committed, since they are made of fresh keys.
    #[must_use]
    pub fn seeds(self, seeds: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self { seeds: seeds.into_iter().collect(), ..self }
    }

    #[must_use]
    pub fn mutated_by(self, own: Mutate<'a>) -> Self {
        Self { own: Some(own), ..self }
    }

    /// How many in a run without guidance, when the default is too slow or too few.
    #[must_use]
    pub fn inputs(self, inputs: u64) -> Self {
        Self { inputs, ..self }
    }

    #[must_use]
    pub fn longest(self, longest: usize) -> Self {
        Self { longest, ..self }
    }

    /// What may be allocated for one input: so much, and so much for each of its bytes.
    #[must_use]
    pub fn allocating(self, base: usize, per_byte: usize) -> Self {
        Self { bytes: (base, per_byte), ..self }
    }

    /// # Panics
    /// When the target does, allocates too much or takes too long; the message says where the smallest such input is.
    pub fn holds(self, target: impl FnMut(&[u8]) -> Verdict) {
        let corpus = Corpus::open(self.name);
        let mutator = Mutator::new(self.words, self.own, self.longest);
        let trial = Trial::new(&corpus, self.bytes, target);
        let seeds: Vec<_> = corpus.inputs().into_iter().chain(self.seeds).collect();
        assert!(!seeds.is_empty(), "{} has no seeds: put some into {}", self.name, corpus.directory().display());
        match guided::Order::given() {
            Some(order) if order.is_for(self.name) => guided::run(&order, self.name, trial, &mutator, &corpus, seeds),
            Some(_) => {}
            None => repeatable(self.name, trial, &mutator, &seeds, inputs().unwrap_or(self.inputs)),
        }
    }
}

fn repeatable(
    name: &str,
    mut trial: Trial<'_, impl FnMut(&[u8]) -> Verdict>,
    mutator: &Mutator<'_>,
    seeds: &[Vec<u8>],
    inputs: u64,
) {
    let mut random = Random::new(name.bytes().fold(7, |sum, byte| sum << 5 ^ sum >> 59 ^ u64::from(byte)));
    let mut accepted = 0_u64;
    for seed in seeds {
        accepted += u64::from(trial.run(seed) == Verdict::Accepted);
    }
    for _ in 0..inputs {
        let mutant = mutator.mutant(seeds, &mut random);
        accepted += u64::from(trial.run(&mutant) == Verdict::Accepted);
    }
    let all = inputs + seeds.len() as u64;
    println!("{name}: {all} inputs, {accepted} accepted; {}", trial.most());
    assert!((1..all).contains(&accepted), "{name} tells no input from another: {accepted} of {all} were accepted");
}

fn inputs() -> Option<u64> {
    std::env::var("KEYFERRY_FUZZ_INPUTS").ok()?.parse().ok()
}

impl std::fmt::Debug for Fuzz<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fuzz({})", self.name)
    }
}

impl From<bool> for Verdict {
    fn from(accepted: bool) -> Self {
        if accepted { Self::Accepted } else { Self::Refused }
    }
}
