//! `keyferry serve`

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Complaint, ConfigFile};
use crate::app::{self, Broker};
use crate::audit;
use crate::clock::{SharedClock, SystemClock};
use crate::config::Config;
use crate::hardening;
use crate::telemetry::Telemetry;

const TELEMETRY_GRACE: Duration = Duration::from_secs(3);
/// What the audit log gets to be closed in when the process was told twice to end.
const HURRIED_GRACE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    let config = super::load(&args.config.path()?)?;
    let problems: Vec<_> = config.check_files().iter().map(ToString::to_string).collect();
    if !problems.is_empty() {
        return Err(problems.join("\n").into());
    }
    run_until_signalled(config, |_| Ok(()))
}

/// Serves; `ready` runs once calls are answered.
pub(super) fn run_until_signalled(
    config: Config,
    ready: impl FnOnce(&Broker) -> Result<(), Complaint>,
) -> Result<ExitCode, Complaint> {
    let hardened = hardening::harden()?;
    let clock: SharedClock = Arc::new(SystemClock);
    let metrics = app::metrics(Arc::clone(&clock));
    // One of them may be waiting for the audit log's disk: the other still tells the time, and hears signals.
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let ended = runtime.block_on(async {
        let telemetry = Telemetry::start(&config.telemetry, &config.node.name, Arc::clone(&metrics))?;
        telemetry.install()?;
        hardening::report_panics(Arc::clone(&metrics));
        tracing::info!(open_files = hardened.open_files, "hardened: no core dumps, not traceable");
        // Before anything listens: a signal during the start must not go unheard.
        let mut signals = Signals::listen()?;
        let broker = Broker::start(config, clock, metrics, telemetry.traces()).await?;
        ready(&broker)?;
        let exit = tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal, "draining");
                ExitCode::SUCCESS
            }
            () = broker.failed() => ExitCode::FAILURE,
        };
        let log = broker.parts().log.clone();
        let orderly = async {
            broker.stop().await;
            if !telemetry.shutdown(TELEMETRY_GRACE).await {
                tracing::warn!("not everything reached the telemetry collector");
            }
            exit
        };
        tokio::select! {
            exit = orderly => Ok(exit),
            signal = signals.next() => {
                tracing::warn!(signal, "told again to stop: ending at once, calls under way are cut off");
                close_in_a_hurry(log).await;
                Ok(ExitCode::FAILURE)
            }
        }
    });
    // A thread that is stuck in the disk must not keep the process.
    runtime.shutdown_timeout(HURRIED_GRACE);
    ended
}

async fn close_in_a_hurry(log: audit::Log) {
    let closing = tokio::task::spawn_blocking(move || log.close());
    if tokio::time::timeout(HURRIED_GRACE, closing).await.is_err() {
        tracing::error!("the audit log was not closed in order; the next start will say what it found");
    }
}

/// The signals by which one is told to stop.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
