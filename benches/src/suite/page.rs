//! What was measured, as a page with plots and the raw figures beside it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use keyferry_benches::Outcome;
use serde_json::{Value, json};

use crate::bars::Bar;
use crate::broker::PAYLOAD;
use crate::figure::{Figure, Figures, Phase};
use crate::lasting::{Lasting, TOKENS_EACH};
use crate::plot;
use crate::target::Name;
use crate::{CONNECTIONS, IN_FLIGHT, Options};

const USERS: &str = "database-users.json";

pub(crate) struct Page<'a> {
    pub(crate) options: &'a Options,
    pub(crate) machine: Vec<(&'static str, String)>,
    pub(crate) figures: &'a Figures,
    pub(crate) lasting: Option<&'a Lasting>,
    pub(crate) bars: &'a [Bar],
}

impl Page<'_> {
    /// `benchmarks.md`, and what it shows in `benchmarks/`.
    pub(crate) fn write(&self, directory: &Path) -> Outcome<()> {
        let beside = directory.join("benchmarks");
        fs::create_dir_all(&beside)?;
        // What the benchmark of database users left there.
        let users = beside.join(USERS);
        let users = if users.exists() { serde_json::from_slice(&fs::read(users)?)? } else { Value::Null };
        fs::write(directory.join("benchmarks.md"), self.text(&users)?)?;
        fs::write(beside.join("raw.json"), format!("{}\n", self.json()))?;
        let rates: Vec<_> = Name::ALL
            .into_iter()
            .filter_map(|name| Some((name.label(), self.figures.median(name, Phase::Closed, Figure::rate_of_core)?)))
            .collect();
        fs::write(beside.join("throughput.svg"), plot::bars("Reads in a second of one core", "/s", &rates))?;
        for phase in [Phase::HalfOfEcho, Phase::HalfOfOpenBao] {
            let measured = |name: &Name| self.figures.median(*name, phase, Figure::rate).is_some();
            let series: Vec<_> = Name::ALL
                .into_iter()
                .filter(measured)
                .map(|name| (name.label(), plot::SHARES.map(|share| self.figures.delay(name, phase, share))))
                .collect();
            if !series.is_empty() {
                fs::write(beside.join(phase.file()), plot::delays(phase.title(), &series))?;
            }
        }
        Ok(())
    }

    fn text(&self, users: &Value) -> Outcome<String> {
        let mut page = format!("{INTRODUCTION}\n## Bars\n\n| what | measured | bar | |\n|---|---|---|---|\n");
        for bar in self.bars {
            writeln!(page, "| {} | {:.2} | {} | {} |", bar.what, bar.measured, bar.bound, bar.verdict())?;
        }
        for phase in Phase::ALL {
            self.phase(&mut page, phase)?;
        }
        if let Some(lasting) = self.lasting {
            let [some, many] = lasting.after.map(|kib| kib as f64 / 1024.0);
            let [first, all] = lasting.calls;
            write!(
                page,
                "\n## Memory\n\nResident after {first} calls {some:.1} MiB, after {all} calls {many:.1} MiB. Then {} callers \
                 presented {TOKENS_EACH} tokens each, as those have at a time who fetch one every hour that lives for eight: \
                 {:.1} MB more in all, of which the tokens take {:.1} and their callers' quotas and decisions the rest. The \
                 cache of verified tokens is bounded; what ends first leaves it first.\n",
                lasting.callers,
                lasting.caller_megabytes(),
                lasting.token_megabytes()
            )?;
        }
        if !users.is_null() {
            database_users(&mut page, users)?;
        }
        self.method(&mut page)?;
        Ok(page)
    }

    fn phase(&self, page: &mut String, phase: Phase) -> Outcome<()> {
        let mut rows = String::new();
        for name in Name::ALL {
            let median = |value| self.figures.median(name, phase, value);
            let (Some(rate), Some(core), Some(busy), Some(p99)) =
                (median(Figure::rate), median(Figure::rate_of_core), median(Figure::busy), median(Figure::p99))
            else {
                continue;
            };
            let [half, rare] = [0.5, 0.999].map(|share| self.figures.delay(name, phase, share));
            let resident = median(Figure::resident_mib).unwrap_or_default();
            writeln!(
                rows,
                "| {} | {rate:.0} | {core:.0} | {half:.0} | {p99:.0} | {rare:.0} | {:.0} % | {resident:.0} |",
                name.label(),
                100.0 * busy
            )?;
        }
        if !rows.is_empty() {
            write!(
                page,
                "\n## {}\n\n{}\n\n![{}](benchmarks/{})\n\n\
                 | server | calls/s | calls in a second of its core | p50 µs | p99 µs | p99.9 µs | core busy | resident MiB |\n\
                 |---|---|---|---|---|---|---|---|\n{rows}",
                phase.title(),
                phase.meaning(),
                phase.title(),
                phase.file()
            )?;
        }
        Ok(())
    }

    fn method(&self, page: &mut String) -> Outcome<()> {
        write!(
            page,
            "\n## How\n\n{METHOD}\nThis run: {} rounds of {} s each, {CONNECTIONS} connections (OpenBao by HTTP/1.1: {IN_FLIGHT}), \
             {IN_FLIGHT} calls in flight in the closed loop, {:.0} % load in the open one, a payload of {} bytes.\n\n\
             | machine | |\n|---|---|\n",
            self.options.rounds,
            self.options.seconds,
            100.0 * self.options.load(),
            PAYLOAD.len()
        )?;
        for (label, value) in &self.machine {
            writeln!(page, "| {label} | {value} |")?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        json!({
            "machine": self.machine.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "rounds": self.options.rounds,
            "seconds": self.options.seconds,
            "connections": CONNECTIONS,
            "in_flight": IN_FLIGHT,
            "payload": PAYLOAD.len(),
            "measurements": self.figures.json(),
            "memory": self.lasting.map(Lasting::json),
            "bars": self.bars.iter().map(Bar::json).collect::<Vec<_>>(),
        })
    }
}

