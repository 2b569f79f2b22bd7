//! `keyferry status`

mod json;
mod text;

use std::process::ExitCode;

use keyferry_proto::v1::{BrokerStatus, CircuitState, GetStatusRequest, HealthState, ProviderOperation};

use super::Complaint;
use super::connection::{Asking, block_on};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    asking: Asking,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    let status = block_on(async {
        let broker = args.asking.connect().await?;
        let answer = broker.ask(GetStatusRequest {}).await?;
        Ok::<BrokerStatus, Complaint>(answer.status.unwrap_or_default())
    })?;
    args.asking.tell(|| json::status(&status), || text::status(&status))?;
    Ok(ExitCode::SUCCESS)
}

fn health(health: HealthState) -> &'static str {
    match health {
        HealthState::Healthy => "healthy",
        HealthState::Degraded => "degraded",
        HealthState::Unhealthy => "unhealthy",
        HealthState::Unspecified => "unknown",
    }
}

fn circuit(circuit: CircuitState) -> Option<&'static str> {
    match circuit {
        CircuitState::Closed => Some("closed"),
        CircuitState::Open => Some("open"),
        CircuitState::HalfOpen => Some("half-open"),
        CircuitState::Unspecified => None,
    }
}

fn operation(operation: ProviderOperation) -> &'static str {
    match operation {
        ProviderOperation::Access => "access",
        ProviderOperation::Metadata => "metadata",
        ProviderOperation::Write => "write",
        ProviderOperation::Unspecified => "other",
    }
}
