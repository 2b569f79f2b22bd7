//! The broker beside a bare echo of tonic's and beside OpenBao: each server alone on one core, one generator on another,
//! in turns.
//!
//! `suite [--only NAME,…] [--rounds N] [--seconds N] [--report] KEYFERRY`: fails when a bar is missed; `--report` only
//! prints.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's output is for its reader")]
#![allow(clippy::disallowed_methods, reason = "the real time is what is measured")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]

mod broker;
mod echo;
mod figure;
mod target;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use keyferry_benches::Outcome;
use keyferry_benches::load::Until;
use keyferry_benches::processor::leave_the_servers_core;

use crate::figure::{Figure, Figures, Phase};
use crate::target::{Name, Target};

// As the broker has it: the echo is to differ in what it does, not in its allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: usize = 8;
const IN_FLIGHT: usize = 128;
const WARM_UP: Until = Until::Elapsed(Duration::from_millis(500));
/// Of what the echo can do: the rate at which delays are compared.
const LOAD: f64 = 0.5;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match &*arguments {
        [echo, directory] if echo == "--echo" => echo::serve(Path::new(directory)).map(|()| true),
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
    only: Vec<Name>,
    rounds: usize,
    seconds: f64,
    report_only: bool,
    keyferry: PathBuf,
}

impl Options {
    fn parse(arguments: Vec<String>) -> Outcome<Self> {
        let mut options =
            Self { only: Name::ALL.to_vec(), rounds: 5, seconds: 3.0, report_only: false, keyferry: PathBuf::new() };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument}: a value is missing"));
            match argument.as_str() {
                "--only" => options.only = value()?.split(',').map(Name::parse).collect::<Outcome<_>>()?,
                "--rounds" => options.rounds = value()?.parse()?,
                "--seconds" => options.seconds = value()?.parse()?,
                "--report" => options.report_only = true,
                _ if argument.starts_with('-') => return Err(format!("{argument}: no such option").into()),
                _ => options.keyferry = argument.into(),
            }
        }
        if options.keyferry.as_os_str().is_empty() {
            return Err("name the broker's binary: suite [--only NAME,…] [--rounds N] [--seconds N] KEYFERRY".into());
        }
        Ok(options)
    }

    fn round(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// Tells whether the bars are met.
fn measure(options: &Options) -> Outcome<bool> {
    leave_the_servers_core()?;
    let mut targets = options.only.iter().map(|&name| Target::start(name, options)).collect::<Outcome<Vec<_>>>()?;
    for target in &mut targets {
        target.closed(WARM_UP)?;
    }
    let mut figures = Figures::default();
    for _ in 0..options.rounds {
        for target in &mut targets {
            figures.push(target.closed(Until::Elapsed(options.round()))?);
        }
    }
    if let Some(capacity) = figures.median(Name::Echo, Phase::Closed, Figure::rate) {
        for _ in 0..options.rounds {
            for target in &mut targets {
                figures.push(target.open_loop(LOAD * capacity, options.round())?);
            }
        }
    }
    figures.print();
    Ok(figures.meet_the_bars() || options.report_only)
}