fn database_users(page: &mut String, users: &Value) -> Outcome<()> {
    write!(
        page,
        "\n## Database users\n\nUsers made by {} clients at once on one PostgreSQL, a second: by pgbench, which sends the \
         broker's statements and does nothing else; by the broker; by OpenBao's database engine (`make bench-tokens`). Rounds:\n\n\
         | pgbench | Keyferry | OpenBao |\n|---|---|---|\n",
        users["clients"]
    )?;
    for round in users["rounds"].as_array().into_iter().flatten() {
        let [pgbench, keyferry, openbao] =
            ["pgbench", "keyferry", "openbao"].map(|who| round[who].as_f64().unwrap_or_default());
        writeln!(page, "| {pgbench:.0} | {keyferry:.0} | {openbao:.0} |")?;
    }
    Ok(())
}

const INTRODUCTION: &str = "# Benchmarks

Written by `make bench`; do not edit. Raw figures: [benchmarks/raw.json](benchmarks/raw.json).

A bare echo of tonic's behind the same TLS is what a call costs without a broker. Keyferry runs its release build with
everything on: a client certificate and a token bound to it, a hundred Cedar policies that look at both and at the
secret's label, quotas, audit and metrics. OpenBao runs its key-value engine (version 2) in memory, with TLS, a token with
one policy and its audit file.
";

const METHOD: &str = "Each server has the first core to itself and the load generator the second; the servers that wait \
for their turn are idle. They are measured in turns, and a figure is the median of all rounds; p50 and p99.9 are of all
rounds together. The generator speaks HTTP/2 and HTTP/1.1 itself, with the frames of its one call made beforehand, and
looks after its connections without sleeping, so that it costs a fraction of the fastest server. Every answer must have
status 200 and a body of the payload's length at least; an ordinary client has checked before that who may read gets the
secret, and that without the token nobody does.

In the **closed loop** a call follows each answer. *Calls in a second of its core* is calls by the server's own processor
time. In the **open loop** calls are due at evenly spaced times, fixed beforehand, and a delay counts from when its call
was due: a pause of the server shows in all calls that it held up (no coordinated omission).

";
