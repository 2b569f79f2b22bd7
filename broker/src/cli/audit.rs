//! `keyferry audit`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::{Complaint, say, say_error};
use crate::audit::{PublicKeys, verify};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Find any record of a log that was changed, deleted, inserted or moved
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// The directory of the log
    directory: PathBuf,
    /// The public key to trust, from somewhere safer than the log's own directory
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
}

pub(super) fn run(verb: &Verb) -> Result<ExitCode, Complaint> {
    let Verb::Verify(args) = verb;
    let keys = args.public_key.as_deref().map(PublicKeys::read).transpose()?;
    let report = verify(&args.directory, keys.as_ref())?;
    for problem in &report.problems {
        say_error(&problem.to_string());
    }
    say(&report.to_string())?;
    Ok(if report.is_intact() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
