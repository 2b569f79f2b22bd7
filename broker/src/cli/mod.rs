//! The command line: one verb per file.

mod audit;
mod check;
mod child;
mod connection;
mod dev;
mod dev_issuer;
mod dev_pki;
mod exec;
mod explain;
mod failure;
mod file;
mod following;
#[cfg(test)]
mod fuzz;
mod get;
mod leases;
mod manual;
mod mint;
mod names;
mod policy;
mod profile;
mod psql;
mod put;
mod render;
mod rotations;
mod secrets;
mod serve;
mod state;
mod status;
mod subscribers;
mod template;
mod text;
mod watch;
mod whoami;

use std::io::ErrorKind::BrokenPipe;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use thiserror::Error;

use self::failure::{Exit, Failure};
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
    /// Read a secret: its bytes as they are, where no terminal would show them
    Get(get::Args),
    /// Add a version to a secret, from standard input or a file
    Put(put::Args),
    /// The secrets of a store that you may see, without their values
    List(secrets::ListArgs),
    /// The versions of a secret
    Versions(secrets::VersionsArgs),
    /// Make a version readable again
    Enable(secrets::VersionArgs),
    /// Make a version unreadable; it can be enabled again
    Disable(secrets::VersionArgs),
    /// The database roles that you may mint for
    Roles(mint::RolesArgs),
    /// Get into a database for a while: a password, certificate or token of your own
    Mint(mint::Args),
    /// Look at what was minted and can be revoked; renew and revoke it
    #[command(subcommand)]
    Leases(leases::Verb),
    /// Run a command with secrets in its environment; restart it, or signal it, when they change
    Exec(exec::Args),
    /// Keep files up to date that templates make of secrets
    Render(render::Args),
    /// Tell of every change as it happens
    Watch(watch::Args),
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
    /// Print what makes a shell complete these commands
    Completions(manual::CompletionsArgs),
    /// Write the manual's pages to a directory
    Man(manual::ManArgs),
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
    let matches = Cli::command().get_matches();
    let json = asks_for_json(&matches);
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match dispatch(cli.verb) {
        Ok(code) => code,
        // Whoever read has had enough.
        Err(complaint) if complaint.downcast_ref::<Unsaid>().is_some_and(|unsaid| unsaid.0.kind() == BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(complaint) => {
            let failure = complaint.downcast_ref::<Failure>();
            match failure.filter(|_| json) {
                Some(failure) => {
                    let _ = writeln!(std::io::stderr(), "{}", failure.to_json());
                }
                None => say_error(&chain(&*complaint)),
            }
            ExitCode::from(failure.map_or(Exit::Failed, Failure::exit) as u8)
        }
    }
}

fn dispatch(verb: Verb) -> Result<ExitCode, Complaint> {
    match verb {
        Verb::Serve(args) => serve::run(&args),
        Verb::Dev(args) => dev::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Get(args) => get::run(&args),
        Verb::Put(args) => put::run(&args),
        Verb::List(args) => secrets::list(&args),
        Verb::Versions(args) => secrets::versions(&args),
        Verb::Enable(args) => secrets::enable(&args),
        Verb::Disable(args) => secrets::disable(&args),
        Verb::Roles(args) => mint::roles(&args),
        Verb::Mint(args) => mint::run(&args),
        Verb::Leases(verb) => leases::run(&verb),
        Verb::Exec(args) => exec::run(&args),
        Verb::Render(args) => render::run(&args),
        Verb::Watch(args) => watch::run(&args),
        Verb::Whoami(args) => whoami::run(&args),
        Verb::Explain(args) => explain::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Rotate(args) => rotations::rotate(&args),
        Verb::Rotations(verb) => rotations::run(&verb),
        Verb::Subscribers(args) => subscribers::run(&args),
        Verb::State(args) => state::run(&args),
        Verb::Policy(verb) => policy::run(&verb),
        Verb::Audit(verb) => audit::run(&verb),
        Verb::Completions(args) => manual::completions(&args),
        Verb::Man(args) => manual::man(&args),
    }
}

/// Whoever reads the answer as JSON reads a failure so, too.
fn asks_for_json(matches: &ArgMatches) -> bool {
    match matches.subcommand() {
        Some((_, verb)) => asks_for_json(verb),
        None => matches.try_get_one::<bool>("json").ok().flatten().copied().unwrap_or_default(),
    }
}

/// What was asked for. Whoever gets none of it must hear of that.
fn say(text: &str) -> Result<(), Complaint> {
    hand_over(format!("{text}\n").as_bytes())
}

/// As it is, with nothing added.
fn hand_over(bytes: &[u8]) -> Result<(), Complaint> {
    let mut stdout = std::io::stdout();
    Ok(stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Unsaid)?)
}

/// Told in passing. Whoever stopped reading is not a reason to end: a broker must outlive the `head` that its greeting went
/// to.
fn mention(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Standard output did not take the answer.
#[derive(Debug, Error)]
#[error("the answer is lost; see that standard output can be written")]
struct Unsaid(#[source] std::io::Error);

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
