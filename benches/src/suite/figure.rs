//! What was measured, round by round, and what it says about the bars.

use std::time::Duration;

use keyferry_benches::load::{Histogram, Measured};
use serde_json::{Value, json};

use crate::target::Name;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Closed,
    HalfOfEcho,
    HalfOfOpenBao,
}

impl Phase {
    /// OpenBao could not keep up with half of the echo; the echo has nothing to tell at half of OpenBao's rate.
    pub(crate) fn is_for(self, name: Name) -> bool {
        match self {
            Self::Closed => true,
            Self::HalfOfEcho => !name.is_openbao(),
            Self::HalfOfOpenBao => name == Name::Broker || name.is_openbao(),
        }
    }

    pub(crate) const ALL: [Self; 3] = [Self::Closed, Self::HalfOfEcho, Self::HalfOfOpenBao];

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Closed => "As many reads as one core can",
            Self::HalfOfEcho => "Delays at half of what the echo can do",
            Self::HalfOfOpenBao => "Delays at half of what OpenBao can do",
        }
    }

    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Closed => "Closed loop: the delays are those of a server that is never without work.",
            Self::HalfOfEcho => "Open loop, the same rate for all: half of the echo's in the closed loop.",
            Self::HalfOfOpenBao => "Open loop, the same rate for all: half of OpenBao's in the closed loop.",
        }
    }

    /// Of its plot.
    pub(crate) const fn file(self) -> &'static str {
        match self {
            Self::Closed => "throughput.svg",
            Self::HalfOfEcho => "delays-echo.svg",
            Self::HalfOfOpenBao => "delays-openbao.svg",
        }
    }
}

/// One server's in one round.
pub(crate) struct Figure {
    pub(crate) name: Name,
    pub(crate) phase: Phase,
    pub(crate) measured: Measured,
    /// Seconds of the server's.
    pub(crate) processor: f64,
    /// KiB of the server's, afterwards.
    pub(crate) resident: u64,
}

#[derive(Default)]
pub(crate) struct Figures(Vec<Figure>);

impl Figure {
    pub(crate) fn rate(&self) -> f64 {
        self.measured.rate()
    }

    /// Calls in a second of one core: what a busy machine does not change.
    pub(crate) fn rate_of_core(&self) -> f64 {
        self.measured.right as f64 / self.processor
    }

    pub(crate) fn busy(&self) -> f64 {
        self.processor / self.measured.seconds
    }

    pub(crate) fn resident_mib(&self) -> f64 {
        self.resident as f64 / 1024.0
    }

    fn json(&self) -> Value {
        json!({
            "calls": self.measured.right,
            "seconds": self.measured.seconds,
            "processor_seconds": self.processor,
            "resident_kib": self.resident,
            "p99_us": self.p99(),
        })
    }

    pub(crate) fn p99(&self) -> f64 {
        microseconds(self.measured.delays.quantile(0.99))
    }
}

impl Figures {
    pub(crate) fn push(&mut self, figure: Figure) {
        println!(
            "{:<10} {:<12} {:>8.0}/s {:>8.0}/s of core, p50 {:>7.0} us, p99 {:>7.0} us, {:>3.0} % busy, {:>4.0} MiB",
            figure.name.as_str(),
            format!("{:?}", figure.phase),
            figure.rate(),
            figure.rate_of_core(),
            microseconds(figure.measured.delays.quantile(0.5)),
            figure.p99(),
            100.0 * figure.busy(),
            figure.resident_mib(),
        );
        self.0.push(figure);
    }

    fn of(&self, name: Name, phase: Phase) -> impl Iterator<Item = &Figure> {
        self.0.iter().filter(move |figure| (figure.name, figure.phase) == (name, phase))
    }

    /// The middle of the rounds.
    pub(crate) fn median(&self, name: Name, phase: Phase, value: fn(&Figure) -> f64) -> Option<f64> {
        let mut values: Vec<_> = self.of(name, phase).map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// Of all rounds together, in microseconds.
    pub(crate) fn delay(&self, name: Name, phase: Phase, share: f64) -> f64 {
        microseconds(self.delays(name, phase).quantile(share))
    }

    fn delays(&self, name: Name, phase: Phase) -> Histogram {
        let mut all = Histogram::default();
        self.of(name, phase).for_each(|figure| all.add(&figure.measured.delays));
        all
    }

    /// One entry a server and phase: its rounds, and how many calls took at most so many nanoseconds.
    pub(crate) fn json(&self) -> Vec<Value> {
        let pairs = Phase::ALL.into_iter().flat_map(|phase| Name::ALL.map(|name| (name, phase)));
        let measured = pairs.filter(|&(name, phase)| self.of(name, phase).next().is_some());
        measured
            .map(|(name, phase)| {
                json!({
                    "server": name.as_str(),
                    "phase": phase.title(),
                    "rounds": self.of(name, phase).map(Figure::json).collect::<Vec<_>>(),
                    "delays_ns": self.delays(name, phase).filled().collect::<Vec<_>>(),
                })
            })
            .collect()
    }
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
