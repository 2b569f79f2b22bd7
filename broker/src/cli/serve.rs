//! `keyferry serve`

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::{Complaint, ConfigFile};
use crate::app::{self, Broker};
use crate::clock::{SharedClock, SystemClock};
use crate::config::Config;
use crate::hardening;
use crate::telemetry::Telemetry;

const TELEMETRY_GRACE: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    let config = super::load(&args.config.path()?)?;
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
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let telemetry = Telemetry::start(&config.telemetry, &config.node.name, Arc::clone(&metrics))?;
        telemetry.install()?;
        hardening::report_panics(Arc::clone(&metrics));
        tracing::info!(open_files = hardened.open_files, "hardened: no core dumps, not traceable");
        // Before anything listens: a signal during the start must not go unheard.
        let stop = stop_signal()?;
        let broker = Broker::start(config, clock, metrics, telemetry.traces()).await?;
        ready(&broker)?;
        stop.await;
        broker.stop().await;
        if !telemetry.shutdown(TELEMETRY_GRACE).await {
            tracing::warn!("not everything reached the telemetry collector");
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "draining");
    })
}
