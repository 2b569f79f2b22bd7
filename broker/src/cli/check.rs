//! `keyferry check`: everything that would keep the broker from starting, said before it is tried.

use std::process::ExitCode;
use std::sync::Arc;

use super::{Complaint, ConfigFile, chain, say};
use crate::admission::Policies;
use crate::clock::SystemClock;
use crate::transport::Tls;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    let path = args.config.path()?;
    let config = super::load(&path)?;
    let mut problems: Vec<String> = config.check_files().iter().map(ToString::to_string).collect();
    if problems.is_empty() {
        problems.extend(
            Tls::load(&config.tls, Arc::new(SystemClock)).err().map(|error| format!("[tls] {}", chain(&error))),
        );
    }
    problems.extend(Policies::load(&config.policy.directory).err().map(|error| format!("[policy] {}", chain(&error))));
    if problems.is_empty() {
        say(&format!("{}: good", path.display()));
        return Ok(ExitCode::SUCCESS);
    }
    Err(problems.join("\n").into())
}
