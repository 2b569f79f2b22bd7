//! What the project demands of itself, and whether it was measured.

use serde_json::{Value, json};

use crate::figure::{Figure, Figures, Phase};
use crate::lasting::Lasting;
use crate::target::Name;

pub(crate) struct Bar {
    pub(crate) what: &'static str,
    pub(crate) measured: f64,
    pub(crate) bound: Bound,
}

#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// Those that what was measured can decide.
pub(crate) fn judge(figures: &Figures, lasting: Option<&Lasting>) -> Vec<Bar> {
    let share = |of: Option<f64>, to: Option<f64>| Some(of? / to?);
    let median = |name, phase, value| figures.median(name, phase, value);
    let core = |name| median(name, Phase::Closed, Figure::rate_of_core);
    let rate = |name| median(name, Phase::Closed, Figure::rate);
    let p99 = |name| median(name, Phase::HalfOfEcho, Figure::p99);
    let openbao = core(Name::OpenBao).into_iter().chain(core(Name::OpenBaoHttp2)).reduce(f64::max);
    let bars = [
        // Else something other than the server was the limit: a busy machine, or the generator.
        (
            "share of its core that the echo used, asked for all it can",
            median(Name::Echo, Phase::Closed, Figure::busy),
            Bound::AtLeast(0.9),
        ),
        (
            "cached reads in a second of one core, of the echo's",
            share(core(Name::Broker), core(Name::Echo)),
            Bound::AtLeast(0.75),
        ),
        (
            "p99 at half of what the echo can do, of the echo's",
            share(p99(Name::Broker), p99(Name::Echo)),
            Bound::AtMost(1.5),
        ),
        (
            "cached reads in a second of one core, of OpenBao's",
            share(core(Name::Broker), openbao),
            Bound::AtLeast(12.0),
        ),
        (
            "reads a second with audit `synced`, of those with `written`",
            share(rate(Name::Synced), rate(Name::Broker)),
            Bound::AtLeast(0.6),
        ),
        ("MB taken by eight hours' worth of tokens", lasting.map(Lasting::token_megabytes), Bound::AtMost(64.0)),
        (
            "resident memory after all calls, of that after the first tenth",
            lasting.map(Lasting::growth),
            Bound::AtMost(1.05),
        ),
    ];
    let measured = |(what, measured, bound): (_, Option<f64>, _)| Some(Bar { what, measured: measured?, bound });
    bars.into_iter().filter_map(measured).collect()
}

impl Bar {
    pub(crate) fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtLeast(least) => self.measured >= least,
            Bound::AtMost(most) => self.measured <= most,
        }
    }

    pub(crate) fn verdict(&self) -> &'static str {
        if self.is_met() { "met" } else { "MISSED" }
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "what": self.what,
            "measured": self.measured,
            "bar": self.bound.to_string(),
            "met": self.is_met(),
        })
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(bar) => write!(f, "≥ {bar}"),
            Self::AtMost(bar) => write!(f, "≤ {bar}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_up_to_its_bound_and_missed_beyond_it() {
        for (measured, bound, met) in [
            (0.75, Bound::AtLeast(0.75), true),
            (0.74, Bound::AtLeast(0.75), false),
            (1.5, Bound::AtMost(1.5), true),
            (1.51, Bound::AtMost(1.5), false),
            (f64::NAN, Bound::AtMost(1.5), false),
        ] {
            assert_eq!(Bar { what: "", measured, bound }.is_met(), met, "{measured} {bound}");
        }
    }
}
