//! What was measured, round by round, and what it says about the bars.

use std::time::Duration;

use keyferry_benches::load::{Histogram, Measured};

use crate::target::Name;

/// Bars of the project.
const OF_ECHO: f64 = 0.75;
const P99_OF_ECHO: f64 = 1.5;
const OF_WRITTEN: f64 = 0.6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Closed,
    Open,
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

    fn busy(&self) -> f64 {
        self.processor / self.measured.seconds
    }

    fn p99(&self) -> f64 {
        microseconds(self.measured.delays.quantile(0.99))
    }
}

impl Figures {
    pub(crate) fn push(&mut self, figure: Figure) {
        println!(
            "{:<8} {:<6} {:>8.0}/s {:>8.0}/s of core, p50 {:>7.0} us, p99 {:>7.0} us, {:>3.0} % busy, {:>4} MiB",
            figure.name.as_str(),
            format!("{:?}", figure.phase).to_lowercase(),
            figure.rate(),
            figure.rate_of_core(),
            microseconds(figure.measured.delays.quantile(0.5)),
            figure.p99(),
            100.0 * figure.busy(),
            figure.resident / 1024,
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

    fn delays(&self, name: Name, phase: Phase) -> Histogram {
        let mut all = Histogram::default();
        self.of(name, phase).for_each(|figure| all.add(&figure.measured.delays));
        all
    }

    pub(crate) fn print(&self) {
        for phase in [Phase::Closed, Phase::Open] {
            println!("{phase:?} loop: medians of the rounds");
            for name in Name::ALL {
                let median = |value| self.median(name, phase, value);
                let (Some(rate), Some(core), Some(busy)) =
                    (median(Figure::rate), median(Figure::rate_of_core), median(Figure::busy))
                else {
                    continue;
                };
                let delays = self.delays(name, phase);
                let [half, most, nearly_all] = [0.5, 0.99, 0.999].map(|share| microseconds(delays.quantile(share)));
                println!(
                    "  {:<8} {rate:>8.0}/s {core:>8.0}/s of core ({:.0} % busy), p50 {half:.0}, p99 {most:.0}, p99.9 {nearly_all:.0} us",
                    name.as_str(),
                    100.0 * busy
                );
            }
        }
    }

    /// Those that can be judged by what was measured.
    pub(crate) fn meet_the_bars(&self) -> bool {
        let share =
            |of: Name, to: Name, phase, value| Some(self.median(of, phase, value)? / self.median(to, phase, value)?);
        let throughput = share(Name::Broker, Name::Echo, Phase::Closed, Figure::rate_of_core);
        let p99 = share(Name::Broker, Name::Echo, Phase::Open, Figure::p99);
        let synced = share(Name::Synced, Name::Broker, Phase::Closed, Figure::rate);
        let judged = [
            throughput.is_none_or(|it| bar("broker / echo, calls in a second of one core", it, it >= OF_ECHO, OF_ECHO)),
            p99.is_none_or(|it| {
                bar("broker / echo, p99 at half of the echo's rate", it, it <= P99_OF_ECHO, P99_OF_ECHO)
            }),
            synced.is_none_or(|it| bar("synced / written, calls a second", it, it >= OF_WRITTEN, OF_WRITTEN)),
        ];
        judged.into_iter().all(|met| met)
    }
}

fn bar(what: &str, value: f64, met: bool, bar: f64) -> bool {
    println!("{what}: {value:.2} (bar {bar}: {})", if met { "met" } else { "MISSED" });
    met
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
