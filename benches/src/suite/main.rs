//! The broker beside a bare echo of tonic's and beside OpenBao: each server alone on one core, one generator on another,
//! in turns.
//!
//! `suite [--only NAME,…] [--rounds N] [--seconds N] [--report] [--page DIRECTORY] [--small] KEYFERRY [BAO]`:
//! fails when a bar is missed; `--report` only prints, `--page` writes a page too, `--small` asks for less of everything.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's output is for its reader")]
#![allow(clippy::disallowed_methods, reason = "the real time is what is measured")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]

mod bars;
mod broker;
mod echo;
mod figure;
mod lasting;
mod machine;
mod page;
mod plot;
mod target;
mod vault;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use keyferry_benches::Outcome;
use keyferry_benches::load::Until;
use keyferry_benches::processor::leave_the_servers_core;

use crate::bars::Bar;
use crate::figure::{Figure, Figures, Phase};
use crate::lasting::Lasting;
use crate::page::Page;
use crate::target::{Name, Target};

// As the broker has it: the echo is to differ in what it does, not in its allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: usize = 8;
const IN_FLIGHT: usize = 128;
const WARM_UP: Until = Until::Elapsed(Duration::from_millis(500));
/// Of what a server can do: the rate at which delays are compared.
const LOAD: f64 = 0.5;
/// A build for tests is slow where the bare echo is not.
const SMALL_LOAD: f64 = 0.05;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match &*arguments {
        [option, directory] if option == "--echo" => echo::serve(Path::new(directory)).map(|()| true),
        _ => Options::parse(arguments).and_then(|options| measure(&options)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cannot measure: {error}");
            ExitCode::from(2)
        }
    }
}

struct Options {
    only: Option<Vec<Name>>,
    rounds: usize,
    seconds: f64,
    report_only: bool,
    is_small: bool,
    page: Option<PathBuf>,
    keyferry: PathBuf,
    bao: Option<PathBuf>,
}

impl Options {
    fn parse(arguments: Vec<String>) -> Outcome<Self> {
        let (mut only, mut rounds, mut seconds, mut page) = (None, 5, 3.0, None);
        let (mut report_only, mut is_small) = (false, false);
        let mut programs = Vec::new();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument}: a value is missing"));
            match argument.as_str() {
                "--only" => only = Some(value()?.split(',').map(Name::parse).collect::<Outcome<_>>()?),
                "--rounds" => rounds = value()?.parse()?,
                "--seconds" => seconds = value()?.parse()?,
                "--page" => page = Some(value()?.into()),
                "--report" => report_only = true,
                "--small" => is_small = true,
                _ if argument.starts_with('-') => return Err(format!("{argument}: no such option").into()),
                _ => programs.push(PathBuf::from(argument)),
            }
        }
        let mut programs = programs.into_iter();
        let keyferry = programs.next().ok_or("name the broker's binary, and OpenBao's to compare with")?;
        Ok(Self { only, rounds, seconds, report_only, is_small, page, keyferry, bao: programs.next() })
    }

    fn load(&self) -> f64 {
        if self.is_small { SMALL_LOAD } else { LOAD }
    }

    fn names(&self) -> Vec<Name> {
        let all = || Name::ALL.into_iter().filter(|name| self.bao.is_some() || !name.is_openbao()).collect();
        self.only.clone().unwrap_or_else(all)
    }
}

/// Tells whether the bars are met.
fn measure(options: &Options) -> Outcome<bool> {
    leave_the_servers_core()?;
    let figures = compare(options)?;
    let lasting = match &options.only {
        Some(_) => None,
        None if options.is_small => Some(Lasting::measure(options, [100, 1_000], 10)?),
        None => Some(Lasting::measure(options, [100_000, 1_000_000], 10_000)?),
    };
    let bars = bars::judge(&figures, lasting.as_ref());
    for bar in &bars {
        println!("{}: {:.2} (bar {}: {})", bar.what, bar.measured, bar.bound, bar.verdict());
    }
    if let Some(directory) = &options.page {
        let machine = machine::facts(&options.keyferry, options.bao.as_deref())?;
        Page { options, machine, figures: &figures, lasting: lasting.as_ref(), bars: &bars }.write(directory)?;
    }
    Ok(bars.iter().all(Bar::is_met) || options.report_only)
}

/// Each in turn, so that whatever else the machine does hits all alike.
fn compare(options: &Options) -> Outcome<Figures> {
    let round = Duration::from_secs_f64(options.seconds);
    let started = options.names().into_iter().map(|name| Target::start(name, options));
    let mut targets = started.collect::<Outcome<Vec<_>>>()?;
    for target in &mut targets {
        target.closed(WARM_UP)?;
    }
    let mut figures = Figures::default();
    for _ in 0..options.rounds {
        for target in &mut targets {
            figures.push(target.closed(Until::Elapsed(round))?);
        }
    }
    let capacity = |name| figures.median(name, Phase::Closed, Figure::rate);
    let echo = capacity(Name::Echo);
    let openbao = capacity(Name::OpenBao).into_iter().chain(capacity(Name::OpenBaoHttp2)).reduce(f64::min);
    for (phase, capacity) in [(Phase::HalfOfEcho, echo), (Phase::HalfOfOpenBao, openbao)] {
        let Some(capacity) = capacity else { continue };
        for _ in 0..options.rounds {
            for target in targets.iter_mut().filter(|target| phase.is_for(target.name())) {
                figures.push(target.open_loop(phase, options.load() * capacity, round)?);
            }
        }
    }
    Ok(figures)
}
