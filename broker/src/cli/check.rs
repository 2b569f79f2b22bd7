//! `keyferry check`: everything that would keep the broker from starting, said before it is tried.

use std::process::ExitCode;
use std::sync::Arc;

use super::{Complaint, ConfigFile, chain, say};
use crate::admission::Policies;
use crate::app;
use crate::clock::SystemClock;
use crate::config::{Config, StoreSettings};
use crate::providers::local::LocalKey;
use crate::transport::Tls;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    let path = args.config.path()?;
    let config = super::load(&path)?;
    let problems = preflight(&config);
    if problems.is_empty() {
        say(&format!("{}: good", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    Err(problems.join("\n").into())
}

/// What `serve` would stumble over, all of it, without taking anything that a running broker holds.
pub(super) fn preflight(config: &Config) -> Vec<String> {
    let mut problems: Vec<String> = config.check_files().iter().map(ToString::to_string).collect();
    // Files that are missing or open to others have been named; reading them would only repeat it.
    if problems.is_empty() {
        problems.extend(
            Tls::load(&config.tls, Arc::new(SystemClock)).err().map(|error| format!("[tls] {}", chain(&error))),
        );
    }
    problems.extend(Policies::load(&config.policy.directory).err().map(|error| format!("[policy] {}", chain(&error))));
    problems.extend(app::left_out(config).iter().map(|error| chain(error)));
    for (name, store) in &config.stores {
        if let StoreSettings::Local(local) = store {
            problems
                .extend(LocalKey::read_file(&local.key_file).err().map(|error| format!("{name}: {}", chain(&error))));
        }
    }
    problems
}
