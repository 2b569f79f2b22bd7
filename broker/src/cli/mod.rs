//! The command line: one verb per file.

mod audit;
mod check;
mod connection;
mod dev;
mod dev_issuer;
mod dev_pki;
mod explain;
mod policy;
mod rotations;
mod serve;
mod state;
mod status;
mod subscribers;
mod text;
mod whoami;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::clock::Timestamp;
use crate::config::{Config, environment};

/// A gRPC secrets broker: versioned secrets and short-lived database tokens, one policy, one audit trail.
#[derive(Debug, Parser)]
#[command(name = "keyferry", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve with a configuration file until SIGTERM or SIGINT
    Serve(serve::Args),
    /// Make certificates, a policy and sample secrets in a directory, and serve them on loopback
    Dev(dev::Args),
    /// Check a configuration file, the files it names, and the policies
    Check(check::Args),
    /// Ask a broker who it takes you for
    Whoami(whoami::Args),
    /// Ask a broker whether a call would be admitted, and why; ends with 0 if allowed and with 3 if denied
    Explain(Box<explain::Args>),
    /// Ask a broker how it is, and what it depends on
    Status(status::Args),
    /// Rotate a secret as it is configured
    Rotate(rotations::RotateArgs),
    /// Look at rotations, stop one, or retire what one left behind
    #[command(subcommand)]
    Rotations(rotations::Verb),
    /// Ask who runs which version of which secret
    Subscribers(subscribers::Args),
    /// Look into the state that brokers keep: a summary, or some of its records
    State(state::Args),
    /// Work with policies
    #[command(subcommand)]
    Policy(policy::Verb),
    /// Work with the audit log
    #[command(subcommand)]
    Audit(audit::Verb),
}

/// Where the configuration lies.
#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration file; $KEYFERRY_CONFIG where it is left out
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

/// What went wrong, in words for whoever typed the command.
type Complaint = Box<dyn std::error::Error>;

pub fn run() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Serve(args) => serve::run(&args),
        Verb::Dev(args) => dev::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Whoami(args) => whoami::run(&args),
        Verb::Explain(args) => explain::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Rotate(args) => rotations::rotate(&args),
        Verb::Rotations(verb) => rotations::run(&verb),
        Verb::Subscribers(args) => subscribers::run(&args),
        Verb::State(args) => state::run(&args),
        Verb::Policy(verb) => policy::run(&verb),
        Verb::Audit(verb) => audit::run(&verb),
    };
    match outcome {
        Ok(code) => code,
        Err(complaint) => {
            say_error(&chain(&*complaint));
            ExitCode::FAILURE
        }
    }
}

/// Whoever stopped reading is not a reason to end: a broker must outlive the `head` that its greeting went to.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// What a terminal shows and does not obey.
fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}")
}

fn say_error(text: &str) {
    let _ = writeln!(std::io::stderr(), "keyferry: {text}");
}

impl ConfigFile {
    fn path(&self) -> Result<PathBuf, Complaint> {
        self.config
            .clone()
            .or_else(|| std::env::var_os("KEYFERRY_CONFIG").map(PathBuf::from))
            .ok_or_else(|| "no configuration: give --config FILE, or try `keyferry dev`".into())
    }
}

fn load(path: &Path) -> Result<Config, Complaint> {
    Ok(Config::load(path, environment(), &host_name())?)
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "keyferry".to_owned() } else { name.to_owned() }
}

/// As a broker sent it.
fn time(time: &prost_types::Timestamp) -> Option<String> {
    let (seconds, nanos) = (u64::try_from(time.seconds).ok()?, u64::try_from(time.nanos).ok()?);
    Some(Timestamp::from_secs(seconds).plus(Duration::from_nanos(nanos)).to_string())
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
