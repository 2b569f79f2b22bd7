//! What stays: the broker's memory after many calls, and with many tokens kept.

use keyferry_benches::Outcome;
use keyferry_benches::load::Until;
use keyferry_benches::memory::Memory;
use keyferry_broker::audit::Mode;
use serde_json::{Value, json};

use crate::broker::Broker;
use crate::{CONNECTIONS, IN_FLIGHT, Options};

/// Each caller fetches a token every hour that lives for eight: so many of each are good at once, after eight hours.
pub(crate) const TOKENS_EACH: usize = 8;

/// Of processes in KiB.
pub(crate) struct Lasting {
    pub(crate) calls: [u64; 2],
    pub(crate) after: [u64; 2],
    pub(crate) callers: usize,
    /// Before the tokens came, with one of each caller, with all.
    pub(crate) tokens: [u64; 3],
}

impl Lasting {
    pub(crate) fn measure(options: &Options, calls: [u64; 2], callers: usize) -> Outcome<Self> {
        let broker = Broker::start(&options.keyferry, Mode::Written)?;
        let resident = || Outcome::Ok(Memory::of(broker.id())?.resident());
        let mut load = broker.load(CONNECTIONS)?;
        load.closed(IN_FLIGHT, Until::Answered(calls[0]))?;
        let some = resident()?;
        load.closed(IN_FLIGHT, Until::Answered(calls[1] - calls[0]))?;
        let many = resident()?;
        broker.present_tokens(callers, 0..callers)?;
        let first = resident()?;
        broker.present_tokens(callers, callers..callers * TOKENS_EACH)?;
        Ok(Self { calls, after: [some, many], callers, tokens: [many, first, resident()?] })
    }

    /// How much more it is after the many calls.
    pub(crate) fn growth(&self) -> f64 {
        self.after[1] as f64 / self.after[0] as f64
    }

    /// What the tokens took, in MB: a caller's first brings its quota and its decisions too, so the later ones are weighed.
    pub(crate) fn token_megabytes(&self) -> f64 {
        megabytes(self.tokens[2], self.tokens[1]) * TOKENS_EACH as f64 / (TOKENS_EACH - 1) as f64
    }

    /// What came with them in all.
    pub(crate) fn caller_megabytes(&self) -> f64 {
        megabytes(self.tokens[2], self.tokens[0])
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "calls": self.calls,
            "resident_kib_after_calls": self.after,
            "callers": self.callers,
            "tokens_each": TOKENS_EACH,
            "resident_kib_before_with_first_and_all_tokens": self.tokens,
        })
    }
}

fn megabytes(after: u64, before: u64) -> f64 {
    after.saturating_sub(before) as f64 * 1024.0 / 1e6
}
